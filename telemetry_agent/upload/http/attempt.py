"""One exchange at a time, whose every wait ends: by its deadline, or when told to stop.

Theory of operation. A time limit on each socket call bounds nothing: a peer that drips one byte a
second passes all of them, for ever. So the limit belongs to the exchange. ``begin`` sets one
instant, and each blocking call (a look-up, a connect, one ``send``, one ``recv``) is given no more
than what is left until then. TLS runs over memory buffers, so the handshake, too, is made of such
``send`` and ``recv``; there is no other place to block.

``abort`` ends the call that is under way: ``shutdown`` wakes a thread that connects, sends or
receives, and the condition wakes one that waits for a look-up. It lasts until ``rearm``, because
an abort that comes between two calls must end the next one too. Closing takes the same lock as
``abort``, so that a descriptor which the system gave to someone else is never shut down.
"""

import contextlib
import socket
import struct
import threading

from telemetry_agent.clock import Clock
from telemetry_agent.model import UploadState

_RST_AT_CLOSE = struct.pack("ii", 1, 0)  # linger: on, for 0 s


class NetworkError(Exception):
    """The network did not carry the exchange. The text says why, in words for the user."""

    def __init__(self, reason: str, state: UploadState = "unreachable") -> None:
        super().__init__(reason)
        self.state: UploadState = state


class BrokenError(NetworkError):
    """The connection was there and broke."""


class Attempt:
    """The exchange under way: its deadline, its abort, what it saw. Any thread may abort."""

    def __init__(self, clock: Clock) -> None:
        self.sent_bytes = 0
        """Since the start, at the sockets; so is ``received_bytes``."""
        self.received_bytes = 0
        self.connected = False
        """Whether this exchange opened a connection (or tried)."""
        self.answering = False
        """Whether a byte of the answer of this exchange has come."""
        self._clock = clock
        self._until_s = 0.0
        self._timeout_s = 0.0
        self._changed = threading.Condition()  # guards what follows
        self._aborted = False
        self._current: socket.socket | None = None

    def begin(self, timeout_s: float) -> None:
        """Start an exchange that must be over in ``timeout_s`` seconds."""
        self._timeout_s = timeout_s
        self._until_s = self._clock.monotonic_s() + timeout_s
        self.connected = self.answering = False

    def abort(self) -> None:
        """End what is under way, and all that is begun before ``rearm``. Any thread may call."""
        with self._changed:
            self._aborted = True
            if self._current is not None:
                # Unconnected, or gone already: then nobody waits for it.
                with contextlib.suppress(OSError):
                    self._current.shutdown(socket.SHUT_RDWR)
            self._changed.notify_all()

    def rearm(self) -> None:
        """Allow exchanges again after an abort."""
        with self._changed:
            self._aborted = False

    @property
    def aborted(self) -> bool:
        """Whether ``abort`` was called, and no ``rearm`` since."""
        return self._aborted

    @property
    def over(self) -> bool:
        """Whether nothing more can be done in this exchange: aborted, or its time has passed."""
        return self._aborted or self._clock.monotonic_s() >= self._until_s

    def left_s(self, what: str, sock: socket.socket | None = None) -> float:
        """Seconds that a call on ``sock`` may take; it is what an abort ends from now on.

        Raises:
            NetworkError: aborted, or the deadline has passed: "``what`` within 30 s".
        """
        with self._changed:
            if self._aborted:
                raise NetworkError("stopped")
            self._current = sock
        left_s = self._until_s - self._clock.monotonic_s()
        if left_s <= 0:
            raise NetworkError(f"{what} within {self._timeout_s:g} s")
        return left_s

    def close(self, sock: socket.socket) -> None:
        """Close ``sock``, never while an abort shuts it down."""
        with self._changed:
            if self._current is sock:
                self._current = None
            if self._aborted and sock.fileno() >= 0:
                # With RST: else the kernel says goodbye into a dead network for minutes, and
                # whoever wants to use it when it lives again waits for the answer to that.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_AT_CLOSE)
            sock.close()
