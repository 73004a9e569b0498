"""Payload -> HTTP exchange -> answer, or why there is none. The only importer of httpcore.

Theory of operation. httpcore speaks HTTP/1.1 and keeps the connection; the sockets are ours
(``network``), so that the whole exchange ends by its deadline and an abort ends it at once. httpx
above it would add cookies, redirects, proxies of the environment and decompression, none of which
a batch may meet, and 2 MB.

*An answer belongs to the request it follows.* A server that answers twice would have its second
answer taken for that to the next batch, which it never saw. So the stream hands on what it reads
only up to the next ``H``, with which every answer begins: what is left when an answer is complete
does not belong to it, and the connection is not used again.

Every failure becomes words here, once.
"""

import logging
import ssl
import sys
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from telemetry_agent import __version__
from telemetry_agent.clock import Clock
from telemetry_agent.model import Answer, Payload
from telemetry_agent.upload.access import Access
from telemetry_agent.upload.formats.answers import words
from telemetry_agent.upload.network import BrokenError, Connection, Network, NetworkError
from telemetry_agent.upload.seams import NoAnswer

# httpcore imports both where they are installed, for nothing: trio alone is 4 MB.
_ABSENT = [name for name in ("anyio", "trio") if name not in sys.modules]
sys.modules.update(dict.fromkeys(_ABSENT))  # type: ignore[arg-type]

import httpcore  # noqa: E402 - after the lines above

for _name in _ABSENT:
    del sys.modules[_name]

# It logs each URL and header, and either may hold a key.
logging.getLogger("httpcore").setLevel(logging.WARNING)

_ANSWER_CAP_BYTES = 256 * 1024
_HEARD_CAP_BYTES = 2 * _ANSWER_CAP_BYTES  # with all heads and framing


