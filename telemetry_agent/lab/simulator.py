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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
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


class _Pty:
    """One pty. Its far end stays open here too, so that unread bytes stay readable.

    So the master never shows whether another program has the device open (POLLHUP comes only when
    no program has, this one included). inotify reports each open, close and read of the node.
    """

    def __init__(self) -> None:
        self.master, self._far = pty.openpty()
        tty.setraw(self._far)
        os.set_blocking(self.master, False)
        self.device = os.ttyname(self._far)
        self.opened_s: float | None = None
        libc = ctypes.CDLL(None, use_errno=True)
        self.events: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        wanted = _IN_OPEN | _IN_CLOSE | _IN_ACCESS
        if libc.inotify_add_watch(self.events, os.fsencode(self.device), wanted) < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def look(self, now_s: float) -> None:
        """Process what other programs did with the device."""
        with contextlib.suppress(BlockingIOError):
            for _, mask, _, _ in _EVENT.iter_unpack(os.read(self.events, 256 * _EVENT.size)):
                if mask & _IN_OPEN and self.opened_s is None:
                    self.opened_s = now_s
                if mask & _IN_CLOSE:
                    # A serial port is not exclusive any more then; this pty, still open, would be.
                    fcntl.ioctl(self._far, termios.TIOCNXCL)
        with contextlib.suppress(BlockingIOError):
            os.read(self.master, 4096)  # commands to the receiver are ignored

    def is_taken(self) -> bool:
        """Whether all bytes that have reached the device were read."""
        return fcntl.ioctl(self._far, termios.FIONREAD, b"\0" * 4) == b"\0" * 4

    def unplug(self) -> None:
        """Close the line: readers get an error or an empty read."""
        os.close(self.master)
        os.close(self.events)

    def forget(self) -> None:
        """Release the number of the node."""
        os.close(self._far)


class _StoppedError(Exception):
    pass


class Simulator:
    """A receiver on a pty, which sends epochs in a thread of its own.

    It starts shortly after a program first opens the device, because many programs discard what
    arrives while they open it. From then on it sends at its pace. Unread bytes wait, and when the
    pty is full, the receiver waits.

    Args:
        epochs: what it sends: a ``Drive``, or ``replay`` of a recording.
        rate_hz: epochs per second; 0 sends as fast as the reader takes them.
        link: a symlink to the device, on whatever node it is; it exists only while plugged in.
        clock: paces the epochs.

    Raises:
        AgentError: no pty can be opened, or the link cannot be made.
    """

    def __init__(
        self,
        epochs: Iterable[bytes],
        *,
        rate_hz: float = 1.0,
        link: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.sent = 0
        """Epochs that were sent, whole or cut by ``unplug``."""
        self.done = threading.Event()
        """All epochs were sent and read, or the simulator was stopped."""
        self._epochs = epochs
        self._interval_s = 1 / rate_hz if rate_hz else 0.0
        self._next_s = 0.0
        self._hushed = False
        self._link = link
        self._clock = clock or Clock()
        self._line: _Pty | None = None
        self._unplugged: _Pty | None = None
        self._orders: SimpleQueue[tuple[Callable[[], None], Future[None]]] = SimpleQueue()
        self._stopping = False
        self._bell = Bell()
        self._thread = threading.Thread(target=self._run, name="simulator", daemon=True)
        self._plug()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._bell.ring()
        self._thread.join()
        self._unplug()
        if self._unplugged:
            self._unplugged.forget()

    @property
    def device(self) -> Path:
        """The path to open: the link if there is one, else the node."""
        return self._link or Path(self._node)

    def unplug(self) -> None:
        """Pull the cable. Sent bytes that were not read are lost; the next epoch waits."""
        self._order(self._unplug)

    def hush(self) -> None:
        """Stop sending. Sent bytes can still be read."""
        self._order(self._hush)

    def replug(self) -> None:
        """Plug the cable in again: the same receiver, on another node.

        Raises:
            AgentError: as the constructor.
        """
        self._order(self._plug)

    def _order(self, obey: Callable[[], None]) -> None:
        """Run ``obey`` in the thread, the only user of the line; return when it is done."""
        done: Future[None] = Future()
        self._orders.put((obey, done))
        self._bell.ring()
        done.result()

    # Only the simulator's thread calls the rest; before it starts and after it ends, its owner.

    def _run(self) -> None:
        try:
            for epoch in self._epochs:
                if not self._send(epoch):
                    break
                self.sent += 1
            self._wait_until_taken()
            self.done.set()
            while True:
                self._wait(None)
        except _StoppedError:
            pass
        finally:
            self.done.set()

    def _send(self, epoch: bytes) -> bool:
        """Send an epoch when it is due; ``False`` if sending was stopped."""
        while (left_s := self._left_s()) is None or left_s > 0:
            self._wait(left_s)
            if self._hushed:
                return False
        self._next_s = max(self._next_s + self._interval_s, self._clock.monotonic_s())
        line = self._line
        while epoch and line and line is self._line:
            try:
                epoch = epoch[os.write(line.master, epoch) :]
            except BlockingIOError:
                self._wait(None, for_room=True)
        return True

    def _left_s(self) -> float | None:
        """Seconds until the next epoch; ``None`` if no program has opened the device yet."""
        if self._line is None or self._line.opened_s is None:
            return None
        due_s = max(self._next_s, self._line.opened_s + _SETTLE_S)
        return due_s - self._clock.monotonic_s()

    def _wait_until_taken(self) -> None:
        # Written bytes reach the device a little later, and look read until then.
        while self._wait(_SETTLE_S) or not (self._line and self._line.is_taken()):
            continue

    def _wait(self, timeout_s: float | None, *, for_room: bool = False) -> bool:
        """Wait for an order or a use of the device; ``False`` if the time passed."""
        watched = []
        if self._line:
            master = select.POLLIN | (select.POLLOUT if for_room else 0)
            watched = [(self._line.events, select.POLLIN), (self._line.master, master)]
        touched = self._bell.wait(timeout_s, watched)
        woken = self._bell.clear() or bool(touched)
        if self._line:
            self._line.look(self._clock.monotonic_s())
        while not self._orders.empty():
            obey, done = self._orders.get()
            try:
                done.set_result(obey())
            except AgentError as error:
                done.set_exception(error)
        if self._stopping:
            raise _StoppedError
        return woken

    def _hush(self) -> None:
        self._hushed = True

    def _plug(self) -> None:
        if self._line:
            return
        try:
            line = _Pty()
            with contextlib.ExitStack() as failed:
                failed.callback(line.forget)
                failed.callback(line.unplug)
                if self._link:
                    _point(self._link, line.device)
                failed.pop_all()
        except OSError as error:
            raise AgentError(f"cannot make a simulated receiver: {error}") from error
        self._line, self._node = line, line.device
        if self._unplugged:
            self._unplugged.forget()
            self._unplugged = None

    def _unplug(self) -> None:
        """Close the line and keep the number of its node, so that the next line gets another."""
        if not self._line:
            return
        if self._link and _target(self._link) == self._node:
            self._link.unlink()
        self._line.unplug()
        self._unplugged, self._line = self._line, None


def _target(link: Path) -> str | None:
    try:
        return os.readlink(link)  # noqa: PTH115 - compared as the text that it is
    except OSError:
        return None


def _point(link: Path, node: str) -> None:
    """Let ``link`` name ``node`` atomically."""
    if link.exists() and not link.is_symlink():
        raise FileExistsError(errno.EEXIST, "exists and is not a link", str(link))
    new = link.with_name(f".{link.name}.{os.getpid()}")
    new.symlink_to(node)
    new.replace(link)
