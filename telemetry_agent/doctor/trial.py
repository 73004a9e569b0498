"""Sends the endpoint a request as the agent does; with ``--send``, what must be refused too."""

import contextlib
import gzip
import re
import secrets
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from telemetry_agent.addresses import Resolver
from telemetry_agent.config.settings import UploadSettings
from telemetry_agent.doctor.endpoint_answers import TrialRequest, authentication, judged, unanswered
from telemetry_agent.doctor.findings import Finding, passed, skipped, warned
from telemetry_agent.doctor.servers import server_by_root, server_by_url
from telemetry_agent.model import Answer, Batch, Delivered, Fix, Outcome, Payload, Record
from telemetry_agent.secrecy import secrets_in_url
from telemetry_agent.upload.formats.answers import masked_outcome, offers_gzip
from telemetry_agent.upload.formats.choice import choose
from telemetry_agent.upload.http.connection import Dialer
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import NoAnswer
from telemetry_agent.upload.sending import CompressionChoice

_ANSWER_S = 5.0
_HANDSHAKE_S = 2.0
_LATER = "try again later: nothing is lost"
_TABLE = re.compile(r"insert\s+into\s+(?:table\s+)?([\w.]+)", re.IGNORECASE)
_FORGETS = re.compile(r"(?!Replicated|Shared)\w*MergeTree(?!.*non_replicated_deduplication_window)")


class EndpointTrial(NamedTuple):
    """Requests to the endpoint of ``upload``, from the device of that name."""

    upload: UploadSettings
    device: str
    credentials: Credentials
    dialer: Dialer
    resolver: Resolver

    def ask(self, newest: Sequence[Record]) -> Iterator[Finding]:
        """Send the newest position that can be sent; without any, a request without a position.

        Returns:
            ``authentication``, ``answer``.
        """
        upload = self.upload
        wire_format = choose(upload.format, upload.url, upload.username)
        sent = [record for record in newest if wire_format.unfit(record) is None][:1]
        stream, device = secrets.token_hex(8), self.device
        if sent:
            stream, device = sent[0].stream, sent[0].device
        batch = Batch(0, stream, device, tuple(sent), live=True)
        compression = CompressionChoice(upload.compression, wire_format).choice(0)
        anonymous = not (self.credentials.headers() or secrets_in_url(upload.url))
        asked = TrialRequest(upload, device, bool(sent), anonymous)
        answer, *_ = self._exchange(wire_format.encode(batch, compression))
        if isinstance(answer, NoAnswer):
            yield from unanswered(asked, answer, speaks_tls=self._speaks_tls())
            return
        outcome = masked_outcome(wire_format.read(answer, batch), self.credentials.masked)
        asked = self._recognised(asked, outcome)
        yield authentication(asked, answer, outcome)
        found = judged(asked, answer, outcome)
        if upload.format == "clickhouse" and found.verdict == "pass":
            found = self._deduplication() or found
        yield found

    def proof(self, newest: Sequence[Record]) -> Finding:
        """``proof``: send two bodies that must be refused.

        An endpoint that accepts them may lose what it accepts.

        Args:
            newest: recorded positions, to compute what compression would save.
        """
        upload = self.upload
        wire_format = choose(upload.format, upload.url, upload.username)
        if wire_format.one_by_one:
            return skipped(f"a server of the format {upload.format} accepts anything")
        # Never sent: only the headers of its request are.
        record = Record(secrets.token_hex(8), 1, self.device, Fix(0, 0, 0))
        batch = Batch(0, record.stream, self.device, (record,), live=True)
        empty = wire_format.encode(batch, "none")
        nonsense = b"This is not a position, and must be refused. " * 4
        packed = {**empty.headers, "Content-Encoding": "gzip"}
        broken = Payload(gzip.compress(nonsense)[:-9], packed, True, empty.query)
        answers = self._exchange(replace(empty, body=nonsense), broken)
        for what, answer in zip(("nonsense", "a broken gzip body"), answers, strict=True):
            if isinstance(answer, NoAnswer):
                return warned(f"no answer to {what}: {answer.reason}", _LATER)
            if isinstance(wire_format.read(answer, batch), Delivered):
                return warned(
                    f"the endpoint accepts {what} ({answer.status}): its acceptance proves nothing",
                    "make it answer 400 to what it cannot read, or report the number of fixes that "
                    "it has as `received`; do not set upload.compression",
                )
        offers = any(isinstance(answer, Answer) and offers_gzip(answer) for answer in answers)
        said = "nonsense is refused"
        if offers or upload.compression == "gzip" or wire_format.unpacks:
            return passed(f"{said}, and gzip is unpacked")
        return passed(
            f"{said}; requests stay plain: {self._saved(newest)}; `Accept-Encoding: gzip` in an "
            "answer of the endpoint turns gzip on",
        )

    def _saved(self, newest: Sequence[Record]) -> str:
        """What gzip would save for this device's batches."""
        records = [record for record in newest if record.stream == newest[0].stream]
        if len(records) < 2:
            return "without recorded positions, what gzip would save is unknown"
        wire_format = choose(self.upload.format, self.upload.url, self.upload.username)
        batch = Batch(0, records[0].stream, records[0].device, tuple(records[::-1]), live=True)
        plain, packed = (
            len(wire_format.encode(batch, compression).body) for compression in ("none", "gzip")
        )
        return f"with gzip, the newest {len(records)} positions take {packed} bytes, not {plain}"

    def _exchange(self, *payloads: Payload, url: str = "") -> list[Answer | NoAnswer]:
        transport = Transport(
            url or self.upload.url,
            proxy=self.upload.proxy,
            credentials=self.credentials,
            dialer=self.dialer,
        )
        with contextlib.closing(transport):
            limit_s = min(_ANSWER_S, self.upload.timeout_s)
            answers = [transport.exchange(payload, limit_s) for payload in payloads]
        return [
            replace(answer, reason=self.credentials.masked(answer.reason))
            if isinstance(answer, NoAnswer)
            else answer
            for answer in answers
        ]

    def _recognised(self, asked: TrialRequest, outcome: Outcome) -> TrialRequest:
        """Add which server it is, if that can explain the answer."""
        upload = self.upload
        # Other servers answer 2xx to native and influx as well, so those are looked at even then.
        is_proven = isinstance(outcome, Delivered) and (
            outcome.counted or upload.format not in {"native", "influx"}
        )
        if is_proven or upload.proxy:
            return asked
        context = self.credentials.ssl_context() if upload.url.startswith("https:") else None
        if server := server_by_root(upload.url, context, self.resolver):
            return replace(asked, server=server, is_sure=True)
        root = urlsplit(upload.url)._replace(path="/", query="").geturl()
        return replace(asked, server=server_by_url(upload.url) or server_by_url(root))

    def _speaks_tls(self) -> bool:
        """Whether a server that does not answer plain http speaks TLS."""
        if self.upload.proxy or not self.upload.url.startswith("http:"):
            return False
        try:
            ssl.get_server_certificate(self.upload.address, timeout=_HANDSHAKE_S)
        except OSError:
            return False
        return True

    def _deduplication(self) -> Finding | None:
        """The fault if ClickHouse's table stores a repeated batch twice; ``None``: none known."""
        parts = urlsplit(self.upload.url)
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
        if not _FORGETS.match(answer.body.decode("utf-8", "replace")):
            return None
        return warned(
            f"accepted, but the table {table[1]} stores a repeated batch twice",
            f"`ALTER TABLE {table[1]} MODIFY SETTING non_replicated_deduplication_window = 10000`",
        )
