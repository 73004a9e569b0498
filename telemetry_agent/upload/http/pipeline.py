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

Deadline and abort are those of ``dialer``.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from telemetry_agent.upload.http.connection import Connection
from telemetry_agent.upload.http.dialer import BrokenError, Dialer, NetworkError
from telemetry_agent.upload.http.http1 import Http1
from telemetry_agent.upload.interfaces import NoAnswer, OnAnswer

_log = logging.getLogger(__name__)

_ROUND_MAX = 128
_UNPIPELINED_S = 600.0


class Pipeline:
    """One connection to one server. For one thread."""

    def __init__(self, dialer: Dialer, open_connection: Callable[[], Connection]) -> None:
        """Nothing is opened yet."""
        self._dialer = dialer
        self._open = open_connection
        self._http: Http1 | None = None
        self._faults = 0  # in a row
        self._broken_size = 0  # requests in the last round that broke
        self._unpipelined_until_s = 0.0
        self._round_max = 1  # requests; of this connection, or of the next
        self._requests_max = math.inf  # of a connection, as an announced close has shown
        self._round = 0  # requests in the last round
        self._under_way = 0  # those of them that have no answer
        self._largest = 0  # requests in the largest round of this series

    def series(
        self,
        requests: Sequence[bytes],
        timeout_s: float,
        on_answer: OnAnswer,
        *,
        pipelined: bool = True,
    ) -> tuple[NoAnswer | None, int]:
        """Send the requests in their order; each waits for earlier answers unless ``pipelined``.

        No more is sent once half of ``timeout_s`` has passed, so that the rest is for answers.

        Returns:
            What ended it before each that was sent had an answer, and how many have none.
        """
        left = list(requests)
        until_s = self._dialer.now_s + timeout_s / 2
        self._dialer.begin(timeout_s)
        self._round = self._under_way = self._largest = 0
        goes_on = True
        try:
            while goes_on and left:
                goes_on = self._send_round(left, on_answer, _ROUND_MAX if pipelined else 1)
                goes_on = goes_on and self._dialer.now_s < until_s
        except NetworkError as error:
            self.drop()  # the answers that it still owes belong to this series
            surplus = isinstance(error, _SurplusError)
            # No answer to a request that was sent alone is the network, or the server.
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
        self._round_max = 1
        if self._http is not None:
            self._http.connection.close()
            self._http = None

    def _send_round(self, left: list[bytes], on_answer: OnAnswer, at_most: int) -> bool:
        """Send some, and take out those that have an answer. Returns whether to send more."""
        self._under_way = 0
        if self._largest <= 1:  # no earlier request of this series can be owed an answer
            self._dialer.begin_request()
            if self._http is not None and self._http.connection.stale():
                self.drop()
        http = self._http = self._http or Http1(self._open())
        sent = left[: min(self._round_size(http), at_most)]
        self._round = self._under_way = len(sent)
        self._largest = max(self._largest, self._round)
        http.send(sent)
        goes_on = True
        try:
            while self._under_way and not http.closes:
                goes_on = on_answer(http.answer()) and goes_on
                self._under_way -= 1
        except BrokenError:
            if not self._dialer.may_repeat:
                raise
            # The server closed the kept connection while the requests were on their way.
            self.drop()
            return self._send_round(left, on_answer, at_most)
        self._end_round(http)
        del left[: self._round - self._under_way]
        return goes_on

    def _end_round(self, http: Http1) -> None:
        """Learn how large the next round may be, and whether the connection can serve it."""
        surplus = not self._under_way and http.has_rest()
        if surplus and self._largest > 1:
            raise _SurplusError
        if http.closes:
            # A proxy closes each connection after the same number: end the last round there.
            self._requests_max = http.answered
        elif http.answered >= self._requests_max:
            self._requests_max = math.inf
        if http.closes or surplus or http.broke:
            # Only an announced close is no fault: the next connection goes on as large.
            reached = self._round_max if http.closes else 1
            self.drop()
            self._round_max = reached
        elif self._round == self._round_max:
            self._round_max = min(2 * self._round_max, _ROUND_MAX)

    def _round_size(self, http: Http1) -> int:
        """How many requests to send at once."""
        if self._dialer.now_s < self._unpipelined_until_s:
            return 1
        return int(min(self._round_max, self._requests_max - http.answered))

    def _note_fault(self, size: int) -> None:
        self._faults += 1
        self._broken_size = size
        if self._faults >= 2:
            self._unpipelined_until_s = self._dialer.now_s + _UNPIPELINED_S
            _log.info(
                "the server does not answer each of several requests that are sent together: "
                "sending one request at a time for 10 min"
            )


class _SurplusError(NetworkError):
    """An answer came to no request."""

    def __init__(self) -> None:
        super().__init__("the server answers more often than it is asked")
