"""Several requests in one write on one connection, and then as many answers.

Theory of operation. Where a request holds one fix, a backlog is slow because each request waits for
a round trip. HTTP/1.1 lets a client send several requests before the first answer, and the server
answers them in the same order. An answer does not name its request: only order and count connect
the two. So requests go out in *rounds*: ``k`` requests in one write, then exactly ``k`` answers,
and only then the next round. An answer can therefore never be taken for that to a request of an
earlier round. A new connection begins with ``k = 1``; ``k`` doubles after each whole round, up to
``_ROUND_MAX``.

*A round with fewer answers* ends the connection, and the requests without an answer are sent again.
If this happens twice in a row, requests are sent one at a time for ten minutes: the server, or a
proxy in front of it, cannot read several. Only whole rounds at least as large as the broken one
show that it can, because a smaller one may fit where that one did not.

*An answer with* ``Connection: close`` *is not a fault*. The server says that it has not looked at
the requests behind that one. They are sent again on a new connection, which begins with the ``k``
that the old one had reached. How many requests a connection had is remembered, because proxies
close each one after the same number (nginx: ``keepalive_requests``): the last round is made to end
there.

*A server that answers more often than it was asked* has given some request the answer of another.
If several requests were under way at any time in the series, none of its answers count.

Deadline and abort are those of ``dialer``. h11 parses the answers; it is given one request at a
time.
"""

import contextlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

import h11

from telemetry_agent.model import Answer, Payload
from telemetry_agent.upload.http.connection import Connection
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.dialer import (
    ANSWER_CAP_BYTES,
    READ_CAP_BYTES,
    BrokenError,
    Dialer,
    NetworkError,
)
from telemetry_agent.upload.interfaces import NoAnswer, OnAnswer

_log = logging.getLogger(__name__)

_ROUND_MAX = 128
_ONE_BY_ONE_S = 600.0
_RECV_BYTES = 65536
_REQUEST = h11.Request(method="POST", target="/", headers=[("Host", "any")])


class Pipeline:
    """One connection to one server. For one thread."""

    def __init__(self, url: str, dialer: Dialer, credentials: Credentials) -> None:
        """Nothing is opened yet."""
        self._url = urlsplit(url)
        self._dialer = dialer
        self._credentials = credentials
        self._line: _PipelinedConnection | None = None
        self._faults = 0  # in a row
        self._broken_size = 0  # requests in the last round that broke
        self._one_by_one_until_s = 0.0
        self._first_round = 1  # of the next connection
        self._requests_max = math.inf  # of a connection, as an announced close has shown
        self._round = 0  # requests in the last round
        self._under_way = 0  # those of them that have no answer
        self._largest = 0  # requests in the largest round of this series

    def series(
        self,
        payloads: Sequence[Payload],
        headers: Mapping[str, str],
        timeout_s: float,
        on_answer: OnAnswer,
    ) -> tuple[NoAnswer | None, int]:
        """Send the payloads in their order, each with ``headers`` and its own.

        No more is sent once half of ``timeout_s`` has passed, so that the rest is for answers.

        Returns:
            What ended it before each that was sent had an answer, and how many have none.
        """
        requests = [self._bytes(payload, headers) for payload in payloads]
        until_s = self._dialer.now_s + timeout_s / 2
        self._dialer.begin(timeout_s)
        if self._line is not None and self._line.connection.stale():
            self.drop()
        self._round = self._under_way = self._largest = 0
        goes_on = True
        try:
            while goes_on and requests and self._dialer.now_s < until_s:
                goes_on = self._send_round(requests, on_answer)
        except (NetworkError, h11.RemoteProtocolError, ValueError) as error:  # ValueError: old h11
            self.drop()  # the answers that it still owes belong to this series
            surplus = isinstance(error, _SurplusError)
            broken = surplus or (self._under_way > 0 and self._round > 1)
            if broken and not self._dialer.aborted:
                self._note_fault(max(self._round, 2))
            failure = replace(self._dialer.no_answer(error), voids_earlier=surplus)
            return failure, 0 if surplus else max(1, self._under_way)
        except BaseException:
            self.drop()
            raise
        if self._largest >= self._broken_size:
            self._faults = 0
        return None, 0

    def drop(self) -> None:
        """Close the connection."""
        self._first_round = 1
        if self._line is not None:
            self._line.connection.close()
            self._line = None

    def _send_round(self, requests: list[bytes], on_answer: OnAnswer) -> bool:
        """Send some, and take out those that have an answer. Returns whether to send more."""
        self._under_way = 0
        line = self._line or self._open()
        sent = requests[: self._round_size(line)]
        self._round = self._under_way = len(sent)
        self._largest = max(self._largest, self._round)
        line.send(b"".join(sent))
        goes_on = True
        try:
            while self._under_way and not line.closes:
                goes_on = on_answer(line.answer()) and goes_on
                self._under_way -= 1
        except BrokenError:
            if not self._dialer.may_repeat:
                raise
            # The server closed the kept connection while the requests were on their way.
            self.drop()
            return True
        surplus = not self._under_way and line.has_rest()
        if surplus and self._largest > 1:
            raise _SurplusError
        if line.closes:
            # A proxy closes each connection after the same number: end the last round there.
            self._requests_max = line.answered
        elif line.answered >= self._requests_max:
            self._requests_max = math.inf
        if line.closes or surplus:
            self.drop()
            self._first_round = line.round_max if line.closes else 1
        elif self._round == line.round_max:
            line.round_max = min(2 * line.round_max, _ROUND_MAX)
        del requests[: self._round - self._under_way]
        return goes_on

    def _round_size(self, line: "_PipelinedConnection") -> int:
        """How many requests to send at once."""
        if self._dialer.now_s < self._one_by_one_until_s:
            return 1
        return int(min(line.round_max, self._requests_max - line.answered))

    def _open(self) -> "_PipelinedConnection":
        tls, host = self._url.scheme == "https", self._url.hostname or ""
        sock = self._dialer.connect(host, self._url.port or (443 if tls else 80))
        connection = Connection(self._dialer, sock)
        if tls:
            connection.start_tls(self._credentials.ssl_context(), host)
        self._line = _PipelinedConnection(connection, self._first_round)
        return self._line

    def _note_fault(self, size: int) -> None:
        self._faults += 1
        self._broken_size = size
        if self._faults >= 2:
            self._one_by_one_until_s = self._dialer.now_s + _ONE_BY_ONE_S
            _log.info(
                "the server does not answer each of several requests that are sent together: "
                "sending one request at a time for 10 min"
            )

    def _bytes(self, payload: Payload, headers: Mapping[str, str]) -> bytes:
        path = self._url.path or "/"
        query = "&".join(filter(None, (self._url.query, payload.query)))
        target = f"{path}?{query}" if query else path
        lines = "".join(
            [f"{name}: {value}\r\n" for name, value in {**headers, **payload.headers}.items()]
        )
        head = (
            f"POST {target} HTTP/1.1\r\nHost: {self._url.netloc}\r\n{lines}"
            f"Content-Length: {len(payload.body)}\r\n\r\n"
        )
        return head.encode() + payload.body


