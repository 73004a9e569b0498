"""Payload -> HTTP exchange -> answer, or the reason why there is none. The only importer of httpx.

Theory of operation. httpx makes the request, and httpcore speaks HTTP/1.1 on a connection of
``connection``, so that the exchange ends by its deadline and an abort ends it at once.

*An answer belongs to the request before it.* If a server answers twice, its second answer would be
taken for the answer to the next batch, which the server never saw. So the stream passes on bytes
only up to the next ``H``, with which every answer begins. Bytes that are left when an answer is
complete do not belong to it, and the connection is closed.

*Nothing of an answer is kept.* An ``httpx.Client`` would keep cookies and build the next request of
a redirect, and a captive portal sends both; so none is used.

Every failure gets its text here.
"""

import logging
import sys
from collections.abc import Mapping, Sequence

from telemetry_agent import __version__
from telemetry_agent.addresses import bracketed
from telemetry_agent.clock import Clock
from telemetry_agent.model import Answer, Payload
from telemetry_agent.upload.formats.answers import words
from telemetry_agent.upload.http.connection import Connection
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.dialer import (
    ANSWER_CAP_BYTES,
    READ_CAP_BYTES,
    BrokenError,
    Dialer,
    NetworkError,
)
from telemetry_agent.upload.http.pipeline import Pipeline, announces_body, answer_of
from telemetry_agent.upload.interfaces import NoAnswer, OnAnswer

# If click and rich are installed, httpx imports its command line, which costs 40 ms and 6 MB.
# If trio is installed, httpcore imports it: 3 MB.
for unneeded in ("httpx._main", "trio"):
    sys.modules.setdefault(unneeded, None)  # type: ignore[arg-type]

import httpcore  # noqa: E402 - after the lines above
import httpx  # noqa: E402 - the same

# They log each URL and header, and both may contain a key.
logging.getLogger("httpx").setLevel(logging.WARNING)
logging.getLogger("httpcore").setLevel(logging.WARNING)


