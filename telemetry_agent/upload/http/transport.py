"""Payload -> HTTP exchange -> answer, or the reason why there is none. The only importer of httpx.

Theory of operation. httpx makes the request. ``pipeline`` sends it, alone or with others, on a
connection of ``connection``: the exchange ends by its deadline, and an abort ends it at once.

*Nothing of an answer is kept.* An ``httpx.Client`` would keep cookies and build the next request of
a redirect, and a captive portal sends both; so none is used.
"""

import sys
from collections.abc import Mapping, Sequence

from telemetry_agent import __version__
from telemetry_agent.addresses import bracketed
from telemetry_agent.clock import Clock
from telemetry_agent.model import Answer, Payload
from telemetry_agent.upload.http.connection import Connection
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.dialer import Dialer, NetworkError
from telemetry_agent.upload.http.http1 import Http1, RequestHead
from telemetry_agent.upload.http.pipeline import Pipeline
from telemetry_agent.upload.interfaces import NoAnswer, OnAnswer
from telemetry_agent.upload.quoting import reason_of

# If click and rich are installed, httpx imports its command line, which costs 40 ms and 6 MB.
# If trio is installed, httpcore imports it: 3 MB.
for unneeded in ("httpx._main", "trio"):
    sys.modules.setdefault(unneeded, None)  # type: ignore[arg-type]

import httpx  # noqa: E402 - after the lines above


class Transport:
    """Exchanges with one URL. For one thread."""

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
        self.credentials = credentials or Credentials()
        self._proxy = httpx.URL(proxy) if proxy else None
        self.dialer = dialer or Dialer(Clock())
        """Counts the bytes, and any thread may ``abort``."""
        self._pipeline = Pipeline(self.dialer, self._open)

    def exchange(
        self, payload: Payload, timeout_s: float, method: str = "POST"
    ) -> Answer | NoAnswer:
        """Send ``payload`` and read the answer, all within ``timeout_s`` seconds.

        The body of the answer is cut at 1 MiB.
        """
        answers: list[Answer] = []

        def on_answer(answer: Answer) -> bool:
            answers.append(answer)
            return False

        failure, _ = self.series([payload], timeout_s, on_answer, pipelined=False, method=method)
        return failure or answers[0]

    def series(
        self,
        payloads: Sequence[Payload],
        timeout_s: float,
        on_answer: OnAnswer,
        *,
        pipelined: bool,
        method: str = "POST",
    ) -> tuple[NoAnswer | None, int]:
        """Send several payloads, each a request of its own; see ``pipeline.Pipeline.series``.

        One at a time, each after the answer to the one before, unless ``pipelined``; always so
        through a proxy.
        """
        # Without a Host, httpx decodes a name in Punycode, and raises if it cannot be decoded.
        host = {"Host": self._url.netloc.decode("ascii")}
        agent = {"User-Agent": f"telemetry-agent/{__version__}"}
        headers = {**host, **agent, **self.credentials.headers()}
        heads: dict[object, RequestHead] = {}
        requests = []
        try:
            for payload in payloads:
                alike = (*payload.headers.items(), len(payload.body))
                if alike not in heads:  # to make one takes longer than to send it
                    heads[alike] = self._head(method, payload, headers)
                requests.append(heads[alike].request(payload.body, payload.query))
        except NetworkError as error:
            return NoAnswer(self.credentials.masked(str(error))), 1
        pipelined = pipelined and self._proxy is None
        return self._pipeline.series(requests, timeout_s, on_answer, pipelined=pipelined)

    def drop_idle(self) -> None:
        """Close the idle connections: after a change of the network they may hang."""
        self.close()
        self.dialer.route_changed()

    def close(self) -> None:
        """Close the connection."""
        self._pipeline.drop()

    def _head(self, method: str, payload: Payload, headers: Mapping[str, str]) -> RequestHead:
        # As bytes: httpx refuses a str that is not ASCII.
        raw = _raw({**headers, **payload.headers})
        request = httpx.Request(method, self._url, headers=raw, content=payload.body)
        target, to_proxy = self._url.raw_path, []
        if self._proxy is not None and self._url.scheme == "http":
            target = b"http://" + self._url.netloc + target
            to_proxy = _raw(self.credentials.proxy_headers())
        return RequestHead(method, target, [*to_proxy, *request.headers.raw])

    def _open(self) -> Connection:
        """A new connection to the endpoint, if need be through the proxy."""
        sock = self.dialer.connect(*_address(self._proxy or self._url))
        connection = Connection(self.dialer, sock)
        if self._url.scheme == "https":
            try:
                if self._proxy is not None:
                    self._tunnel(connection)
                host, _ = _address(self._url)
                connection.start_tls(self.credentials.ssl_context(), host)
            except BaseException:
                connection.close()
                raise
        return connection

    def _tunnel(self, connection: Connection) -> None:
        """Let the proxy connect to the endpoint."""
        host, port = _address(self._url)
        target = f"{bracketed(host)}:{port}"
        headers = _raw({"Host": target, **self.credentials.proxy_headers()})
        http = Http1(connection)
        http.send([RequestHead("CONNECT", target.encode(), headers).request()])
        answer = http.answer("CONNECT")
        if not 200 <= answer.status < 300:
            remedy = ": check upload.proxy and upload.proxy_password_file" * (answer.status == 407)
            reason = f"the proxy does not connect to the endpoint: {reason_of(answer)}"
            raise NetworkError(reason + remedy, proxy_status=answer.status)
        if http.has_rest():
            # Taken for the endpoint's answer, these bytes could acknowledge a batch.
            raise NetworkError("the proxy sent more than one answer")


def _address(url: httpx.URL) -> tuple[str, int]:
    return url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80)


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
