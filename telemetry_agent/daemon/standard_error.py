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
    """The raw stream below ``sys.stderr``; starts its thread with the first line.

    Args:
        fd: the descriptor.
    """

    dropped_line: Callable[[int], str]
    """Makes the line that is written in place of this number of lines."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.dropped_line = "{} lines were dropped\n".format
        self._fd = fd
        self._clock = Clock()
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._end_s = float("inf")
        self._end_bell = Bell()
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
        with self._changed:
            # After a gap, nothing may follow until the gap is reported.
            full = self._waiting_bytes + len(data) > _BUFFER_BYTES
            if not self._has_thread():
                self._write_now(data)
            elif self._dropped or full:
                self._dropped += data.count(b"\n")
            else:
                self._waiting.append(data)
                self._waiting_bytes += len(data)
            self._changed.notify()
        return len(data)

    def _write_now(self, data: bytes) -> None:
        """Without a thread: write what there is room for at this moment."""
        self._end_s = self._clock.monotonic_s()
        if self._dropped:
            data = self.dropped_line(self._dropped).encode("utf-8", "replace") + data
        self._dropped = 0 if self._write(data) else self._dropped + data.count(b"\n")
        self._end_s = float("inf")

    def end(self, timeout_s: float) -> None:
        """Write the buffer, as far as that is possible in this time."""
        with self._changed:
            self._end_s = self._clock.monotonic_s() + timeout_s
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            self._end_bell.ring()
            thread.join(timeout_s + _LAST_LINE_S)

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
        while (data := self._next()) is not None:
            if not self._write(data):
                break
        else:
            return
        # The reader was too slow. There may be room for one more line.
        with self._changed:
            self._dropped += sum(line.count(b"\n") for line in (data, *self._waiting))
            self._waiting.clear()
        if (last := self._next()) is not None:
            self._put(last)

    def _next(self) -> bytes | None:
        """Wait for the next data to write; ``None`` at the end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting or self._dropped or self._end_s < float("inf")
            )
            if self._waiting:
                data = self._waiting.popleft()
                self._waiting_bytes -= len(data)
                return data
            count, self._dropped = self._dropped, 0
        return self.dropped_line(count).encode("utf-8", "replace") if count else None

    def _write(self, data: bytes) -> bool:
        """Write all of it. Returns whether there was room before the end."""
        rest = memoryview(data)
        while rest:
            if not self._has_room():
                return False
            rest = rest[self._put(rest[: select.PIPE_BUF]) :]
        return True

    def _has_room(self) -> bool:
        """Wait for room. Returns whether there is some before the end."""
        if self._end_s == float("inf") and self._end_bell.wait(None, [(self._fd, select.POLLOUT)]):
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(max(0.0, self._end_s - self._clock.monotonic_s()) * 1000))

    def _put(self, data: bytes | memoryview) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:  # another process that shares it has set O_NONBLOCK
            return 0
        except OSError:  # its reader has ended
            return len(data)