class Transport:
    """Exchanges with one URL. One thread exchanges; any thread may abort."""

    def __init__(
        self,
        url: str,
        *,
        credentials: Credentials | None = None,
        proxy: str = "",
        dialer: Dialer | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            url: http or https, checked by config.
            credentials: Headers and certificates; by default no header, and the system's trust.
            proxy: ``http://HOST:PORT``; empty: none. The environment's proxies are ignored.
            dialer: Opens the connections.
        """
        self._url = httpx.URL(url)
        self._credentials = credentials or Credentials()
        self._proxy = httpx.URL(proxy) if proxy else None
        self._dialer = dialer or Dialer(Clock())
        self._stream: _HttpcoreStream | None = None
        self._pipeline = Pipeline(url, self._dialer, self._credentials)

    @property
    def sent_bytes(self) -> int:
        """At the socket, since the start."""
        return self._dialer.sent_bytes

    @property
    def received_bytes(self) -> int:
        """At the socket, since the start."""
        return self._dialer.received_bytes

    def exchange(
        self, payload: Payload, timeout_s: float, method: str = "POST"
    ) -> Answer | NoAnswer:
        """Send ``payload`` and read the answer, all within ``timeout_s`` seconds.

        The body of the answer is cut at 1 MiB.
        """
        # Without a Host, httpx decodes a name in Punycode, and raises if it cannot be decoded.
        host = {"Host": self._url.netloc.decode("ascii")}
        # As bytes: httpx refuses a str that is not ASCII.
        headers = _raw({**host, **self._headers(), **payload.headers})
        target = self._target(payload.query)
        request = httpx.Request(method, target, headers=headers, content=payload.body)
        self._dialer.begin(timeout_s)
        outcome = self._try(request)
        if isinstance(outcome, NoAnswer) and self._dialer.may_repeat:
            outcome = self._try(request)
        return outcome

    def series(
        self, payloads: Sequence[Payload], timeout_s: float, on_answer: OnAnswer, *, pipelined: bool
    ) -> tuple[NoAnswer | None, int]:
        """Send several payloads, each an exchange of its own; see ``pipeline.Pipeline.series``.

        One at a time, each after the answer to the one before, unless ``pipelined``; always so
        through a proxy.
        """
        if pipelined and self._proxy is None:
            return self._pipeline.series(payloads, self._headers(), timeout_s, on_answer)
        until_s = self._dialer.now_s + timeout_s
        for payload in payloads:
            left_s = until_s - self._dialer.now_s
            if left_s < timeout_s / 2:
                break
            answer = self.exchange(payload, left_s)
            if isinstance(answer, NoAnswer):
                return answer, 1
            if not on_answer(answer):
                break
        return None, 0

    def masked(self, text: str) -> str:
        """``text`` without the secrets of the requests: a server may quote them."""
        return self._credentials.masked(text)

    def abort(self) -> None:
        """End the exchange in flight, and each one that is begun before ``rearm``."""
        self._dialer.abort()

    def rearm(self) -> None:
        """Allow exchanges again after an abort."""
        self._dialer.rearm()

    def drop_idle(self) -> None:
        """Close the idle connections: after a change of the network they may hang.

        Only for the thread that exchanges.
        """
        self.close()
        self._dialer.route_changed()

    def close(self) -> None:
        """Close the connections. Only for the thread that exchanges."""
        self._drop()
        self._pipeline.drop()

    def _headers(self) -> dict[str, str]:
        return {"User-Agent": f"telemetry-agent/{__version__}", **self._credentials.headers()}

    def _target(self, query: str) -> httpx.URL:
        if not query:
            return self._url
        both = b"&".join(filter(None, (self._url.query, query.encode("ascii"))))
        return self._url.copy_with(query=both)

    def _try(self, request: httpx.Request) -> Answer | NoAnswer:
        try:
            return self._once(request)
        # ValueError: h11 before 0.15
        except (NetworkError, httpcore.RemoteProtocolError, ValueError) as error:
            return self._dialer.no_answer(error)
        except httpcore.LocalProtocolError as error:
            return NoAnswer(self.masked(f"the request cannot be sent: {error}"))

    def _once(self, request: httpx.Request) -> Answer:
        stream = self._stream
        if stream is None or stream.http.is_closed() or stream.connection.stale():
            self._drop()
            stream = self._stream = self._open()
        target = request.url.raw_path
        headers = request.headers.raw
        if self._proxy is not None and request.url.scheme == "http":
            target = b"http://" + request.url.netloc + target
            headers = [*_raw(self._credentials.proxy_headers()), *headers]
        response = stream.http.handle_request(
            httpcore.Request(request.method, _at(target), headers=headers, content=request.stream)
        )
        body = bytearray()
        try:
            for part in response.iter_stream():
                body += part
                if len(body) > ANSWER_CAP_BYTES:
                    break
        except (NetworkError, httpcore.RemoteProtocolError) as error:
            # A status that accepts nothing is clear without its body.
            if response.status < 300 or self._dialer.aborted:
                if isinstance(error, NetworkError):
                    raise NetworkError(f"the answer broke off: {error}", error.state) from error
                raise
        finally:
            response.close()
        if response.status < 300 and stream.broke:
            raise NetworkError(f"{response.status} before the request was sent")
        verified = stream.connection.verified
        answer = answer_of(response.status, response.headers, body, verified=verified)
        if stream.is_spent(answer):
            self._drop()
        return answer

    def _open(self) -> "_HttpcoreStream":
        """A new connection to the endpoint, or to the proxy."""
        host, port = _address(self._proxy or self._url)
        stream = _HttpcoreStream(Connection(self._dialer, self._dialer.connect(host, port)))
        if self._url.scheme == "https":
            if self._proxy is not None:
                self._tunnel(stream)
            host, _ = _address(self._url)
            stream.connection.start_tls(self._credentials.ssl_context(), host)
        return stream

    def _tunnel(self, stream: "_HttpcoreStream") -> None:
        """Let the proxy connect to the endpoint."""
        host, port = _address(self._url)
        target = f"{bracketed(host)}:{port}"
        headers = _raw({"Host": target, **self._credentials.proxy_headers()})
        response = stream.http.handle_request(
            httpcore.Request("CONNECT", _at(target.encode()), headers=headers)
        )
        status, phrase = response.status, response.extensions["reason_phrase"].decode("latin-1")
        if not 200 <= status < 300:
            stream.close()
            remedy = ": check upload.proxy and upload.proxy_password_file" * (status == 407)
            reason = f"the proxy does not connect to the endpoint: {words(f'{status} {phrase}')}"
            raise NetworkError(reason + remedy, proxy_status=status)
        if stream.has_rest():
            # Taken for the endpoint's answer, these bytes could acknowledge a batch.
            stream.close()
            raise NetworkError("the proxy sent more than one answer")
        stream.http = httpcore.HTTP11Connection(_ORIGIN, stream)

    def _drop(self) -> None:
        """Close the kept connection."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


# httpcore compares the origin of a request with that of its connection; here each has its own.
_ORIGIN = httpcore.Origin(b"http", b"any", 80)


def _at(target: bytes) -> httpcore.URL:
    return httpcore.URL(scheme=_ORIGIN.scheme, host=_ORIGIN.host, port=_ORIGIN.port, target=target)


def _address(url: httpx.URL) -> tuple[str, int]:
    return url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80)


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


class _HttpcoreStream(httpcore.NetworkStream):
    """A connection with the interface that httpcore expects."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.http = httpcore.HTTP11Connection(_ORIGIN, self)
        self.broke = False
        """Whether a request was not sent to its end."""
        self._data = b""
        self._unsent = b""
        self._at = 0
        self._read_bytes = 0

    def has_rest(self) -> bool:
        """Whether bytes have come that no answer asked for."""
        return self._at < len(self._data)

    def is_spent(self, answer: Answer) -> bool:
        """Whether the next bytes may not be the answer to the next request."""
        without_body = self._data.endswith(b"\r\n\r\n") and not announces_body(answer)
        return self.has_rest() or (answer.status == 204 and not without_body)

    # The deadline of the exchange rules, not ``timeout``.

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        if self._unsent:
            unsent, self._unsent = self._unsent, b""
            # A server that has closed may have answered before: reading shows it.
            try:
                self.connection.send(unsent)
            except BrokenError:
                self.broke = True
        if not self.has_rest():
            self._data = self.connection.recv(max_bytes)
            self._at = 0
            self._read_bytes += len(self._data)
            if self._read_bytes > READ_CAP_BYTES:
                raise BrokenError("the answer is too long")
        start = self._at
        end = self._data.find(b"H", start + 1)
        self._at = len(self._data) if end < 0 else end
        return self._data[start : self._at]

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        # httpcore writes head and body apart, which costs two packets more than one write.
        self._read_bytes = 0
        self._unsent += buffer

    def close(self) -> None:
        self.connection.close()
