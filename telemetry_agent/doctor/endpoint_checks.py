"""The endpoint: credentials, its name, a connection, its certificate, and its answers."""

import contextlib
import os
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from telemetry_agent.addresses import Address, Resolver, UnreachableError, is_literal, is_loopback
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import UploadSettings
from telemetry_agent.connecting import Connecting
from telemetry_agent.daemon.delivery import build_credentials
from telemetry_agent.doctor.agent_checks import AgentChecks
from telemetry_agent.doctor.findings import (
    Finding,
    failed,
    guarded,
    in_turn,
    passed,
    skipped,
    warned,
)
from telemetry_agent.doctor.permissions import EVERYBODY, owner_of
from telemetry_agent.doctor.trial import EndpointTrial, remedy_of
from telemetry_agent.errors import ConfigError, counted, in_shell
from telemetry_agent.fields import rfc3339
from telemetry_agent.model import Record
from telemetry_agent.secrecy import SERVICE_CREDENTIALS
from telemetry_agent.tasks import Bell
from telemetry_agent.upload.http.connection import WRONG_TIME, Connection
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.dialer import Dialer, NetworkError

_UNREACHED = {
    "refused": "start the server there, or correct the port in {key}",
    "no-route": "check the network: `ip route` shows routes, `mmcli -m any` the modem",
    "silent": "a firewall may drop it, or the server is off: check the port, try from another "
    "network",
}
_UNJUDGED = skipped("not judged without the secrets, which sudo can read")
_TCP_S = 4.0
_TLS_S = 4.0
_RENEW_DAYS = 14

# Of OpenSSL's X509_V_ERR_…
_OTHER_NAME = {62, 64}

_SECRET_KEYS = ("token_file", "password_file", "client_key", "proxy_password_file")

NAMES = ("credentials", "name", "tcp", "tls", "authentication", "answer", "proof")


