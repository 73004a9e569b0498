"""The exchange under way: every wait of it ends, by a deadline or by an abort.

Theory of operation. A time limit on each socket call bounds nothing: a peer that drips one byte a
second passes all of them. So the limit belongs to the exchange. ``begin`` sets one
instant, and every wait (for a look-up, a connection, bytes, room for bytes) ends by then. The one
place to wait is a bell, which ``abort`` rings. An abort lasts until ``rearm``, because one that
comes between two waits must end the next one too.
"""

import math
from collections.abc import Iterable

from telemetry_agent.clock import Clock
from telemetry_agent.model import UploadState
from telemetry_agent.tasks import Bell
from telemetry_agent.upload.formats.answers import words

ANSWER_CAP_BYTES = 1024 * 1024
"""Of the body of an answer; more is not read."""
READ_CAP_BYTES = 2 * ANSWER_CAP_BYTES
"""Of an answer, with all heads and framing."""


class NetworkError(Exception):
    """The network did not carry the exchange. The text says why, for the user."""

    def __init__(self, reason: str, state: UploadState = "unreachable") -> None:
        super().__init__(reason)
        self.state: UploadState = state


class BrokenError(NetworkError):
    """The connection was there and broke."""


class CurrentExchange:
    """The exchange under way: its deadline, its abort, and what it has done.

    One thread exchanges; any thread may abort.
    """

    def __init__(self, clock: Clock) -> None:
        self.sent_bytes = 0
        """Since the start, at the sockets; so is ``received_bytes``."""
        self.received_bytes = 0
        self.connected = False
        """Whether this exchange opened a connection (or tried)."""
        self.answering = False
        """Whether a byte of the answer of this exchange has come."""
        self._is_http = False  # what has come of the answer
        self._ended = False  # the connection, from the other side
        self.aborted = False
        """Whether ``abort`` was called, and no ``rearm`` since."""
        self.timeout_s = 0.0
        """Of the whole exchange."""
        self._clock = clock
        self._bell = Bell()
        self._until_s = 0.0

    @property
    def now_s(self) -> float:
        """Monotonic."""
        return self._clock.monotonic_s()

    def begin(self, timeout_s: float) -> None:
        """Start an exchange that must be over in ``timeout_s`` seconds."""
        self.timeout_s = timeout_s
        self._until_s = self.now_s + timeout_s
        self.connected = self.answering = False

    def abort(self) -> None:
        """End what is under way, and all that is begun before ``rearm``. Any thread may call."""
        self.aborted = True
        self._bell.ring()

    def rearm(self) -> None:
        """Allow exchanges again after an abort."""
        self.aborted = False

    @property
    def may_repeat(self) -> bool:
        """Whether a failed request may be sent once more, on a new connection.

        Only if it failed on a kept connection, before any byte of an answer: the server may have
        closed that one while the request was on its way.
        """
        over = self.aborted or self.now_s >= self._until_s
        return not (self.connected or self.answering or over)

    def check(self, doing: str) -> float:
        """Seconds that are left for what has not happened yet.

        Raises:
            NetworkError: aborted, or the deadline has passed: "``doing`` within 30 s".
        """
        if self.aborted:
            raise NetworkError("stopped")
        left_s = self._until_s - self.now_s
        if left_s <= 0:
            raise NetworkError(f"{doing} within {self.timeout_s:g} s")
        return left_s

    def wait(
        self, doing: str, watched: Iterable[tuple[int, int]], wait_s: float = math.inf
    ) -> None:
        """Wait for one of the descriptors, at most for ``wait_s`` seconds.

        Raises:
            NetworkError: as ``check``.
        """
        self._bell.clear()  # before the check: an abort after this line ends the wait
        self._bell.wait(min(self.check(doing), wait_s), watched)

    def unreadable(self, error: Exception) -> str:
        """Why there is no answer. ``error`` is what h11 reports of the bytes that came."""
        if not self.answering:
            return "the server closed the connection without an answer"
        if self._ended and self._is_http:
            return "the answer broke off: the connection closed"
        return f"what came back is not HTTP: {words(str(error))}"

    def note_connecting(self) -> None:
        """A connection is opened for this exchange."""
        self.connected = True
        self._ended = False

    def note_answer(self, data: bytes) -> None:
        """These bytes of the answer have come."""
        if not self.answering:
            self.answering = True
            self._is_http = b"HTTP/".startswith(data[:5])

    def note_sent(self, count: int) -> None:
        """Count bytes that have left."""
        self.sent_bytes += count

    def note_received(self, count: int) -> None:
        """Count bytes that have come; 0: the connection has ended."""
        self.received_bytes += count
        self._ended = not count
