"""Who we are to the endpoint, and what proves to us who it is.

Theory of operation. Secrets and certificates are files, and files change under a running agent: a
token is rotated, a certificate renewed. So what was made of them is made anew when a file is
another one than before: headers for each exchange, TLS for each connection. A file that cannot be
used at the start is a wrong config. Later it is a renewal that goes on just now: what was read
before serves on, and that is said once.

Every secret that was ever read is in one set. What an endpoint says is logged, shown and stored,
and it may quote what it was sent: there every one of them is masked.
"""

import base64
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeVar

from telemetry_agent.errors import ConfigError
from telemetry_agent.secrecy import masked, read_secret, secret_values

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Renewed(Generic[T]):
    """What ``make`` makes of some files, and makes again when one of them has changed."""

    def __init__(self, paths: Sequence[Path], make: Callable[[], T]) -> None:
        """Make it.

        Raises:
            ConfigError: ``make`` did.
        """
        self._paths = paths
        self._make = make
        self._failing = False
        self._stamp = self._look()  # before reading: what changes meanwhile is read once more
        self._value = make()

    def get(self) -> T:
        """The newest that could be made."""
        stamp = self._look()
        if stamp == self._stamp and not self._failing:
            return self._value
        try:
            self._value = self._make()
        except ConfigError as error:
            if not self._failing:
                self._failing = True
                _log.warning("%s; what was read before serves on", error)
            return self._value
        if self._failing:
            _log.info("%s: read again", ", ".join(map(str, self._paths)))
        self._stamp, self._failing = stamp, False
        return self._value

    def _look(self) -> list[tuple[int, int, int] | None]:
        stamps: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                stat = path.stat()
            except OSError:
                stamps.append(None)
            else:
                stamps.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return stamps


class Credentials:
    """Headers and TLS for the way to one endpoint. For one thread."""

    def __init__(
        self,
        headers: Mapping[str, str] = MappingProxyType({}),
        *,
        token: Path | None = None,
        scheme: str = "Bearer",
        username: str = "",
        password: Path | None = None,
        ca_file: Path | None = None,
        client_cert: Path | None = None,
        client_key: Path | None = None,
        secrets: set[str] | None = None,
    ) -> None:
        """Read every file that is named.

        Args:
            headers: Sent with each request.
            token: Holds what is sent as ``Authorization``.
            scheme: Stands before the token there.
            username: For basic authentication, with ``password``; not together with a token.
            password: Holds the password.
            ca_file: Certificates (PEM) that are trusted in place of the system's.
            client_cert: Our certificate (PEM), which may hold its key too.
            client_key: The key of our certificate, where that does not hold it.
            secrets: Every secret of ``headers`` and every one that is read is added to it.

        Raises:
            ConfigError: A file cannot be read, or does not hold what it should.
        """
        self.secrets = secrets if secrets is not None else set()
        self.secrets |= secret_values(headers)
        self._headers = dict(headers)
        self._username = username
        self._ca_file = ca_file
        self._client_cert = client_cert
        self._client_key = client_key
        self._authorization: Renewed[str] | None = None
        if token is not None:
            self._authorization = Renewed([token], lambda: self._with_token(scheme, token))
        elif password is not None:
            self._authorization = Renewed([password], lambda: self._basic(password))
        self._tls: Renewed[ssl.SSLContext] | None = None
        if ca_file or client_cert:
            self.ssl_context()

    def headers(self) -> dict[str, str]:
        """For the next request."""
        if self._authorization is None:
            return dict(self._headers)
        return {**self._headers, "Authorization": self._authorization.get()}

    def ssl_context(self) -> ssl.SSLContext:
        """For the next connection: TLS 1.2 or newer, and the server's certificate is verified."""
        if self._tls is None:
            files = (self._ca_file, self._client_cert, self._client_key)
            self._tls = Renewed([file for file in files if file is not None], self._make_context)
        return self._tls.get()

    def masked(self, text: str) -> str:
        """``text`` without any secret."""
        return masked(text, self.secrets)

    def _with_token(self, scheme: str, path: Path) -> str:
        token = read_secret("upload.token_file", path)
        if not token.isascii() or " " in token:
            raise ConfigError(f"upload.token_file: {path} must hold a token: ASCII without spaces")
        self.secrets.add(token)
        return f"{scheme} {token}"

    def _basic(self, path: Path) -> str:
        password = read_secret("upload.password_file", path)
        packed = base64.b64encode(f"{self._username}:{password}".encode()).decode()
        self.secrets |= {password, packed}
        return f"Basic {packed}"

    def _make_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
        except OSError as error:
            raise ConfigError(f"upload.ca_file: {self._ca_file}: {_words(error)}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # From 3.13 on Python refuses certificates without key identifiers, as home-made ones often
        # are: a device must not lose its endpoint by an upgrade.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.set_alpn_protocols(["http/1.1"])
        if self._client_cert is not None:
            try:
                context.load_cert_chain(self._client_cert, self._client_key, _no_passphrase)
            except OSError as error:
                key = f" with upload.client_key {self._client_key}" if self._client_key else ""
                raise ConfigError(
                    f"upload.client_cert: {self._client_cert}{key}: {_words(error)}"
                ) from error
        return context


def _no_passphrase() -> str:
    # Without this OpenSSL asks the terminal.
    raise PermissionError(0, "the key has a passphrase, and nobody is there to type it")


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "it holds nothing of use").lower().replace("_", " ")
    return error.strerror or str(error)
