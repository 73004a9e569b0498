"""HTTP/1.1 on one connection: requests as bytes, and one answer after another. Imports h11."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from http import HTTPStatus

import h11

from telemetry_agent.model import Answer
from telemetry_agent.upload.http.connection import Connection, is_tls
from telemetry_agent.upload.http.dialer import (
    ANSWER_CAP_BYTES,
    READ_CAP_BYTES,
    BrokenError,
    NetworkError,
)
from telemetry_agent.upload.quoting import quoted, words

_RECV_BYTES = 65536
_HEAD_MAX_BYTES = 100 * 1024


class RequestHead:
    """What the requests of a series have in common. h11 checks it once, because they may be many.

    Raises:
        NetworkError: a header cannot be sent.
    """

    def __init__(self, method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        try:
            request = h11.Request(method=method, target=target, headers=list(headers))
        except h11.LocalProtocolError as error:
            raise NetworkError(f"the request cannot be sent: {error}") from error
        head = h11.Connection(h11.CLIENT).send(request) or b""
        before, _, self._rest = head.partition(b" HTTP/1.1")
        self._before, _, self._query = before.partition(b"?")

    def request(self, body: bytes = b"", query: str = "") -> bytes:
        """The request on the wire; ``query`` is added to that of the target."""
        both = b"&".join(filter(None, (self._query, query.encode("ascii"))))
        target = b"%b?%b" % (self._before, both) if both else self._before
        return b"%b HTTP/1.1%b%b" % (target, self._rest, body)


@cache
def _asked(method: str) -> h11.Request:
    """For h11 only the method of a request matters to its answer."""
    return h11.Request(method=method, target="/", headers=[("Host", "any")])


class Http1:
    """Requests to one connection, and their answers: only the order connects the two.

    If a server answers twice, its second answer would be taken for the answer to the next batch,
    which the server never saw. So h11 is given one request at a time: bytes that are left when an
    answer is complete stay unread, and their connection is closed.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.answered = 0
        """How many answers have come."""
        self.broke = False
        """Whether the last requests were not sent to their end."""
        self.closes = False
        """Whether no further answer can come."""
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_MAX_BYTES)
        self._read_bytes = 0
        self._is_one = False  # the last write had one request

    def send(self, requests: Sequence[bytes]) -> None:
        """Send them in one write, all or as much as is read there."""
        self.broke, self._is_one = False, len(requests) == 1
        try:
            self.connection.send(b"".join(requests))
        except BrokenError:
            # A server that has closed may have answered before that, and reading shows it. If it
            # has not, reading fails too.
            self.broke = True

    def answer(self, method: str = "POST") -> Answer:
        """The next one, to a request with this method; its body is cut.

        Raises:
            NetworkError: the exchange ended before it was complete, or it is not HTTP.
        """
        self._http.send(_asked(method))
        self._http.send(h11.EndOfMessage())
        self._read_bytes = 0
        body = bytearray()
        response: h11.Response | None = None
        try:
            while True:
                while (event := self._http.next_event()) is h11.NEED_DATA:
                    self._read()
                if isinstance(event, h11.Response):
                    response = event
                elif isinstance(event, h11.Data):
                    body += event.data
                # h11 pauses when a proxy has made a tunnel.
                ends = isinstance(event, h11.EndOfMessage) or event is h11.PAUSED
                if response is not None and (ends or len(body) > ANSWER_CAP_BYTES):
                    break
        # ValueError: h11 before 0.15
        except (NetworkError, h11.RemoteProtocolError, ValueError) as error:
            if response is None and isinstance(error, NetworkError):
                raise
            # A status that accepts nothing is clear without its body, a yes is not.
            if response is None or response.status_code < 300:
                raise self._no_answer(error) from error
        if response.status_code < 300 and self.broke and self._is_one:
            raise NetworkError(f"{response.status_code} before the request was sent")
        return self._ended(response, body)

    def has_rest(self) -> bool:
        """Whether bytes have come that no request asked for."""
        in_body = self._http.their_state is h11.SEND_BODY  # of an answer that was too long
        return bool(self._http.trailing_data[0]) and not in_body

    def _no_answer(self, error: Exception) -> NetworkError:
        if isinstance(error, NetworkError):
            return NetworkError(f"the answer broke off: {error}", error.no_answer.state)
        if self._http.trailing_data[1]:
            return NetworkError("the answer broke off: the connection closed")
        if getattr(error, "error_status_hint", 0) == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            size = _HEAD_MAX_BYTES >> 10
            return NetworkError(f"the answer has headers, or a line, of more than {size} KiB")
        said = re.sub(r"bytearray\(b(.*)\)", r"\1", str(error))  # h11 quotes its buffer
        return NetworkError(f"what came back is not HTTP: {words(said)}", speaks="other")

    def _ended(self, response: h11.Response, body: bytearray) -> Answer:
        self.answered += 1
        headers: dict[str, str] = {}
        for raw_name, raw_value in response.headers:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        length = headers.get("content-length", "")
        # h11 before 0.15 lets thousands of digits through, and ``int`` refuses those.
        size = max(len(body), int(length[:20]) if length.isdecimal() else 0)
        # The body of a 204 would be taken for the next answer.
        has_body = length not in {"", "0"} or "transfer-encoding" in headers
        ended = self._http.their_state is not h11.DONE or self._http.trailing_data[1]
        self.closes = ended or (response.status_code == 204 and has_body)
        if not self.closes:
            self._http.start_next_cycle()
        return Answer(
            status=response.status_code,
            headers=headers,
            body=bytes(body[:ANSWER_CAP_BYTES]),
            verified_tls=self.connection.tls is not None,
            too_long_bytes=size if size > ANSWER_CAP_BYTES else None,
        )

    def _read(self) -> None:
        data = self.connection.recv(_RECV_BYTES)
        self._read_bytes += len(data)
        if self._read_bytes > READ_CAP_BYTES:
            raise BrokenError("the answer is too long")
        between = self._http.their_state is h11.SEND_RESPONSE and not self._http.trailing_data[0]
        if not data and between:
            raise BrokenError("the server closed the connection without an answer")
        if between and not b"HTTP/".startswith(data[:5]):
            # Other protocols greet and wait, so this may be all that comes.
            tls = is_tls(data)
            said = "this port speaks TLS" if tls else quoted(data)
            raise NetworkError(
                f"what came back is not HTTP: {said}", speaks="tls" if tls else "other"
            )
        self._http.receive_data(data)
