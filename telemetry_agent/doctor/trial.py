"""Sends the endpoint a request as the agent does; with ``--send``, what must be refused too.

What an answer means is decided by the formats of ``upload``. Here it gets a remedy: each kind of
server refuses in its own way.
"""

import contextlib
import gzip
import re
import secrets
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import replace
from urllib.parse import parse_qsl, urlencode, urlsplit

from telemetry_agent.config.settings import UploadSettings
from telemetry_agent.doctor.agent_checks import Machine
from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.doctor.servers import SERVERS, server_by_root, server_by_url, usual
from telemetry_agent.model import (
    Answer,
    Batch,
    Deferred,
    Delivered,
    Fix,
    Held,
    Outcome,
    Payload,
    Record,
    Refused,
)
from telemetry_agent.secrecy import secrets_in_url
from telemetry_agent.upload.formats.answers import masked_outcome, offers_gzip
from telemetry_agent.upload.formats.choice import choose, is_webhook
from telemetry_agent.upload.formats.clickhouse import exception_code
from telemetry_agent.upload.formats.osmand import identifier_in
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.dialer import Dialer
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import NoAnswer
from telemetry_agent.upload.quoting import said_by
from telemetry_agent.upload.sending import CompressionChoice

_ANSWER_S = 5.0
_HANDSHAKE_S = 2.0
_TABLE = re.compile(r"insert\s+into\s+(?:table\s+)?([\w.]+)", re.IGNORECASE)
_FORGETS = re.compile(r"(?!Replicated|Shared)\w*MergeTree(?!.*non_replicated_deduplication_window)")

_CREDENTIALS = {
    401: "the endpoint does not accept the credentials",
    403: "the endpoint does not allow this device",
    407: "a proxy requires credentials",
}
_CLICKHOUSE_CREDENTIALS = {192, 193, 194, 195, 497, 516}
_CLICKHOUSE_UNKNOWN_SETTING = 115
_WANTS_TLS = (
    b"HTTPS port",  # nginx
    b"HTTP request to an HTTPS server",  # Go
    b"SSL-enabled server port",  # Apache
    b"host and port requires TLS",  # Tomcat
)

_CREDENTIALS_REMEDIES = {
    "overland": "put Dawarich's API key into upload.token_file",
    "influx": "InfluxDB 2 and 3 need upload.token_file, InfluxDB 1 needs upload.username and "
    "upload.password_file",
    "clickhouse": "correct upload.username and upload.password_file, and grant it INSERT",
    "owntracks": "correct upload.username and upload.password_file",
}
_ADDRESS_REMEDIES = {
    "overland": "correct upload.url: it ends in /api/v1/overland/batches for Dawarich, in "
    "/apps/phonetrack/log/overland/TOKEN/NAME for PhoneTrack",
    "owntracks": "correct upload.url: it ends in /pub for the Recorder, in /api/webhook/ID for "
    "Home Assistant",
    "gpslogger": "set upload.url to the address that Home Assistant's integration GPSLogger shows",
    "influx": "create the database or bucket that upload.url names, or correct it",
    "clickhouse": "create the table as in docs/servers.md, or correct upload.url",
}
_USE_TLS = "write https:// in upload.url, with the endpoint's port for https"
_TRY_ONE = "`sudo telemetry-agent doctor --send` sends the newest recorded position"


