"""The endpoint: credentials, its name, a connection, its certificate, and its answers."""

import os
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from socket import socket
from urllib.parse import urlsplit

from telemetry_agent.addresses import (
    Address,
    UnreachableError,
    is_literal,
    is_loopback,
    look_up_error,
)
from telemetry_agent.config.settings import UploadSettings
from telemetry_agent.daemon.builders import build_credentials
from telemetry_agent.doctor.agent_checks import AgentChecks
from telemetry_agent.doctor.findings import Check, Finding, failed, passed, skipped, warned
from telemetry_agent.doctor.permissions import EVERYBODY, owner_of
from telemetry_agent.doctor.servers import connected
from telemetry_agent.doctor.trial import EndpointTrial
from telemetry_agent.errors import ConfigError, in_shell
from telemetry_agent.fields import rfc3339
from telemetry_agent.model import Record
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.dialer import Dialer

_UNREACHED = {
    "refused": "start the server there, or correct the port in {key}",
    "no-route": "check the network: `ip route` shows routes, `mmcli -m any` the modem",
    "silent": "a firewall may drop it, or the server is off: check the port, try from another "
    "network",
}
_TCP_S = 4.0
_TLS_S = 4.0
_RENEW_DAYS = 14

# Of OpenSSL's X509_V_ERR_…
_NOT_YET, _EXPIRED = 9, 10
_OTHER_NAME = {62, 64}

_SECRET_KEYS = ("token_file", "password_file", "client_key", "proxy_password_file")

CREDENTIALS = "/run/credentials/telemetry-agent.service"
"""Where systemd puts the service's credentials while it runs."""


