"""A GNSS receiver on a pty, which sends epochs at their pace to the program that opens it.

An epoch is the bytes of one instant. Epochs come from a simulated drive (``drive``) or from a
recording (``replay``).
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import pty
import re
import select
import struct
import termios
import threading
import tty
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from telemetry_agent.clock import Clock
from telemetry_agent.errors import AgentError
from telemetry_agent.tasks import Bell

_TIME_OF_DAY = re.compile(rb"\$..(?:(?:GGA|RMC|GNS|ZDA|GBS),|GLL,[^,]*,[^,]*,[^,]*,[^,]*,)([\d.]+)")


def replay(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Cut a recording into epochs, where the time of day changes. No byte is lost or changed."""
    epoch: list[bytes] = []
    time = b""
    for line in lines:
        found = _TIME_OF_DAY.search(line)
        if found and found[1] != time:
            if time:
                yield b"".join(epoch)
                epoch = []
            time = found[1]
        epoch.append(line)
    if epoch:
        yield b"".join(epoch)


_IN_ACCESS, _IN_CLOSE, _IN_OPEN = 0x01, 0x18, 0x20  # inotify(7)
_EVENT = struct.Struct("iIII")
_SETTLE_S = 0.1


class _StoppedError(Exception):
    pass


class Simulator:
    """A receiver on a pty, which sends epochs in a thread of its own. It is unplugged at the end.

    It starts shortly after a program first opens the device, because many programs discard what
    arrives while they open it. From then on it sends at its pace. Unread bytes wait, and when the
    pty is full, the receiver waits.

    The far end of the pty stays open here too, so that unread bytes stay readable. So the master
    never shows whether another program has the device open (POLLHUP comes only when no program
    has, this one included). inotify reports each open, close and read of the node.

    Args:
        epochs: what it sends: a ``Drive``, or ``replay`` of a recording.
        rate_hz: epochs per second; 0 sends as fast as the reader takes them.
        link: a symlink to the device, on whatever node it is; it exists only while plugged in.

    Raises:
        AgentError: no pty can be opened, or the link cannot be made.
    """

    def __init__(
        self, epochs: Iterable[bytes], *, rate_hz: float = 1.0, link: Path | None = None
    ) -> None:
        self.sent = 0
        """Epochs that were sent."""
        self.done = threading.Event()
        """All epochs were sent and read, or the simulator was stopped."""
        self._epochs = epochs
        self._interval_s = 1 / rate_hz if rate_hz else 0.0
        self._next_s: float | None = None
        """When to send; ``None``: no program has opened the device yet."""
        self._link = link
        self._clock = Clock()
        self._hushed = self._stopping = False
        self._quiet = threading.Event()
        self._bell = Bell()
        self._thread = threading.Thread(target=self._run, name="simulator", daemon=True)
        self._closing = contextlib.ExitStack()
        try:
            self._plug()
        except OSError as error:
            self._closing.close()
            at, remedy = (f" at {link}", "name another --link") if link else ("", "")
            said = f"cannot make a simulated receiver{at}: {error.strerror}"
            raise AgentError(said, remedy) from error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._bell.ring()
        self._thread.join(2)  # the recording may be a pipe that says nothing
        self._closing.close()

    @property
    def device(self) -> Path:
        """The path to open: the link if there is one, else the node."""
        return self._link or Path(self._node)

    def hush(self) -> None:
        """Stop sending. Sent bytes can still be read."""
        self._hushed = True
        self._bell.ring()
        self._quiet.wait()

    def _plug(self) -> None:
        self._master, self._far = pty.openpty()
        self._closing.callback(os.close, self._far)
        self._closing.callback(os.close, self._master)
        tty.setraw(self._far)
        os.set_blocking(self._master, False)
        self._node = os.ttyname(self._far)
        libc = ctypes.CDLL(None, use_errno=True)
        self._events: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._closing.callback(os.close, self._events)
        wanted = _IN_OPEN | _IN_CLOSE | _IN_ACCESS
        if libc.inotify_add_watch(self._events, os.fsencode(self._node), wanted) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        if self._link:
            _point(self._link, self._node)
            self._closing.callback(_unlink, self._link, self._node)

    # Only the simulator's thread calls the rest.

    def _run(self) -> None:
        try:
            while self._next_s is None and not self._hushed:
                self._wait(None)
            for epoch in self._epochs:
                if not self._send(epoch):
                    break
                self.sent += 1
            self._quiet.set()
            # Written bytes reach the device a little later, and look read until then.
            while self._wait(_SETTLE_S) or not self._is_taken():
                continue
            self.done.set()
            while True:
                self._wait(None)
        except _StoppedError:
            pass
        finally:
            self._quiet.set()
            self.done.set()

    def _send(self, epoch: bytes) -> bool:
        """Send an epoch when it is due; ``False`` if sending was stopped."""
        while not self._hushed:
            now_s, due_s = self._clock.monotonic_s(), self._next_s or 0.0
            if due_s > now_s:
                self._wait(due_s - now_s)
            elif epoch:
                try:
                    epoch = epoch[os.write(self._master, epoch) :]
                except BlockingIOError:
                    self._wait(None, for_room=True)
            else:
                self._next_s = max(due_s + self._interval_s, now_s)
                return True
        return not epoch  # stopped between its last byte and here, it was sent all the same

    def _wait(self, timeout_s: float | None, *, for_room: bool = False) -> bool:
        """Wait for a use of the device or the end; ``False`` if the time passed."""
        master = select.POLLIN | (select.POLLOUT if for_room else 0)
        watched = [(self._events, select.POLLIN), (self._master, master)]
        touched = self._bell.wait(timeout_s, watched)
        woken = self._bell.clear() or bool(touched)
        with contextlib.suppress(BlockingIOError):
            for _, mask, _, _ in _EVENT.iter_unpack(os.read(self._events, 256 * _EVENT.size)):
                if mask & _IN_OPEN and self._next_s is None:
                    self._next_s = self._clock.monotonic_s() + _SETTLE_S
                if mask & _IN_CLOSE:
                    # A serial port is not exclusive any more then; this pty, still open, would be.
                    fcntl.ioctl(self._far, termios.TIOCNXCL)
        with contextlib.suppress(BlockingIOError):
            os.read(self._master, 4096)  # commands to the receiver are ignored
        if self._stopping:
            raise _StoppedError
        return woken

    def _is_taken(self) -> bool:
        """Whether all bytes that have reached the device were read."""
        return fcntl.ioctl(self._far, termios.FIONREAD, b"\0" * 4) == b"\0" * 4


def _point(link: Path, node: str) -> None:
    """Let ``link`` name ``node`` atomically."""
    if link.exists() and not link.is_symlink():
        raise FileExistsError(errno.EEXIST, "exists and is not a link", str(link))
    new = link.with_name(f".{link.name}.{os.getpid()}")
    new.symlink_to(node)
    new.replace(link)


def _unlink(link: Path, node: str) -> None:
    """Remove the link, unless another receiver has taken it."""
    with contextlib.suppress(OSError):
        if link.readlink() == Path(node):
            link.unlink()
