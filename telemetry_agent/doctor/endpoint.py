"""The endpoint: its name, a connection, its certificate, and what it answers to the agent."""

import gzip
import os
import secrets
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from socket import socket
from urllib.parse import urlsplit

from telemetry_agent.addresses import (
    Address,
    Resolve,
    Resolver,
    UnreachableError,
    is_literal,
    is_loopback,
    look_up_error,
)
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import UploadSettings
from telemetry_agent.connecting import Connecting
from telemetry_agent.daemon.builders import build_credentials
from telemetry_agent.doctor.agent_checks import AgentChecks
from telemetry_agent.doctor.endpoint_answers import Asked, authentication, judged
from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.doctor.permissions import owner_of
from telemetry_agent.errors import ConfigError
from telemetry_agent.model import Batch, Delivered, Fix, Payload, Record
from telemetry_agent.tasks import Bell
from telemetry_agent.upload.compression import CompressionChoice
from telemetry_agent.upload.formats.answers import offers_gzip, with_words
from telemetry_agent.upload.formats.choice import choose
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.dialer import Dialer
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import NoAnswer

_TCP_S = 4.0
_TLS_S = 4.0
_ANSWER_S = 5.0
_RENEW_DAYS = 14
_LATER = "try again later: nothing is lost"

# Of OpenSSL's X509_V_ERR_…
_NOT_YET, _EXPIRED = 9, 10
_UNKNOWN_ISSUER = {2, 18, 19, 20, 21}
_OTHER_NAME = {62, 64}

CREDENTIALS = "/run/credentials/telemetry-agent.service"
"""Where systemd keeps those of the service while that runs."""