def answer_of(
    status: int, raw_headers: Iterable[tuple[bytes, bytes]], body: bytearray, *, verified: bool
) -> Answer:
    """The answer; repeated headers are joined, and the body is cut."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw_headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    length = headers.get("content-length", "")
    size = max(len(body), int(length) if length.isdecimal() else 0)
    return Answer(
        status=status,
        headers=headers,
        body=bytes(body[:ANSWER_CAP_BYTES]),
        verified_tls=verified,
        too_long_bytes=size if size > ANSWER_CAP_BYTES else None,
    )


def announces_body(answer: Answer) -> bool:
    """Whether the headers announce one: of a 204 it would be taken for the next answer."""
    length = answer.headers.get("content-length", "0")
    return length != "0" or "transfer-encoding" in answer.headers


class _SurplusError(NetworkError):
    """An answer came to no request."""

    def __init__(self) -> None:
        super().__init__("the server answers more often than it is asked")


class _PipelinedConnection:
    """A connection, and what has been read from it."""

    def __init__(self, connection: Connection, round_max: int) -> None:
        self.connection = connection
        self.round_max = round_max
        self.answered = 0
        self.closes = False
        self._http = h11.Connection(h11.CLIENT)
        self._read_bytes = 0

    def send(self, data: bytes) -> None:
        """Send it all, or as much as is read there."""
        # A server that has closed may have answered before that, and reading shows it. If it has
        # not, reading fails too.
        with contextlib.suppress(BrokenError):
            self.connection.send(data)

    def answer(self) -> Answer:
        """The next one."""
        self._http.send(_REQUEST)
        self._http.send(h11.EndOfMessage())
        self._read_bytes = 0
        body = bytearray()
        response: h11.Response | None = None
        while True:
            try:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._read()
            except (BrokenError, h11.RemoteProtocolError):
                if response is None or response.status_code < 300:
                    raise
                break  # a status that accepts nothing is clear without its body
            if isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            ends = isinstance(event, h11.EndOfMessage) or len(body) > ANSWER_CAP_BYTES
            if ends and response is not None:
                break
        self.answered += 1
        status, verified = response.status_code, self.connection.verified
        answer = answer_of(status, response.headers, body, verified=verified)
        ended = self._http.their_state is not h11.DONE or self._http.trailing_data[1]
        self.closes = ended or (status == 204 and announces_body(answer))
        if not self.closes:
            self._http.start_next_cycle()
        return answer

    def has_rest(self) -> bool:
        """Whether bytes have come that no request asked for."""
        in_body = self._http.their_state is h11.SEND_BODY  # of an answer that was too long
        return bool(self._http.trailing_data[0]) and not in_body

    def _read(self) -> None:
        data = self.connection.recv(_RECV_BYTES)
        self._read_bytes += len(data)
        if self._read_bytes > READ_CAP_BYTES:
            raise BrokenError("the answer is too long")
        between = self._http.their_state is h11.SEND_RESPONSE and not self._http.trailing_data[0]
        if not data and between:
            raise BrokenError("the server closed the connection without an answer")
        self._http.receive_data(data)
