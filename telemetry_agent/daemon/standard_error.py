"""A standard error whose writers never block.

A write blocks if the pipe is not read (Docker, runit), if the terminal is stopped, or if the
journal hangs. So writes go into a bounded buffer, which a thread of its own empties. Lines that do
not fit into the buffer are dropped, and their number is written in their place.

O_NONBLOCK is not a solution: it would apply to all processes that share the terminal or the pipe.

The thread writes only when there is room (``poll``), and at most PIPE_BUF bytes at a time, which a
pipe with room accepts at once. So the thread rarely blocks, and a pipe that ``poll`` reports as
full usually has room for one more line at the end. A thread that does block does not delay the
exit.
"""

import io
import os
import select
import threading
from collections import deque
from collections.abc import Callable

from telemetry_agent.clock import Clock
from telemetry_agent.tasks import Bell

_BUFFER_BYTES = 256 * 1024
_LAST_LINE_S = 0.2


def is_read_by_journald() -> bool:
    """Whether standard error goes to journald: JOURNAL_STREAM alone may be inherited."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class StandardError(io.RawIOBase):
    """The raw stream below ``sys.stderr``; starts its thread with the first line."""

    dropped_line: Callable[[int], str]
    """Makes the line that is written in place of this number of lines."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.dropped_line = "{} lines were dropped\n".format
        self._fd = fd
        self._clock = Clock()
        self._lock = threading.RLock()
        self._bell = Bell()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._end_s = float("inf")
        self._thread: threading.Thread | None = None

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._fd)

    def write(self, data: bytes) -> int:  # type: ignore[override]  # of a text stream's encoder
        """Put ``data`` into the buffer, or count it as dropped. Never blocks."""
        data = bytes(data)
        with self._lock:
            # After a gap, nothing may follow until the gap is reported.
            if self._dropped or self._waiting_bytes + len(data) > _BUFFER_BYTES:
                self._dropped += data.count(b"\n")
            else:
                self._waiting.append(data)
                self._waiting_bytes += len(data)
            if not self._has_thread():
                self._write_waiting()
        self._bell.ring()
        return len(data)

    def end(self, timeout_s: float) -> None:
        """Write the buffer, as far as that is possible in this time."""
        self._end_s = self._clock.monotonic_s() + timeout_s
        self._bell.ring()
        if self._thread is not None:
            self._thread.join(timeout_s + _LAST_LINE_S)

    def _has_thread(self) -> bool:
        """Start the thread if necessary. Returns whether the system allows it."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="standard error", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while self._write_waiting():
            if self._end_s < float("inf"):
                return
            self._bell.wait(None)
            self._bell.clear()
        # The reader was too slow. There may be room for one more line.
        with self._lock:
            self._dropped += sum(line.count(b"\n") for line in self._waiting)
            self._waiting.clear()
        self._put(self._next())

    def _next(self) -> bytes:
        """The next data to write; empty if there is none."""
        with self._lock:
            if self._waiting:
                data = self._waiting.popleft()
                self._waiting_bytes -= len(data)
                return data
            count, self._dropped = self._dropped, 0
        return self.dropped_line(count).encode("utf-8", "replace") if count else b""

    def _write_waiting(self) -> bool:
        """Write what waits. Returns whether there was room for all of it before the end."""
        while rest := self._next():
            while rest:
                if not self._has_room():
                    with self._lock:
                        self._waiting.appendleft(rest)
                        self._waiting_bytes += len(rest)
                    return False
                rest = rest[self._put(rest[: select.PIPE_BUF]) :]
        return True

    def _has_room(self) -> bool:
        """Wait for room, without a thread not at all. Returns whether there is some by the end."""
        while True:
            left_s = self._end_s - self._clock.monotonic_s() if self._thread else 0.0
            if self._bell.wait(left_s, [(self._fd, select.POLLOUT)]):
                return True
            if left_s <= 0:
                return False
            self._bell.clear()

    def _put(self, data: bytes) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:  # another process that shares it has set O_NONBLOCK
            return 0
        except OSError:  # its reader has ended
            return len(data)