class EndpointChecks:
    """What ``upload.url`` names.

    Args:
        upload: the config.
        device: how the agent calls itself there.
        agent: must be able to read the secrets.
        resolve: looks names up.
        clock: the machine's clocks.
        position: what to send there; nothing by default.
        send: also what must be refused.
    """

    def __init__(
        self,
        upload: UploadSettings,
        device: str,
        agent: AgentChecks,
        *,
        resolve: Resolve,
        clock: Clock,
        position: Callable[[], Fix | None] = lambda: None,
        send: bool = False,
    ) -> None:
        self._upload = upload
        self._device = device
        self._agent = agent
        self._is_blind = False  # the secrets cannot be seen, so no answer is judged by them
        self._credentials = Credentials()
        self._resolve = resolve
        self._clock = clock
        self._position = position
        self._send = send
        self._host, self._port = upload.address
        self._addresses: list[Address] = []
        self._socket: socket | None = None

    def credentials(self) -> Iterator[Finding]:
        """Can the agent read what it is to show there: ``credentials``."""
        upload, account = self._upload, self._agent.account
        keys = ("token_file", "password_file", "ca_file", "client_cert", "client_key")
        files = {key: path for key in keys if (path := getattr(upload, key)) is not None}
        for key, path in files.items():
            if (hidden := self._agent.hides(path)) is not None:
                yield failed(
                    "credentials",
                    f"the service does not see upload.{key}: {path} ({hidden} is hidden from it)",
                    f"`sudo install -o {account.name} -m 600 {path} /etc/telemetry-agent/`, and "
                    f'set upload.{key} = "/etc/telemetry-agent/{path.name}"',
                )
                return
        unseen = [key for key, path in files.items() if _is_forbidden(path)]
        if self._agent.cannot_judge() and (unseen or _is_forbidden(Path(CREDENTIALS))):
            self._is_blind = True
            what = f"upload.{unseen[0]}" if unseen else "the service's credentials"
            yield warned("credentials", f"no permission to see {what}", "use sudo")
            return
        try:
            self._credentials = build_credentials(upload, set())
            self._credentials.prepare()
            for key, path in files.items():
                if not account.may(path, os.R_OK):
                    yield failed(
                        "credentials",
                        f"{account.name} may not read upload.{key}: {path} ({owner_of(path)})",
                        f"`sudo chown {account.name}: {path}`",
                    )
                    return
        except ConfigError as error:
            remedy = "correct it, or use sudo" if os.geteuid() else "correct it"
            yield failed("credentials", str(error).removeprefix("config: "), remedy)
            return
        shown = list(files) + [key for key in ("username", "headers") if getattr(upload, key)]
        if "Authorization" in self._credentials.headers() and not shown:
            shown = ["a credential of the service"]
        said = f"readable: {', '.join(shown)}" if shown else "none are set"
        yield passed("credentials", said)

    def name(self) -> Iterator[Finding]:
        """What address has it: ``name``."""
        yield self._look_up()

    def tcp(self) -> Iterator[Finding]:
        """Does anybody take connections there: ``tcp``."""
        connecting = Connecting(
            Resolver(lambda _host, _port: self._addresses),
            self._host,
            self._port,
            self._clock.monotonic_s(),
            connect_s=_TCP_S,
        )
        try:
            self._socket = connecting.run(self._clock, Bell().wait)
        except UnreachableError as error:
            yield self._unreached(error)
        else:
            peer = Address(self._socket.family, self._socket.getpeername())
            yield passed("tcp", f"{peer} takes connections")

    def tls(self) -> Iterator[Finding]:
        """Does it prove who it is: ``tls``."""
        sock, self._socket = self._socket, None
        if not isinstance(sock, socket):
            raise TypeError("there is no connection")
        with sock:
            if urlsplit(self._upload.url).scheme == "http":
                yield self._plain()
                return
            if self._upload.proxy:
                yield skipped("tls", "behind the proxy: see answer")
                return
            try:
                sock.settimeout(_TLS_S)
                with self._credentials.ssl_context().wrap_socket(
                    sock, server_hostname=self._host
                ) as tls:
                    yield self._certified(tls)
            except ssl.SSLCertVerificationError as error:
                yield self._not_trusted(error)
            except TimeoutError:
                yield failed(
                    "tls",
                    f"{self._host}:{self._port} says nothing",
                    "check that its server speaks TLS on this port, and whether a firewall is on "
                    "the way",
                )
            except OSError as error:  # SSLError is one
                words = (getattr(error, "reason", None) or error.strerror or str(error)).lower()
                yield failed(
                    "tls",
                    f"no TLS there: {words.replace('_', ' ')}",
                    "check scheme and port of upload.url: this port may speak plain http",
                )

    def ask(self) -> Iterator[Finding]:
        """Send a batch without any position, or with one: ``authentication``, ``answer``."""
        dialer = Dialer(self._clock, self._resolve)
        transport = Transport(
            self._upload.url, credentials=self._credentials, proxy=self._upload.proxy, dialer=dialer
        )
        try:
            for finding in asked(transport, self._upload, self._device, self._position()):
                blind = self._is_blind and finding.verdict == "fail"
                yield self._unjudged(finding.name) if blind else finding
            if self._send:
                yield proof(transport, self._upload, self._device)
            else:
                yield skipped("proof", "`telemetry-agent doctor --send` sends what must be refused")
        finally:
            transport.close()

    def _unjudged(self, name: str) -> Finding:
        status = self._agent.status
        said = "" if status is None else f"; the agent reports: uploads {status.upload.state}"
        return skipped(name, f"not judged without the secrets, which sudo can see{said}")

    def _look_up(self) -> Finding:
        host = self._host
        try:
            self._addresses = self._resolve(host, self._port)
        except (OSError, UnicodeError) as error:
            failure = look_up_error(host, error)
            if failure.kind == "no-name":
                remedy = "correct upload.url, or the name server's entry"
                return failed("name", f"there is no host {host}", remedy)
            return failed("name", str(failure), SERVERS)
        if is_literal(host):
            return passed("name", f"{host} is an address: no name to look up")
        found = dict.fromkeys(address.sockaddr[0] for address in self._addresses)
        return passed("name", f"{host} is {', '.join(found)}")

    def _unreached(self, error: UnreachableError) -> Finding:
        peer = f"{self._host}:{self._port}"
        if error.kind == "refused":
            remedy = "start the server there, or correct the port in upload.url"
            return failed("tcp", f"{peer} refuses connections", remedy)
        if error.kind == "no-route":
            return failed(
                "tcp",
                str(error),
                "check the network: `ip route` shows routes, `nmcli` or `mmcli -m any` the modem",
            )
        if error.kind == "silent":
            return failed(
                "tcp",
                f"{peer} does not answer",
                "a firewall may drop it, or the server is off: check the port, try from elsewhere",
            )
        return failed("tcp", str(error), "check the network: `ip route`")

    def _plain(self) -> Finding:
        if is_loopback(self._host):
            return skipped("tls", "plain http to this machine")
        return warned(
            "tls",
            "plain http: everyone on the way can read the positions and take the server's place",
            "use https in upload.url",
        )

    def _certified(self, tls: ssl.SSLSocket) -> Finding:
        ends = str((tls.getpeercert() or {}).get("notAfter", ""))
        said = f"{tls.version()}, certificate trusted"
        if not ends:
            return passed("tls", said)
        left_s = ssl.cert_time_to_seconds(ends) - self._clock.wall_ms() / 1000
        said += f" until {_day(ssl.cert_time_to_seconds(ends))}"
        if left_s > _RENEW_DAYS * 86400:
            return passed("tls", said)
        return warned("tls", f"{said}, {left_s / 86400:.0f} days", "renew the server's certificate")

    def _not_trusted(self, error: ssl.SSLCertVerificationError) -> Finding:
        words = error.verify_message.rstrip(".")
        if error.verify_code in {_NOT_YET, _EXPIRED}:
            today = _day(self._clock.wall_ms() // 1000)
            return failed(
                "tls",
                f"{words}; this machine's clock says {today}",
                "set the clock if that is wrong (`sudo timedatectl set-ntp true`); else renew the "
                "server's certificate",
            )
        if error.verify_code in _OTHER_NAME:
            return failed(
                "tls",
                f"the certificate is for another name: {words}",
                "use the certificate's name in upload.url, or get one for this name",
            )
        if error.verify_code in _UNKNOWN_ISSUER:
            if not self._credentials.ssl_context().cert_store_stats()["x509_ca"]:
                return failed(
                    "tls",
                    "this machine trusts no certificate at all",
                    "`sudo apt install ca-certificates`",
                )
            return failed(
                "tls",
                f"certificate not trusted: {words}",
                TRUST,
            )
        return failed("tls", f"certificate not trusted: {words}", TRUST)


def asked(
    transport: Transport, upload: UploadSettings, device: str, position: Fix | None
) -> Iterator[Finding]:
    """Send one position, or none, in a stream of its own: ``authentication``, ``answer``."""
    stream = secrets.token_hex(8)
    records = () if position is None else (Record(stream, 1, device, position),)
    batch = Batch(0, stream, device, records, live=True)
    wire_format = choose(upload.format, upload.url, upload.username)
    compression = CompressionChoice(upload.compression, wire_format).choice(0)
    payload = wire_format.encode(batch, compression=compression)
    answer = transport.exchange(payload, min(_ANSWER_S, upload.timeout_s))
    if isinstance(answer, NoAnswer):
        yield skipped("authentication", "no answer")
        yield failed(
            "answer",
            transport.masked(answer.reason),
            "check upload.proxy, and whether it lets this device through to the endpoint"
            if upload.proxy and "proxy" in answer.reason
            else "check that the endpoint works: its own log says more; if this port speaks TLS, "
            "write https:// in upload.url",
        )
        return
    outcome = with_words(wire_format.read(answer, batch), transport.masked)
    what = Asked(upload.format, device, position is not None)
    yield authentication(what, answer, outcome)
    yield judged(what, answer, outcome)


def proof(transport: Transport, upload: UploadSettings, device: str) -> Finding:
    """Send two bodies that must be refused: whether a yes of the endpoint proves anything."""
    name = "proof"
    wire_format = choose(upload.format, upload.url, upload.username)
    if wire_format.one_by_one:
        return skipped(name, f"a server of the format {upload.format} says yes to anything")
    record = Record(secrets.token_hex(8), 1, device, Fix(0, 0, 0))
    batch = Batch(0, record.stream, device, (record,), live=True)
    headers = wire_format.encode(batch, compression="none").headers
    nonsense = b"This is no position, and must be refused. " * 4
    broken = Payload(
        gzip.compress(nonsense)[:-9], {**headers, "Content-Encoding": "gzip"}, compressed=True
    )
    offers = False
    for what, payload in (
        ("nonsense", Payload(nonsense, headers)),
        ("a broken gzip body", broken),
    ):
        answer = transport.exchange(payload, min(_ANSWER_S, upload.timeout_s))
        if isinstance(answer, NoAnswer):
            return warned(name, f"no answer to {what}: {transport.masked(answer.reason)}", _LATER)
        offers = offers or offers_gzip(replace(answer, status=200))  # also beside a refusal
        if isinstance(wire_format.read(answer, batch), Delivered):
            return warned(
                name,
                f"the endpoint answers {answer.status} to {what}: its yes proves nothing",
                "make it answer 400 to what it cannot read, or `received` with the number of "
                "fixes that it has; leave upload.compression alone",
            )
    said = "nonsense is refused"
    if offers or upload.compression == "gzip" or wire_format.unpacks:
        return passed(name, f"{said}, and gzip is unpacked")
    return passed(
        name,
        f"{said}; requests stay plain: `Accept-Encoding: gzip` in its answers offers compression, "
        "which makes requests three to ten times smaller",
    )


def _is_forbidden(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(path, os.R_OK)


SERVERS = "check the network (`ip route`) and the name servers in /etc/resolv.conf"
TRUST = (
    "set upload.ca_file to the certificate of its CA, or of the server itself where it signed its "
    "own"
)


def _day(since_1970_s: float) -> str:
    return f"{datetime.fromtimestamp(since_1970_s, UTC):%Y-%m-%d}"