class Transport:
    """The way to one URL. One thread exchanges; any thread may abort."""

    def __init__(
        self,
        url: str,
        *,
        access: Access | None = None,
        proxy: str = "",
        keepalive_expiry_s: float = 30.0,
        network: Network | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            url: http or https, checked by config.
            access: Headers and certificates; by default no header, and the system's trust.
            proxy: ``http://HOST:PORT``; empty: none. The environment's proxies are ignored.
            keepalive_expiry_s: For how long an idle connection is kept.
            network: Opens the connections.
        """
        self._url = _target(url)
        self._access = access or Access()
        self._network = network or Network(Clock())
        self._backend = _Backend(self._network, self._access)
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # never used: see _Stream
            proxy=httpcore.Proxy(proxy) if proxy else None,
            max_connections=1,
            keepalive_expiry=keepalive_expiry_s,
            network_backend=self._backend,
        )

    @property
    def sent_bytes(self) -> int:
        """At the socket, since the start."""
        return self._network.sent_bytes

    @property
    def received_bytes(self) -> int:
        """At the socket, since the start."""
        return self._network.received_bytes

    def exchange(self, payload: Payload, timeout_s: float) -> Answer | NoAnswer:
        """Send ``payload`` and read what comes back, all within ``timeout_s`` seconds.

        The body of the answer is cut at 256 KiB.
        """
        headers = {
            "User-Agent": f"telemetry-agent/{__version__}",
            "Accept-Encoding": "identity",
            **self._access.headers(),
            **payload.headers,
        }
        self._network.begin(timeout_s)
        outcome = self._try(headers, payload.body)
        if (
            isinstance(outcome, NoAnswer)
            and not self._network.connected
            and not self._network.answering
            and not self._network.over
        ):
            # The server closed the kept connection while the request was on its way.
            outcome = self._try(headers, payload.body)
        return outcome

    def masked(self, text: str) -> str:
        """``text`` without the secrets that were sent: a server may quote them."""
        return self._access.masked(text)

    def abort(self) -> None:
        """End the exchange in flight, and each one that is begun before ``rearm``."""
        self._network.abort()

    def rearm(self) -> None:
        """Allow exchanges again after an abort."""
        self._network.rearm()

    def drop_idle(self) -> None:
        """Close the kept connection: after a change of the network it may lead nowhere.

        Only for the thread that exchanges.
        """
        self._pool.close()

    def close(self) -> None:
        """Free the connection. Only for the thread that exchanges."""
        self._pool.close()

    def _try(self, headers: Mapping[str, str], body: bytes) -> Answer | NoAnswer:
        try:
            return self._once(headers, body)
        except NetworkError as error:
            failure = NoAnswer(str(error), error.state)
        except httpcore.RemoteProtocolError as error:
            if self._network.answering:
                failure = NoAnswer(f"what came back is not HTTP: {error}")
            else:
                failure = NoAnswer("the server closed the connection without an answer")
        except httpcore.LocalProtocolError as error:
            failure = NoAnswer(self.masked(f"the request cannot be sent: {error}"))
        except httpcore.ProxyError as error:
            failure = NoAnswer(f"the proxy does not connect us: {words(str(error))}")
        # An abort looks like any failure of the network.
        return NoAnswer("stopped") if self._network.aborted else failure

    def _once(self, headers: Mapping[str, str], body: bytes) -> Answer:
        # As bytes: httpcore refuses a str that is not ASCII.
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        with self._pool.stream("POST", self._url, headers=raw, content=body) as response:
            said = self._read(response)
        stream = self._backend.stream
        if stream is not None and stream.has_rest():
            self._pool.close()
        return Answer(
            status=response.status,
            headers=_merged(response.headers),
            body=said,
            verified_tls=stream is not None and stream.connection.verified,
        )

    def _read(self, response: httpcore.Response) -> bytes:
        body = bytearray()
        try:
            for part in response.iter_stream():
                body += part
                if len(body) >= _ANSWER_CAP_BYTES:
                    break
        except (NetworkError, httpcore.RemoteProtocolError) as error:
            # A status that takes nothing is clear without its body.
            if response.status < 300 or self._network.aborted:
                why = str(error) if isinstance(error, NetworkError) else "the connection closed"
                state = error.state if isinstance(error, NetworkError) else "unreachable"
                raise NetworkError(f"the answer broke off: {why}", state) from error
        return bytes(body[:_ANSWER_CAP_BYTES])


def _target(url: str) -> httpcore.URL:
    # Not httpcore.URL(url): that loses what follows a semicolon in the path, and the brackets.
    parts = urlsplit(url)
    host = parts.hostname or ""
    return httpcore.URL(
        scheme=parts.scheme,
        host=f"[{host}]" if ":" in host else host,
        port=parts.port,
        target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
    )


def _merged(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    merged: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("utf-8", "replace")
        merged[name] = f"{merged[name]}, {value}" if name in merged else value
    return merged


class _Backend(httpcore.NetworkBackend):
    """Where httpcore gets its connections."""

    def __init__(self, network: Network, access: Access) -> None:
        self.stream: _Stream | None = None
        self._network = network
        self._access = access

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the deadline of the exchange rules
        local_address: str | None = None,  # noqa: ARG002 - httpcore's signature
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002 - httpcore's signature
    ) -> httpcore.NetworkStream:
        self.stream = _Stream(self._network.connect(host.strip("[]"), port), self._access)
        return self.stream


class _Stream(httpcore.NetworkStream):
    """A connection as httpcore wants to see it."""

    def __init__(self, connection: Connection, access: Access) -> None:
        self.connection = connection
        self._access = access
        self._data = b""
        self._at = 0
        self._heard_bytes = 0

    def has_rest(self) -> bool:
        """Whether bytes have come that no answer asked for."""
        return self._at < len(self._data)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - as above
        if not self.has_rest():
            self._data = self.connection.recv(max_bytes)
            self._at = 0
            self._heard_bytes += len(self._data)
            if self._heard_bytes > _HEARD_CAP_BYTES:
                raise BrokenError("the server talks without end")
        start = self._at
        end = self._data.find(b"H", start + 1)
        self._at = len(self._data) if end < 0 else end
        return self._data[start : self._at]

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - as above
        self._heard_bytes = 0
        try:
            self.connection.send(buffer)
        except BrokenError as error:
            # To httpcore this means: look whether the server has answered before it hung up.
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self.connection.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,  # noqa: ARG002 - ours follows the files that it is made of
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002 - as above
    ) -> httpcore.NetworkStream:
        if self.has_rest():
            # Taken for the endpoint's, words of the proxy would acknowledge a batch.
            self.close()
            raise NetworkError("the proxy said more than it was asked")
        try:
            name = (server_hostname or "").strip("[]")
            self.connection.start_tls(self._access.ssl_context(), name)
        except NetworkError:
            self.close()
            raise
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self.connection.tls
        if info == "is_readable":
            return self.connection.readable()
        return None
