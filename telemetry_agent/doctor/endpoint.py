"""The endpoint: its name, a connection, its certificate, and what it answers to the agent."""

import errno
import ipaddress
import os
import secrets
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import Upload
from telemetry_agent.daemon.access import build_access
from telemetry_agent.doctor.endpoint_answers import Asked, authentication, judged
from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.doctor.permissions import Account, owner_of
from telemetry_agent.errors import ConfigError
from telemetry_agent.model import Batch, Fix, Record
from telemetry_agent.upload.formats.answers import with_words
from telemetry_agent.upload.formats.choice import choose
from telemetry_agent.upload.http.credentials import Access
from telemetry_agent.upload.http.dialer import Network
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import NoAnswer

_TCP_S = 4.0
_TLS_S = 4.0
_ANSWER_S = 5.0
_RENEW_DAYS = 14

# Of OpenSSL's X509_V_ERR_…
_NOT_YET, _EXPIRED = 9, 10
_UNKNOWN_ISSUER = {2, 18, 19, 20, 21}
_OTHER_NAME = {62, 64}
_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL}

Resolve = Callable[[str, int], list[Any]]
"""As ``socket.getaddrinfo``, for TCP."""


class Endpoint:
    """What ``upload.url`` names.

    Args:
        upload: the config.
        device: how the agent calls itself there.
        account: who runs the agent, and must be able to read the secrets. Asked when it is known.
        resolve: looks names up.
        clock: the machine's clocks.
        position: what to send there; nothing by default.
    """

    def __init__(
        self,
        upload: Upload,
        device: str,
        account: Callable[[], Account],
        *,
        resolve: Resolve,
        clock: Clock,
        position: Callable[[], Fix | None] = lambda: None,
    ) -> None:
        self._upload = upload
        self._device = device
        self._account = account
        self._access = Access()
        self._resolve = resolve
        self._clock = clock
        self._position = position
        self._host, self._port = upload.address
        self._addresses: list[Any] = []
        self._socket: socket.socket | None = None

    def credentials(self) -> Iterator[Finding]:
        """Can the agent read what it is to show there: ``credentials``."""
        upload, account = self._upload, self._account()
        keys = ("token_file", "password_file", "ca_file", "client_cert", "client_key")
        files = {key: path for key in keys if (path := getattr(upload, key)) is not None}
        try:
            self._access = build_access(upload, set())
            self._access.prepare()
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
        if "Authorization" in self._access.headers() and not shown:
            shown = ["a credential of the service"]
        said = f"readable: {', '.join(shown)}" if shown else "none are set"
        yield passed("credentials", said)

    def name(self) -> Iterator[Finding]:
        """What address has it: ``name``."""
        yield self._look_up()

    def tcp(self) -> Iterator[Finding]:
        """Does anybody take connections there: ``tcp``."""
        reasons: list[OSError] = []
        until_s = self._clock.monotonic_s() + _TCP_S
        for family, kind, protocol, _, address in self._addresses:
            left_s = max(0.1, until_s - self._clock.monotonic_s())
            try:
                self._socket = _connected(family, kind, protocol, address, left_s)
            except OSError as error:
                reasons.append(error)
                continue
            yield passed("tcp", f"{_peer(address)} takes connections")
            return
        yield self._unreached(reasons)

    def tls(self) -> Iterator[Finding]:
        """Does it prove who it is: ``tls``."""
        sock, self._socket = self._socket, None
        if sock is None:
            raise RuntimeError("there is no connection")
        with sock:
            if urlsplit(self._upload.url).scheme == "http":
                yield self._plain()
                return
            if self._upload.proxy:
                yield skipped("tls", "behind the proxy: see answer")
                return
            try:
                sock.settimeout(_TLS_S)
                with self._access.ssl_context().wrap_socket(
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
        network = Network(self._clock, self._resolve)
        transport = Transport(
            self._upload.url, access=self._access, proxy=self._upload.proxy, network=network
        )
        try:
            yield from asked(transport, self._upload, self._device, self._position())
        finally:
            transport.close()

    def _look_up(self) -> Finding:
        host = self._host
        literal = _is_address(host)
        try:
            self._addresses = self._resolve(host, self._port)
        except (UnicodeError, socket.gaierror) as error:
            if getattr(error, "errno", None) == socket.EAI_AGAIN:
                return failed("name", f"no name server tells the address of {host}", SERVERS)
            return failed(
                "name",
                f"there is no host {host}",
                "correct upload.url, or the name server's entry",
            )
        if literal:
            return passed("name", f"{host} is an address: no name to look up")
        found = dict.fromkeys(address[4][0] for address in self._addresses)
        return passed("name", f"{host} is {', '.join(found)}")

    def _unreached(self, errors: list[OSError]) -> Finding:
        peer = f"{self._host}:{self._port}"
        if any(isinstance(error, ConnectionRefusedError) for error in errors):
            return failed(
                "tcp",
                f"{peer} refuses connections",
                "start the server there, or correct the port in upload.url",
            )
        if errors and all(error.errno in _NO_ROUTE for error in errors):
            return failed(
                "tcp",
                f"there is no way to {peer}",
                "check the network: `ip route` shows ways, `nmcli` or `mmcli -m any` the modem",
            )
        if any(isinstance(error, TimeoutError) for error in errors):
            return failed(
                "tcp",
                f"{peer} does not answer",
                "a firewall may drop it, or the server is off: check the port, try from elsewhere",
            )
        words = errors[0].strerror if errors else "no address"
        return failed("tcp", f"no connection to {peer}: {words}", "check the network: `ip route`")

    def _plain(self) -> Finding:
        if _is_loopback(self._host):
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
            if not self._access.ssl_context().cert_store_stats()["x509_ca"]:
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
    transport: Transport, upload: Upload, device: str, position: Fix | None
) -> Iterator[Finding]:
    """Send one position, or none, in a stream of its own: ``authentication``, ``answer``."""
    stream = secrets.token_hex(8)
    records = () if position is None else (Record(stream, 1, device, position),)
    batch = Batch(0, stream, device, records, live=True)
    wire_format = choose(upload.format, upload.url, upload.username)
    payload = wire_format.encode(batch, compression=upload.compression)
    answer = transport.exchange(payload, min(_ANSWER_S, upload.timeout_s))
    if isinstance(answer, NoAnswer):
        yield skipped("authentication", "no answer")
        yield failed(
            "answer",
            transport.masked(answer.reason),
            "check that the endpoint works: its own log says more",
        )
        return
    outcome = with_words(wire_format.read(answer, batch), transport.masked)
    what = Asked(upload.format, device, position is not None)
    yield authentication(what, answer, outcome)
    yield judged(what, answer, outcome)


SERVERS = "check the network (`ip route`) and the name servers in /etc/resolv.conf"
TRUST = (
    "set upload.ca_file to the certificate of its CA, or of the server itself where it signed its "
    "own"
)


def _connected(
    family: int, kind: int, protocol: int, address: Any, timeout_s: float
) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(timeout_s)
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def _peer(address: Any) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _day(since_1970_s: float) -> str:
    return f"{datetime.fromtimestamp(since_1970_s, UTC):%Y-%m-%d}"