class EndpointChecks:
    """What ``upload.url`` names.

    Args:
        upload: the config.
        device: how the agent calls itself there.
        agent: must be able to read the secrets.
        newest: the newest recorded fixes, to send one of them, and requests that must be refused;
            ``None``: send neither.
    """

    def __init__(
        self,
        upload: UploadSettings,
        device: str,
        agent: AgentChecks,
        newest: Callable[[], Sequence[Record]] | None = None,
    ) -> None:
        self._upload = upload
        self._device = device
        self._agent = agent
        self._newest = newest
        self._lacks_secrets = False  # without them, no refusal is the endpoint's fault
        self._credentials = Credentials()
        self._resolver = Resolver(agent.machine.resolve)
        self._host, self._port = upload.address
        self._key = "upload.proxy" if upload.proxy else "upload.url"
        self._dialer = Dialer(agent.machine.clock)
        self._connection: Connection
        """Made by ``tcp``."""

    def check(self) -> Iterator[Finding]:
        """What ``NAMES`` lists."""
        credentials = guarded(self._readable)
        yield credentials
        if not (yield from in_turn(self._name, self._tcp)):
            return
        if credentials.verdict == "fail":
            yield skipped("needs credentials")
        elif (yield from in_turn(self._tls)):
            yield from self._ask()

    def _readable(self) -> Finding:
        """``credentials``: can the agent read what it must send."""
        upload = self._upload
        keys = (*_SECRET_KEYS, "ca_file", "client_cert")
        files = {f"upload.{key}": path for key in keys if (path := getattr(upload, key))}
        secrets = {**files, "the service's credentials": SERVICE_CREDENTIALS}
        unseen = [key for key, path in secrets.items() if _is_forbidden(path)]
        if unseen and self._agent.is_other_user():
            self._lacks_secrets = True
            return warned(f"no permission to see {unseen[0]}", "use sudo")
        for key, path in files.items():
            if found := self._agent.unreadable(key, path):
                return failed(*found)
        try:
            self._credentials = build_credentials(upload, set())
            self._credentials.prepare()
        except ConfigError as error:
            remedy = "correct it, or use sudo" if os.geteuid() else "correct it"
            return failed(error.message, error.remedy or remedy)
        for key in _SECRET_KEYS:
            if (path := getattr(upload, key)) and EVERYBODY.blocked_at(path) is None:
                # chown first: the agent itself may read the file only as one of "every user".
                named, who = in_shell(path), self._agent.account.name
                return warned(
                    f"every user of this machine can read upload.{key}: {path} ({owner_of(path)})",
                    f"`sudo chown {who} {named} && sudo chmod o-rwx {named}`",
                )
        shown = [key.removeprefix("upload.") for key in files]
        shown += [key for key in ("username", "headers") if getattr(upload, key)]
        if "Authorization" in self._credentials.headers() and not shown:
            shown = ["a credential of the service"]
        return passed(f"readable: {', '.join(shown)}" if shown else "none are set")

    def _name(self) -> Finding:
        """``name``: does it have an address."""
        host = self._host
        try:
            addresses = self._resolver.wait(host, self._port, Bell().wait)
        except UnreachableError as error:
            if error.kind == "no-name":
                remedy = f"correct {self._key}, or the name server's entry"
                return failed(f"there is no host {host}", remedy)
            remedy = "check the network (`ip route`) and the name servers in /etc/resolv.conf"
            return failed(str(error), remedy)
        if is_literal(host):
            return passed(f"{host} is an address: no name to look up")
        found = dict.fromkeys(address.sockaddr[0] for address in addresses)
        return passed(f"{host} is {', '.join(found)}")

    def _tcp(self) -> Finding:
        """``tcp``: does it accept connections."""
        clock = Clock()
        connecting = Connecting(
            self._resolver, self._host, self._port, clock.monotonic_s(), connect_s=_TCP_S
        )
        try:
            sock = connecting.run(clock, Bell().wait)
        except UnreachableError as error:
            remedy = _UNREACHED.get(error.kind, "check the network: `ip route`")
            return failed(str(error), remedy.format(key=self._key))
        self._connection = Connection(self._dialer, sock)
        return passed(f"{Address(sock.family, sock.getpeername())} accepts connections")

    def _tls(self) -> Finding:
        """``tls``: does it prove its identity."""
        is_plain = urlsplit(self._upload.url).scheme == "http"
        self._dialer.begin(_TLS_S)
        with contextlib.closing(self._connection) as connection:
            try:
                if not (is_plain or self._upload.proxy):
                    connection.start_tls(self._credentials.ssl_context(), self._host)
            except NetworkError as error:
                return self._no_tls(error)
            if connection.tls is not None:
                return self._certified(connection.tls)
        return self._plain() if is_plain else skipped("checked through the proxy: see answer")

    def _no_tls(self, error: NetworkError) -> Finding:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            return _UNJUDGED if self._lacks_secrets else self._not_trusted(error.__cause__)
        return failed(self._credentials.masked(str(error)), remedy_of(error.no_answer))

    def _ask(self) -> Iterator[Finding]:
        """``authentication``, ``answer``, ``proof``: what it answers to the agent's requests."""
        trial = EndpointTrial(self._upload, self._device, self._credentials, self._agent.machine)
        newest = self._newest() if self._newest else ()
        for finding in trial.ask(newest):
            is_fault = finding.verdict == "fail"
            yield _UNJUDGED if self._lacks_secrets and is_fault else finding
        how = "`sudo telemetry-agent doctor --send` sends what must be refused"
        yield trial.proof() if self._newest else skipped(how)

    def _plain(self) -> Finding:
        if is_loopback(self._host):
            return skipped("plain http to this machine")
        said = "plain http: others can read the positions on the way, or pose as the server"
        return warned(said, "use https in upload.url")

    def _certified(self, tls: ssl.SSLObject) -> Finding:
        ends_s = ssl.cert_time_to_seconds(str((tls.getpeercert() or {})["notAfter"]))
        left_s = ends_s - self._agent.machine.clock.wall_ms() / 1000
        said = f"{tls.version()}, certificate trusted until {_day(ends_s)}"
        if left_s > _RENEW_DAYS * 86400:
            return passed(said)
        said += f", {counted(round(left_s / 86400), 'day')} left"
        return warned(said, "renew the server's certificate")

    def _not_trusted(self, error: ssl.SSLCertVerificationError) -> Finding:
        words, code = error.verify_message.rstrip("."), error.verify_code
        said, remedy = f"certificate not trusted: {words}", _TRUST
        if code in WRONG_TIME:
            today = _day(self._agent.machine.clock.wall_ms() // 1000)
            said = f"{WRONG_TIME[code]}; this machine's clock says {today}"
            remedy = (
                "set the clock if that is wrong (`sudo timedatectl set-ntp true`); else renew the "
                "server's certificate"
            )
        elif code in _OTHER_NAME:
            said = f"the certificate is for another name: {words}"
            remedy = "use the certificate's name in upload.url, or get one for this name"
        elif not self._credentials.ssl_context().cert_store_stats()["x509_ca"]:
            said = "this machine has no CA certificates"
            remedy = "`sudo apt install ca-certificates`"
        return failed(said, remedy)


def _is_forbidden(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(path, os.R_OK, effective_ids=True)


_TRUST = (
    "the server must send its whole chain (Let's Encrypt: fullchain.pem); or set upload.ca_file to "
    "the certificate of its CA, or of the server if that is self-signed"
)


def _day(since_1970_s: float) -> str:
    return rfc3339(round(since_1970_s * 1000))[:10]
