"""The sockets to the endpoint, and the exchange under way: every wait of it ends.

Theory of operation. A time limit on each socket call bounds nothing: a peer that drips one byte a
second passes all of them. So the limit belongs to the exchange. ``Dialer.begin`` sets one instant,
and every wait (for a look-up, a connection, bytes, room for bytes) ends by then. Sockets never
block: the one place to wait is a bell, which ``abort`` rings. An abort lasts until ``rearm``,
because one that comes between two waits must end the next one too.
"""

import math
import socket
import ssl
from collections.abc import Callable, Iterable

from telemetry_agent.addresses import Resolve, Resolver, UnreachableError, resolve
from telemetry_agent.clock import Clock
from telemetry_agent.connecting import Connecting
from telemetry_agent.fields import rfc3339
from telemetry_agent.model import UploadState
from telemetry_agent.tasks import Bell
from telemetry_agent.upload.interfaces import NoAnswer, Speaks

_CLOCK_IS_RIGHT_MS = 600_000

ANSWER_CAP_BYTES = 1024 * 1024
"""Of the body of an answer; more is not read."""
READ_CAP_BYTES = 2 * ANSWER_CAP_BYTES
"""Of an answer, with all heads and framing."""


class NetworkError(Exception):
    """The network did not carry the exchange. The text says why, for the user."""

    def __init__(
        self,
        reason: str,
        state: UploadState = "unreachable",
        proxy_status: int = 0,
        *,
        refuses_certificate: bool = False,
        speaks: Speaks | None = None,
    ) -> None:
        super().__init__(reason)
        self.no_answer = NoAnswer(
            reason,
            state,
            proxy_status=proxy_status,
            refuses_certificate=refuses_certificate,
            speaks=speaks,
        )
        """What it means for the exchange."""


class BrokenError(NetworkError):
    """The connection was there and broke."""


class Dialer:
    """Opens connections to one endpoint, and ends each wait on them: by the deadline or an abort.

    One thread exchanges; any thread may abort.

    Args:
        resolve: finds the addresses of a name.
        gnss_ms: UTC now according to the receiver, in milliseconds since 1970; ``None``: unknown.
            It distinguishes an expired certificate from a wrong clock.
        keepalive_s: how long an idle connection is kept.
    """

    def __init__(
        self,
        clock: Clock,
        resolve: Resolve = resolve,
        gnss_ms: Callable[[], int | None] = lambda: None,
        keepalive_s: float = 30.0,
    ) -> None:
        self.sent_bytes = self.received_bytes = 0
        """Since the start, at the sockets: with TLS and all heads."""
        self.aborted = False
        """Whether ``abort`` was called, and no ``rearm`` since."""
        self.timeout_s = 0.0
        """Of the whole exchange."""
        self.idle_max_s = keepalive_s
        """A connection that was idle for longer is not used again."""
        self.tls_session: ssl.SSLSession | None = None
        """Of the last connection."""
        self._clock = clock
        self._resolver = Resolver(resolve)
        self._gnss_ms = gnss_ms
        self._keepalive_s = keepalive_s
        self._bell = Bell()
        self._until_s = 0.0
        # What has happened to this request.
        self._connected = False  # or tried
        self._answering = False  # some of the answer has come

    @property
    def now_s(self) -> float:
        """Monotonic."""
        return self._clock.monotonic_s()

    def begin(self, timeout_s: float) -> None:
        """Start an exchange, of one request or several, that must be over in ``timeout_s``."""
        self.timeout_s = timeout_s
        self._until_s = self.now_s + timeout_s

    def begin_request(self) -> None:
        """Start a request, or several at once, that no earlier one can be mistaken for."""
        self._connected = self._answering = False

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
        return not (self._connected or self._answering or over)

    def connect(self, host: str, port: int) -> socket.socket:
        """Connect to any address of ``host``; the socket does not block.

        Raises:
            NetworkError: none could be reached, the exchange was aborted, or its time has passed.
        """
        self._connected = True
        # The look-up has no limit but the deadline.
        connecting = Connecting(self._resolver, host, port, self.now_s, look_up_s=math.inf)
        try:
            return connecting.run(
                self._clock,
                lambda wait_s, watched: self.wait(connecting.doing, watched, wait_s),
            )
        except UnreachableError as error:
            raise NetworkError(str(error), error.state) from error

    def count(self, *, sent_bytes: int = 0, received_bytes: int = 0) -> None:
        """These went through a socket."""
        self.sent_bytes += sent_bytes
        self.received_bytes += received_bytes

    def note_answer(self) -> None:
        """Note that some of the answer has come."""
        self._answering = True

    def no_answer(self, error: NetworkError) -> NoAnswer:
        """Why no answer came: an abort looks like a failure of the network."""
        return NoAnswer("stopped") if self.aborted else error.no_answer

    def note_died_idle(self, idle_s: float) -> None:
        """Note that a connection that was idle for ``idle_s`` no longer carried anything.

        A NAT forgets an idle connection and notifies neither end: what is sent on it later is
        lost, and only silence shows it. After the first time, a connection that was idle for half
        as long is not used again.
        """
        self.idle_max_s = min(self.idle_max_s, idle_s / 2)

    def route_changed(self) -> None:
        """Forget what was learned of NATs: another route has others."""
        self.idle_max_s = self._keepalive_s

    def note_tls_session(self, session: ssl.SSLSession | None) -> None:
        """Keep the TLS session of a connection that ends."""
        self.tls_session = session

    def doubt_of_the_clock(self) -> str:
        """What to add to the report of a certificate that is expired or not yet valid."""
        wall_ms, gnss_ms = self._clock.wall_ms(), self._gnss_ms()
        if gnss_ms is None:
            return " (or this machine's clock is wrong)"
        if abs(wall_ms - gnss_ms) < _CLOCK_IS_RIGHT_MS:
            return ""
        return (
            f": this machine's clock is wrong: it says {rfc3339(wall_ms)}, GNSS says "
            f"{rfc3339(gnss_ms)}; set the clock"
        )

    def wait(
        self, doing: str, watched: Iterable[tuple[int, int]], wait_s: float = math.inf
    ) -> None:
        """Wait for descriptors with their events, and raise as ``left_s``."""
        # Before the check that ``left_s`` makes: an abort after this line ends the wait.
        self._bell.clear()
        self._bell.wait(min(self.left_s(doing), wait_s), watched)

    def left_s(self, doing: str) -> float:
        """The seconds that the exchange has left.

        Raises:
            NetworkError: aborted, or the deadline has passed: "``doing`` within 30 s".
        """
        if self.aborted:
            raise NetworkError("stopped")
        left_s = self._until_s - self.now_s
        if left_s <= 0:
            raise NetworkError(f"{doing} within {self.timeout_s:g} s")
        return left_s
