"""What the agent shows to the endpoint, and how it verifies who the endpoint is.

Theory of operation. Secrets and certificates are files that change while the agent runs: a token is
rotated, a certificate renewed. So each exchange (headers) and each connection (TLS) checks whether
a file has changed, and reads it again. A file that cannot be used at the start keeps uploads
waiting (``prepare``), and nothing else. Later it may be a renewal in progress: the previous
contents stay in use, and that is logged once.

Every secret that was ever read is kept in one set. Answers of an endpoint are logged, shown and
stored, and may quote the request: every secret in them is masked.
"""

import base64
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeVar

from telemetry_agent.clock import Clock
from telemetry_agent.errors import ConfigError
from telemetry_agent.secrecy import masked, read_secret, secret_values
from telemetry_agent.small_files import answered, read_small_file
from telemetry_agent.trouble import Trouble

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Renewed(Generic[T]):
    """A value that is made from files, and made again when one of them has changed."""

    def __init__(self, paths: Sequence[Path], make: Callable[[], T]) -> None:
        """Nothing is made before the first ``get``."""
        self._paths = paths
        self._make = make
        self._trouble = Trouble(_log, Clock())
        self._stamp: list[tuple[int, ...] | None] = []
        self._value: T | None = None

    def get(self) -> T:
        """The newest value that could be made.

        Raises:
            ConfigError: ``make`` raised it, and has never returned a value.
        """
        # Before reading: a change meanwhile is read next time.
        stamp = [_stamp(path) for path in self._paths]
        value = self._value
        if value is not None and stamp == self._stamp and not self._trouble.lasts:
            return value
        try:
            made = self._make()
        except ConfigError as error:
            if value is None:
                raise
            # A renewal may be in progress.
            self._trouble.failed(f"{error}; still using the previous contents", kind="read")
            return value
        self._trouble.over(f"read {', '.join(map(str, self._paths))} again")
        self._value, self._stamp = made, stamp
        return made


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What is another when the file has changed; ``None``: it cannot be seen."""
    try:
        stat = answered(path, path.stat)
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


class Credentials:
    """Headers and TLS for one endpoint. For one thread."""

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
        proxy_username: str = "",
        proxy_password: Path | None = None,
        secrets: set[str] | None = None,
        fault: str | None = None,
    ) -> None:
        """Nothing is read before ``prepare``, or the first use.

        Secrets and certificates (PEM) are files. Either the ``token`` is sent, after the word
        ``scheme``, or username and password. The authorities of ``ca_file`` are trusted instead of
        the system's. ``client_cert`` may hold its key too. All secrets of the headers and of the
        files are added to ``secrets``. ``fault``: why these must not be used at all.
        """
        self.secrets = secrets if secrets is not None else set()
        self.secrets |= secret_values(headers)
        self._ca_file = ca_file
        self._client_cert = client_cert
        self._client_key = client_key
        self._fault = fault
        self._authorization: Renewed[str] | None = None
        if token is not None:
            self._authorization = Renewed([token], lambda: self._with_token(scheme, token))
        elif password is not None:
            self._authorization = self._basic("upload.password_file", username, password)
        # Ours replaces a header of the config, also one in small letters.
        ours = {"authorization"} if self._authorization is not None else set()
        self._headers = {name: text for name, text in headers.items() if name.lower() not in ours}
        self._proxy_authorization: Renewed[str] | None = None
        if proxy_password is not None:
            key = "upload.proxy_password_file"
            self._proxy_authorization = self._basic(key, proxy_username, proxy_password)
        tls_files = [file for file in (ca_file, client_cert, client_key) if file is not None]
        self._tls = Renewed(tls_files, self._make_context)

    def prepare(self) -> None:
        """Read every file that is named.

        Raises:
            ConfigError: A file cannot be read, or has the wrong contents.
        """
        if self._fault is not None:
            raise ConfigError(self._fault)
        self.headers()
        self.proxy_headers()
        if self._ca_file or self._client_cert:
            self.ssl_context()

    def headers(self) -> dict[str, str]:
        """For the next request."""
        if self._authorization is None:
            return dict(self._headers)
        return {**self._headers, "Authorization": self._authorization.get()}

    def without_headers(self) -> "Credentials":
        """The same certificates, and no secret in a header: for a page that everyone may see."""
        return Credentials(
            ca_file=self._ca_file,
            client_cert=self._client_cert,
            client_key=self._client_key,
            secrets=self.secrets,
        )

    def proxy_headers(self) -> dict[str, str]:
        """For the proxy, on the next connection."""
        if self._proxy_authorization is None:
            return {}
        return {"Proxy-Authorization": self._proxy_authorization.get()}

    def ssl_context(self) -> ssl.SSLContext:
        """For the next connection: TLS 1.2 or newer, with the server's certificate verified."""
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

    def _basic(self, key: str, username: str, path: Path) -> Renewed[str]:
        def make() -> str:
            password = read_secret(key, path)
            packed = base64.b64encode(f"{username}:{password}".encode()).decode()
            self.secrets.update((password, packed))
            return f"Basic {packed}"

        return Renewed([path], make)

    def _make_context(self) -> ssl.SSLContext:
        try:
            if self._ca_file is not None:
                _check(self._ca_file)
            context = ssl.create_default_context(cafile=self._ca_file)
        except OSError as error:
            raise ConfigError(f"upload.ca_file: {self._ca_file}: {_words(error)}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Since 3.13 Python refuses certificates without key identifiers, and self-made ones often
        # have none: a device must not lose its endpoint by an upgrade.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.set_alpn_protocols(["http/1.1"])
        if self._client_cert is not None:
            try:
                for file in filter(None, (self._client_cert, self._client_key)):
                    _check(file)
                context.load_cert_chain(self._client_cert, self._client_key, _no_passphrase)
                context.post_handshake_auth = True  # Apache asks late if one path requires it
            except OSError as error:
                key = f" with upload.client_key {self._client_key}" if self._client_key else ""
                raise ConfigError(
                    f"upload.client_cert: {self._client_cert}{key}: {_words(error)}"
                ) from error
        return context


def _check(file: Path) -> None:
    """Raise an OSError if it cannot be read: OpenSSL would wait for a pipe or a dead mount."""
    answered(file, partial(read_small_file, file))


def _no_passphrase() -> str:
    # Without this callback OpenSSL asks at the terminal.
    raise PermissionError(0, "the key has a passphrase, which the agent cannot ask for: remove it")


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "it contains no certificate or key").lower().replace("_", " ")
    return error.strerror or str(error)