class EndpointTrial:
    """Requests to the endpoint of ``upload``, from the device of that name."""

    def __init__(
        self, upload: UploadSettings, device: str, credentials: Credentials, machine: Machine
    ) -> None:
        self._upload = upload
        self._device = device
        self._credentials = credentials
        self._dialer = Dialer(machine.clock, machine.resolve)
        self._format = choose(upload.format, upload.url, upload.username)
        self._proxy = urlsplit(upload.proxy).netloc.rpartition("@")[2]
        self._has_position = False
        self._server: str | None = None
        """Which of ``SERVERS`` answers, by its page at the root, or else by the URL."""
        self._is_sure = False
        """Whether its page shows it."""

    def ask(self, newest: Sequence[Record]) -> Iterator[Finding]:
        """Send the newest position that can be sent; without any, a request without a position.

        Returns:
            ``authentication``, ``answer``.
        """
        sent = [record for record in newest if self._format.unfit(record) is None][:1]
        self._has_position = bool(sent)
        stream = secrets.token_hex(8)
        if sent:
            stream, self._device = sent[0].stream, sent[0].device
        batch = Batch(0, stream, self._device, tuple(sent), live=True)
        compression = CompressionChoice(self._upload.compression, self._format).choice(0)
        answer, *_ = self._exchange(self._format.encode(batch, compression))
        if isinstance(answer, NoAnswer):
            yield from self._unanswered(answer)
            return
        outcome = masked_outcome(self._format.read(answer, batch), self._credentials.masked)
        self._recognise(outcome)
        yield self._authentication(answer, outcome)
        yield self._judged(answer, outcome)

    def proof(self) -> Finding:
        """``proof``: send two bodies that must be refused.

        An endpoint that accepts them may lose what it accepts.
        """
        upload, wire_format = self._upload, self._format
        if wire_format.one_by_one:
            return skipped(f"a server of the format {upload.format} accepts anything")
        # Never sent: only the headers of its request are.
        record = Record(secrets.token_hex(8), 1, self._device, Fix(0, 0, 0))
        batch = Batch(0, record.stream, self._device, (record,), live=True)
        empty = wire_format.encode(batch, "none")
        nonsense = b"This is not a position, and must be refused. " * 4
        packed = {**empty.headers, "Content-Encoding": "gzip"}
        broken = Payload(gzip.compress(nonsense)[:-9], packed, True, empty.query)
        answers = self._exchange(replace(empty, body=nonsense), broken)
        for what, answer in zip(("nonsense", "a broken gzip body"), answers, strict=True):
            if isinstance(answer, NoAnswer):
                said = self._credentials.masked(f"no answer to {what}: {answer.reason}")
                return warned(said, "try again later: nothing is lost")
            if isinstance(wire_format.read(answer, batch), Delivered):
                return warned(
                    f"the endpoint accepts {what} ({answer.status}): its acceptance proves nothing",
                    "make it answer 400 to what it cannot read, or report the number of fixes that "
                    "it has as `received`; do not set upload.compression",
                )
        offers = any(isinstance(answer, Answer) and offers_gzip(answer) for answer in answers)
        said = "nonsense is refused"
        if offers or upload.compression == "gzip" or wire_format.gzip == "always":
            return passed(f"{said}, and gzip is unpacked")
        return passed(
            f"{said}; requests stay plain: `Accept-Encoding: gzip` in an answer of the endpoint "
            "turns gzip on, which saves about two thirds of the bytes"
        )

    def _exchange(self, *payloads: Payload, url: str = "") -> list[Answer | NoAnswer]:
        transport = Transport(
            url or self._upload.url,
            proxy=self._upload.proxy,
            credentials=self._credentials,
            dialer=self._dialer,
        )
        limit_s = min(_ANSWER_S, self._upload.timeout_s)
        with contextlib.closing(transport):
            return [transport.exchange(payload, limit_s) for payload in payloads]

    def _unanswered(self, answer: NoAnswer) -> Iterator[Finding]:
        if answer.proxy_status in {403, 407}:
            yield self._proxy_refuses(answer.proxy_status)
            yield skipped("needs authentication")
            return
        if self._speaks_tls():
            answer = replace(answer, reason=f"this port speaks TLS ({answer.reason})", speaks="tls")
        yield skipped("no answer")
        yield failed(self._credentials.masked(answer.reason), remedy_of(answer))

    def _speaks_tls(self) -> bool:
        """Whether a server that does not answer plain http speaks TLS."""
        if self._proxy or not self._upload.url.startswith("http:"):
            return False
        try:
            ssl.get_server_certificate(self._upload.address, timeout=_HANDSHAKE_S)
        except OSError:
            return False
        return True

    def _recognise(self, outcome: Outcome) -> None:
        """Find out which server it is, if that can explain the answer."""
        upload = self._upload
        # Other servers answer 2xx to native and influx as well, so those are looked at even then.
        is_proven = isinstance(outcome, Delivered) and (
            outcome.counted or upload.format not in {"native", "influx"}
        )
        if is_proven or self._proxy:
            return
        credentials = self._credentials.without_headers()
        if server := server_by_root(upload.url, credentials, self._dialer):
            self._server, self._is_sure = server, True
        else:
            root = urlsplit(upload.url)._replace(path="/", query="").geturl()
            self._server = server_by_url(upload.url) or server_by_url(root)

    def _authentication(self, answer: Answer, outcome: Outcome) -> Finding:
        """``authentication``: are the credentials accepted."""
        status, upload = answer.status, self._upload
        if self._proxy and status == 407:
            return self._proxy_refuses(status)
        said = self._rejected(answer)
        if said is None:
            if isinstance(outcome, Delivered):
                return passed("accepted")
            return skipped(f"the answer {status} does not show whether they are accepted")
        remedy = "correct the credentials under [upload]"
        if status == 401 and not (self._credentials.headers() or secrets_in_url(upload.url)):
            said = "the endpoint requires credentials, and none are set"
            remedy = "set upload.token_file, or upload.username and upload.password_file"
        remedy = _CREDENTIALS_REMEDIES.get(upload.format, remedy)
        if quote := self._credentials.masked(said_by(answer)):
            said += f" (it says: {quote})"
        if self._proxy and status == 403 and upload.url.startswith("http:"):
            # Without TLS the proxy reads the request, and its answer looks like the endpoint's.
            said += f", or the proxy {self._proxy} does not let this device through to it"
        return failed(
            f"{status}: {said}",
            f"{remedy} (a restart reads those in /etc/credstore: "
            "`sudo systemctl restart telemetry-agent`; doctor sees them only with sudo, while the "
            "service runs)",
        )

    def _rejected(self, answer: Answer) -> str | None:
        """That the answer rejects the credentials or the device; ``None``: it does not."""
        if (
            self._upload.format == "clickhouse"
            and exception_code(answer) in _CLICKHOUSE_CREDENTIALS
        ):
            return "ClickHouse does not accept the user"
        return _CREDENTIALS.get(answer.status)

    def _proxy_refuses(self, status: int) -> Finding:
        if status == 403:
            return failed(
                f"403: the proxy {self._proxy} does not let this device through to the endpoint",
                f"allow {urlsplit(self._upload.url).netloc} in the proxy, or correct upload.proxy",
            )
        remedy = (
            f'set upload.proxy = "http://USER@{self._proxy}" and upload.proxy_password_file to a '
            "file with the password"
        )
        if self._upload.proxy_password_file:
            remedy = "correct the user in upload.proxy, and upload.proxy_password_file"
        return failed(f"407: the proxy {self._proxy} requires credentials", remedy)

    def _judged(self, answer: Answer, outcome: Outcome) -> Finding:
        """``answer``: would it accept positions."""
        status = answer.status
        if answer.headers.get("location", "").startswith("https://") or any(
            words in answer.body for words in _WANTS_TLS
        ):
            return failed(f"{status}: the endpoint expects https", _USE_TLS)
        if isinstance(outcome, Delivered):
            return self._accepted(outcome, status)
        if self._rejected(answer):
            return skipped("needs authentication")
        if isinstance(outcome, Deferred) and status >= 400:
            remedy = (
                "nothing is lost, the agent tries again; if it stays so, look at the endpoint's log"
            )
            if status in {502, 504}:
                remedy = (
                    f"the endpoint behind {_web_server(answer) or 'the web server'} does not run, "
                    "or listens elsewhere: start it, or correct proxy_pass"
                )
            return warned(outcome.reason, remedy)
        return self._wrong_address(answer, outcome.reason) or self._refused(answer, outcome)

    def _accepted(self, outcome: Delivered, status: int) -> Finding:
        url = self._upload.url
        paths = {"", *(server.path.rstrip("/") for server in SERVERS.values())}
        at_its_path = urlsplit(url).path.rstrip("/") in paths or is_webhook(url)
        # At its own address that server accepts what it does not understand, and stores nothing.
        is_native = self._upload.format == "native" and not outcome.counted
        if self._is_sure and is_native and at_its_path:
            return failed(
                f"{status}, but the server there is {self._server}, which stores nothing in the "
                "format native",
                f"for {self._other_settings()}",
            )
        if self._upload.format == "clickhouse" and (table := self._forgetful_table()):
            return warned(
                f"accepted, but the table {table} stores a repeated batch twice",
                f"`ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 10000`",
            )
        return passed(f"{status}: {'a position was ' if self._has_position else ''}accepted")

    def _forgetful_table(self) -> str | None:
        """ClickHouse's table, if it stores a repeated batch twice; ``None``: not known."""
        parts = urlsplit(self._upload.url)
        query = dict(parse_qsl(parts.query))
        table = _TABLE.match(query.get("query", "INSERT INTO fixes").strip())
        if table is None:
            return None
        database, _, name = table[1].rpartition(".")
        where = f"'{database}'" if database else "currentDatabase()"
        sql = f"SELECT engine_full FROM system.tables WHERE database = {where} AND name = '{name}'"  # noqa: S608 - \\w only
        kept = [pair for pair in query.items() if pair[0] in {"database", "user", "password"}]
        url = parts._replace(query=urlencode(kept)).geturl()
        answer, *_ = self._exchange(Payload(sql.encode(), {}), url=url)
        if isinstance(answer, NoAnswer) or answer.status != 200:
            return None  # the user may not read system tables, which is fine
        return table[1] if _FORGETS.match(answer.body.decode("utf-8", "replace")) else None

    def _wrong_address(self, answer: Answer, reason: str) -> Finding | None:
        """The fault if another server answers than the config is for, or at another path."""
        if answer.status == 413:
            what = "with one position" if self._has_position else "without a position"
            limit = "raise the limit there (client_max_body_size in nginx)"
            return failed(f"413: a request {what} is too large", limit)
        if other_settings := self._other_settings():
            looks = "the server there is" if self._is_sure else "by its URL the server is"
            return failed(f"{reason}; {looks} {self._server}", f"for {other_settings}")
        if web := _web_server(answer):
            return failed(
                f"{answer.status}: {web} itself answers, and nothing is configured for this path",
                f"correct the path of upload.url, or add a location with proxy_pass to {web}",
            )
        return None

    def _other_settings(self) -> str | None:
        """What to set instead if that server needs other settings; ``None``: nothing."""
        if self._server is None:
            return None
        upload, server = self._upload, SERVERS[self._server]
        url = usual(self._server, upload.url)
        # Home Assistant has an integration for OwnTracks, too.
        suits = upload.format == "owntracks" and is_webhook(upload.url)
        if server.format != upload.format and not suits:
            return f'{self._server}: set upload.format = "{server.format}" and upload.url = "{url}"'
        path = server.path.rstrip("/")
        if self._is_sure and path and path != urlsplit(upload.url).path.rstrip("/"):
            return f'{self._server}: set upload.url = "{url}"'
        return None

    def _refused(self, answer: Answer, outcome: Refused | Held | Deferred) -> Finding:
        reason, format_ = outcome.reason, self._upload.format
        is_osmand = format_ == "osmand"
        identifier = identifier_in(self._upload.url) or self._device
        remedy = _ADDRESS_REMEDIES.get(
            format_,
            f"correct upload.url: the server there is not an endpoint of the format {format_}",
        )
        match outcome:
            case Deferred(state="portal"):
                remedy = (
                    "log in to this network's portal with a browser, use another network, or "
                    "correct upload.url"
                )
            case Refused() if self._has_position and is_osmand:
                remedy = (
                    f"add a device with the identifier {identifier} in Traccar, or put another "
                    "device's identifier into upload.url (?id=…)"
                )
            case Refused() if self._has_position:
                reason = f"a position is refused ({reason})"
            case Refused() if is_osmand:
                said = (
                    "400, Traccar's answer to a request without a device; only a position shows "
                    f"whether it knows the device {identifier}"
                )
                return warned(said, _TRY_ONE)
            case Refused():
                return warned(
                    f"a batch without positions is refused ({reason})",
                    f"only a position shows whether this endpoint accepts them: {_TRY_ONE}",
                )
            case _ if exception_code(answer) == _CLICKHOUSE_UNKNOWN_SETTING:
                remedy = "the agent needs ClickHouse 22.2 or newer: upgrade it"
        return failed(reason, remedy)


def remedy_of(answer: NoAnswer) -> str:
    """What to do where no HTTP comes from the endpoint."""
    if answer.refuses_certificate:
        return (
            "set upload.client_cert and upload.client_key to a certificate that it accepts, or "
            "renew yours"
        )
    if answer.proxy_status:
        return "check upload.proxy, and whether that proxy lets this device through"
    match answer.speaks:
        case "http":
            return "write http:// in upload.url, or the endpoint's port for https"
        case "tls":
            return _USE_TLS
        case "other":
            return "correct the port in upload.url: another service listens there"
        case None:
            return (
                "check that the endpoint works (its own log shows more), and the port in "
                "upload.url: it may expect https:// or http://, allow other versions of TLS, or "
                "require a client certificate (upload.client_cert)"
            )


def _web_server(answer: Answer) -> str | None:
    """The web server that answered with its own page, instead of the endpoint behind it."""
    name = answer.headers.get("server", "").partition("/")[0].lower()
    own = answer.body.lstrip().startswith(b"<") or not answer.body
    return name if name in {"nginx", "openresty", "caddy", "apache"} and own else None