class EndpointChecks:
    """What ``upload.url`` names.

    Args:
        upload: the config.
        device: how the agent calls itself there.
        agent: must be able to read the secrets.
        newest: the newest recorded fixes.
        send: whether to send one of them, and requests that must be refused.
    """

    def __init__(
        self,
        upload: UploadSettings,
        device: str,
        agent: AgentChecks,
        *,
        newest: Callable[[], Sequence[Record]] = list,
        send: bool = False,
    ) -> None:
        self._upload = upload
        self._device = device
        self._agent = agent
        self._lacks_secrets = False  # without them, no refusal is the endpoint's fault
        self._credentials = Credentials()
        self._resolve = agent.machine.resolve
        self._clock = agent.machine.clock
        self._newest = newest
        self._send = send
        self._host, self._port = upload.address
        self._key = "upload.proxy" if upload.proxy else "upload.url"
        self._addresses: list[Address] = []
        self._socket: socket | None = None

    def checks(self, needs: tuple[str, ...] = ()) -> list[Check]:
        """All checks; ``needs``: what the first one needs."""
        overdue = ("no name server answers", _NAME_SERVERS)
        return [
            Check(("credentials",), self.credentials, needs),
            Check(("name",), self.name, (), 4.0, overdue),
            Check(("tcp",), self.tcp, ("name",), 5.0),
            Check(("tls",), self.tls, ("credentials", "tcp"), 5.0),
            Check(
                ("authentication", "answer", "proof"),
                self.ask,
                ("tls",),
                12.0 if self._send else 8.0,
            ),
        ]

    def credentials(self) -> Iterator[Finding]:
        """``credentials``: can the agent read what it must send."""
        upload, name = self._upload, "credentials"
        keys = (*_SECRET_KEYS, "ca_file", "client_cert")
        files = {f"upload.{key}": path for key in keys if (path := getattr(upload, key))}
        unseen = [key for key, path in files.items() if _is_forbidden(path)]
        if self._agent.is_other_user() and (unseen or _is_forbidden(Path(CREDENTIALS))):
            self._lacks_secrets = True
            what = unseen[0] if unseen else "the service's credentials"
            yield warned(name, f"no permission to see {what}", "use sudo")
            return
        try:
            for key, path in files.items():
                if found := self._agent.unreadable(key, path):
                    yield failed(name, *found)
                    return
            self._credentials = build_credentials(upload, set())
            self._credentials.prepare()
        except ConfigError as error:
            remedy = "correct it, or use sudo" if os.geteuid() else "correct it"
            yield failed(name, error.message, remedy)
            return
        for key in _SECRET_KEYS:
            if (path := getattr(upload, key)) and EVERYBODY.blocked_at(path) is None:
                said = f"every user of this machine can read upload.{key}: {path}"
                # chown first: the agent itself may read the file only as one of "every user".
                named, who = in_shell(path), self._agent.account.name
                remedy = f"`sudo chown {who} {named} && sudo chmod o-rwx {named}`"
                yield warned(name, f"{said} ({owner_of(path)})", remedy)
                return
        shown = [key.removeprefix("upload.") for key in files]
        shown += [key for key in ("username", "headers") if getattr(upload, key)]
        if "Authorization" in self._credentials.headers() and not shown:
            shown = ["a credential of the service"]
        yield passed(name, f"readable: {', '.join(shown)}" if shown else "none are set")

    def name(self) -> Iterator[Finding]:
        """``name``: does it have an address."""
        host = self._host
        try:
            self._addresses = self._resolve(host, self._port)
        except (OSError, UnicodeError) as error:
            failure = look_up_error(host, error)
            if failure.kind == "no-name":
                remedy = f"correct {self._key}, or the name server's entry"
                yield failed("name", f"there is no host {host}", remedy)
            else:
                yield failed("name", str(failure), _NAME_SERVERS)
            return
        found = dict.fromkeys(address.sockaddr[0] for address in self._addresses)
        numbers = f"{host} is an address: no name to look up"
        yield passed("name", numbers if is_literal(host) else f"{host} is {', '.join(found)}")

    def tcp(self) -> Iterator[Finding]:
        """``tcp``: does it accept connections."""
        found = self._addresses
        try:
            self._socket = connected(lambda _host, _port: found, self._host, self._port, _TCP_S)
        except UnreachableError as error:
            remedy = _UNREACHED.get(error.kind, "check the network: `ip route`")
            yield failed("tcp", str(error), remedy.format(key=self._key))
        else:
            peer = Address(self._socket.family, self._socket.getpeername())
            yield passed("tcp", f"{peer} accepts connections")

    def tls(self) -> Iterator[Finding]:
        """``tls``: does it prove its identity."""
        sock, self._socket = self._socket, None
        if not isinstance(sock, socket):
            raise TypeError("there is no connection")
        with sock:
            if urlsplit(self._upload.url).scheme == "http":
                yield self._plain()
                return
            if self._upload.proxy:
                yield skipped("tls", "checked through the proxy: see answer")
                return
            try:
                sock.settimeout(_TLS_S)
                with self._credentials.ssl_context().wrap_socket(
                    sock, server_hostname=self._host
                ) as tls:
                    yield self._certified(tls)
            except ssl.SSLCertVerificationError as error:
                yield self._unjudged("tls") if self._lacks_secrets else self._not_trusted(error)
            except TimeoutError:
                remedy = "check that this port speaks TLS, and whether a firewall is on the way"
                yield failed("tls", f"{self._host}:{self._port} does not answer", remedy)
            except OSError as error:  # SSLError is one
                words = (getattr(error, "reason", None) or error.strerror or str(error)).lower()
                remedy = "check scheme and port of upload.url: this port may speak plain http"
                yield failed("tls", f"no TLS there: {words.replace('_', ' ')}", remedy)

    def ask(self) -> Iterator[Finding]:
        """``authentication``, ``answer``, ``proof``: what it answers to the agent's requests."""
        dialer = Dialer(self._clock, self._resolve)
        trial = EndpointTrial(self._upload, self._device, self._credentials, dialer, self._resolve)
        newest = self._newest() if self._send else ()
        for finding in trial.ask(newest):
            if self._lacks_secrets and finding.verdict == "fail":
                yield self._unjudged(finding.name)
            else:
                yield finding
        if self._send:
            yield trial.proof(newest)
        else:
            yield skipped(
                "proof", "`sudo telemetry-agent doctor --send` sends what must be refused"
            )

    def _unjudged(self, name: str) -> Finding:
        status = self._agent.status
        said = "" if status is None else f"; the agent reports uploads as {status.upload.state}"
        return skipped(name, f"not judged without the secrets, which sudo can read{said}")

    def _plain(self) -> Finding:
        if is_loopback(self._host):
            return skipped("tls", "plain http to this machine")
        said = "plain http: others can read the positions on the way, or pose as the server"
        return warned("tls", said, "use https in upload.url")

    def _certified(self, tls: ssl.SSLSocket) -> Finding:
        ends = str((tls.getpeercert() or {}).get("notAfter", ""))
        said = f"{tls.version()}, certificate trusted"
        if not ends:
            return passed("tls", said)
        left_s = ssl.cert_time_to_seconds(ends) - self._clock.wall_ms() / 1000
        said += f" until {_day(ssl.cert_time_to_seconds(ends))}"
        if left_s > _RENEW_DAYS * 86400:
            return passed("tls", said)
        said += f", {left_s / 86400:.0f} days left"
        return warned("tls", said, "renew the server's certificate")

    def _not_trusted(self, error: ssl.SSLCertVerificationError) -> Finding:
        words, code = error.verify_message.rstrip("."), error.verify_code
        said, remedy = f"certificate not trusted: {words}", _TRUST
        if code in {_NOT_YET, _EXPIRED}:
            said = f"{words}; this machine's clock says {_day(self._clock.wall_ms() // 1000)}"
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
        return failed("tls", said, remedy)


def _is_forbidden(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(path, os.R_OK, effective_ids=True)


_NAME_SERVERS = "check the network (`ip route`) and the name servers in /etc/resolv.conf"
_TRUST = "set upload.ca_file to the certificate of its CA, or of the server if that is self-signed"


def _day(since_1970_s: float) -> str:
    return rfc3339(round(since_1970_s * 1000))[:10]
