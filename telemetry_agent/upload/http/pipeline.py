"""Several requests under way on one connection, each with its own answer.

Theory of operation. HTTP/1.1 answers requests in the order in which they came, so they need not
wait for each other: what makes a backlog slow, where a request holds one fix, is the way there and
back. A new connection begins with one request under way, and each answer allows one more, up to
``_WINDOW``: a server that closes after each answer is served one request at a time by that alone.

*A server that says it closes* has not looked at what came behind, so that is sent anew. *One that
breaks off* may have: those requests got no answer. Where it happens twice in a row with several
under way, the server or something before it cannot do this, and for a while they go one by one.

*One that says more than it was asked*, with several under way, gave some answer to the wrong
request: no answer of the series counts.

The sockets, and with them deadline and abort, are those of ``connection``; the bytes of an answer
are understood by h11, which never learns that more than one request is under way.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import h11

from telemetry_agent.clock import Clock
from telemetry_agent.model import Answer, Payload
from telemetry_agent.upload.http.connection import BrokenError, Connection, NetworkError
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.dialer import Dialer
from telemetry_agent.upload.interfaces import Heard, NoAnswer

_log = logging.getLogger(__name__)

_WINDOW = 128
_ONE_BY_ONE_S = 600.0
_RECV_BYTES = 65536
_ANSWER_CAP_BYTES = 512 * 1024
_REQUEST = h11.Request(method="POST", target="/", headers=[("Host", "any")])


class Pipeline:
    """One connection to one server. For one thread."""

    def __init__(
        self,
        url: str,
        dialer: Dialer,
        credentials: Credentials,
        keepalive_expiry_s: float,
        clock: Clock,
    ) -> None:
        """Nothing is opened yet."""
        parts = urlsplit(url)
        self._tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._network_location = parts.netloc
        self._path = parts.path or "/"
        self._query = parts.query
        self._dialer = dialer
        self._exchange = dialer.exchange
        self._credentials = credentials
        self._expiry_s = keepalive_expiry_s
        self._clock = clock
        self._line: _Line | None = None
        self._faults = 0  # in a row
        self._one_by_one_until_s = 0.0

    def series(
        self,
        payloads: Sequence[Payload],
        headers: Sequence[Mapping[str, str]],
        timeout_s: float,
        heard: Heard,
    ) -> tuple[NoAnswer | None, int]:
        """Send the payloads in their order, each with its headers.

        No more is sent once half of ``timeout_s`` has passed, so that the rest is for answers.

        Returns:
            What ended it before each that was sent had an answer, and how many have none.
        """
        requests = [self._bytes(*pair) for pair in zip(payloads, headers, strict=True)]
        run = _Run(requests, self._clock.monotonic_s() + timeout_s / 2)
        self._exchange.begin(timeout_s)
        self._drop_what_is_stale()
        whole = False
        try:
            self._go(run, heard)
            whole = True
        except NetworkError as error:
            failure = NoAnswer(str(error), error.state)
        except h11.RemoteProtocolError as error:
            failure = NoAnswer(f"what came back is not HTTP: {error}")
        except _SurplusError:
            failure = NoAnswer("the server answers more often than it is asked", taints=True)
        finally:
            if not whole:
                self.drop()  # the answers that it still owes belong to this series
        if whole:
            self._faults = 0 if run.several else self._faults
            return None, 0
        if (run.under_way > 1 or failure.taints) and run.several and not self._exchange.aborted:
            self._note_fault()
        if self._exchange.aborted:
            failure = NoAnswer("stopped")
        return failure, 0 if failure.taints else max(1, run.under_way)

    def drop(self) -> None:
        """Close the connection."""
        if self._line is not None:
            self._line.connection.close()
            self._line = None

    def _go(self, run: "_Run", heard: Heard) -> None:
        while True:
            now_s = self._clock.monotonic_s()
            if run.wants_more(now_s) or run.under_way:
                line = self._line or self._open()
            else:
                return
            window = 1 if now_s < self._one_by_one_until_s else line.window
            try:
                if run.wants_more(now_s) and run.under_way <= window // 2:
                    line.send(run.take(window - run.under_way))
                answer = line.answer()
            except BrokenError:
                if self._exchange.connected or self._exchange.answering or self._exchange.over:
                    raise
                # The server closed the kept connection while the requests were on their way.
                self.drop()
                run.send_again()
                continue
            run.answered += 1
            run.stopped = not heard(answer) or run.stopped
            line.window = min(line.window + 1, _WINDOW)
            line.used_s = self._clock.monotonic_s()
            surplus = not run.under_way and line.has_rest()
            if surplus and run.several:
                raise _SurplusError
            if line.closes or surplus:
                self.drop()
                run.send_again()

    def _open(self) -> "_Line":
        connection = self._dialer.connect(self._host, self._port)
        if self._tls:
            try:
                connection.start_tls(self._credentials.ssl_context(), self._host)
            except NetworkError:
                connection.close()
                raise
        self._line = _Line(connection)
        return self._line

    def _drop_what_is_stale(self) -> None:
        line = self._line
        if line is not None and (
            self._clock.monotonic_s() - line.used_s > self._expiry_s or line.connection.readable()
        ):
            self.drop()

    def _note_fault(self) -> None:
        self._faults += 1
        if self._faults >= 2:
            self._one_by_one_until_s = self._clock.monotonic_s() + _ONE_BY_ONE_S
            _log.info("the server takes one request at a time: the backlog drains slower")

    def _bytes(self, payload: Payload, headers: Mapping[str, str]) -> bytes:
        query = "&".join(filter(None, (self._query, payload.query)))
        target = f"{self._path}?{query}" if query else self._path
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = (
            f"POST {target} HTTP/1.1\r\nHost: {self._network_location}\r\n{lines}"
            f"Content-Length: {len(payload.body)}\r\n\r\n"
        )
        return head.encode() + payload.body


class _SurplusError(Exception):
    """An answer came to no request."""


class _Run:
    """How far a series has come."""

    def __init__(self, requests: Sequence[bytes], until_s: float) -> None:
        self.answered = 0
        self.stopped = False
        self.several = False
        """Whether more than one was under way at a time."""
        self._requests = requests
        self._sent = 0
        self._until_s = until_s

    @property
    def under_way(self) -> int:
        return self._sent - self.answered

    def wants_more(self, now_s: float) -> bool:
        return self._sent < len(self._requests) and not self.stopped and now_s < self._until_s

    def take(self, count: int) -> bytes:
        taken = self._requests[self._sent : self._sent + count]
        self._sent += len(taken)
        self.several = self.several or self.under_way > 1
        return b"".join(taken)

    def send_again(self) -> None:
        self._sent = self.answered


class _Line:
    """A connection, and what has been read from it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.window = 1
        self.used_s = 0.0
        self.closes = False
        self._http = h11.Connection(h11.CLIENT)
        self._heard_bytes = 0

    def send(self, data: bytes) -> None:
        """Send it all, or as much as is read there."""
        # A server that has closed may have said so in an answer that is still to be read. Where
        # it has not, reading fails too.
        with contextlib.suppress(BrokenError):
            self.connection.send(data)

    def answer(self) -> Answer:
        """The next one."""
        self._http.send(_REQUEST)
        self._http.send(h11.EndOfMessage())
        self._heard_bytes = 0
        body = bytearray()
        response: h11.Response | None = None
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._read()
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and response is not None:
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise BrokenError("the server closed the connection without an answer")
        self.closes = self._http.their_state is not h11.DONE
        if not self.closes:
            self._http.start_next_cycle()
        return Answer(
            status=response.status_code,
            headers={
                name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers
            },
            body=bytes(body),
            verified_tls=self.connection.verified,
        )

    def has_rest(self) -> bool:
        """Whether bytes have come that no request asked for."""
        return bool(self._http.trailing_data[0])

    def _read(self) -> None:
        data = self.connection.recv(_RECV_BYTES)
        self._heard_bytes += len(data)
        if self._heard_bytes > _ANSWER_CAP_BYTES:
            raise BrokenError("the server talks without end")
        if not data and self._http.their_state is h11.SEND_RESPONSE:
            raise BrokenError("the server closed the connection without an answer")
        self._http.receive_data(data)
