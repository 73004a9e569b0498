"""The loop that every thread of the agent runs, and the bells that wake it.

A task does one unit of work per ``step``. The loop around it is the same for all::

    arm     bell.clear()
    check   if stop.is_set(): return
    step    wait = task.step(now)      0: again; None: until rung; else seconds
    wait    bell.wait(wait)

The bell is armed before the step looks at the world, so a ring that arrives while the step runs
is not lost: the wait returns at once and the step looks again. A ring carries no meaning. That
makes a spurious ring harmless, and it means that a step decides by state and clock alone.
"""

import errno
import logging
import math
import mmap
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from telemetry_agent.clock import Clock
from telemetry_agent.errors import StorageError

_log = logging.getLogger(__name__)

_MESSAGE_BYTES = 16384
_LONGEST_WAIT_S = 86400.0
_GIVE_WAY_S = 0.001

T = TypeVar("T")


class Bell:
    """Wakes one waiting thread. Any thread may ring it, any number of times.

    It is a file descriptor (an eventfd), so that a thread can wait for it and for sockets at once.
    docs/architecture.md lists the few waits that are ended in another way.
    """

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __del__(self) -> None:
        with suppress(AttributeError):  # the system gave none
            os.close(self._fd)  # not sooner: another thread may still ring it

    def fileno(self) -> int:
        """Readable while it is rung."""
        return self._fd

    def ring(self) -> None:
        """End the current or the next wait."""
        os.eventfd_write(self._fd, 1)

    def clear(self) -> bool:
        """Arm: only rings from here on count. Returns whether it was rung."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return False
        return True

    def wait(
        self, timeout_s: float | None, watched: Iterable[tuple[int, int]] = ()
    ) -> dict[int, int]:
        """Return when rung, when a watched descriptor is ready, or after ``timeout_s`` seconds.

        Args:
            timeout_s: ``None`` waits without a limit; a longer one than a day ends after a day.
            watched: descriptors, each with the events of ``poll`` that count.

        Returns:
            Which of the watched are ready, each with its events.
        """
        poll = select.poll()
        for descriptor, events in watched:
            poll.register(descriptor, events)
        poll.register(self._fd, select.POLLIN)
        timeout_ms = None
        if timeout_s is not None:
            # poll takes 24 days at most. A wait that ends early is harmless, as a ring is.
            timeout_ms = math.ceil(min(max(0.0, timeout_s), _LONGEST_WAIT_S) * 1000)
        ready = dict(poll.poll(timeout_ms))
        ready.pop(self._fd, None)
        return ready


class KernelBell(Bell):
    """A bell that the kernel rings too, by its netlink messages; for one waiting thread.

    Where the system or a sandbox forbids netlink, threads can still ring it.

    Args:
        groups: the multicast groups of the messages, one bit for each.
        about: what the messages report, for the log.
        fallback: what happens without messages, for the log.
    """

    def __init__(self, protocol: int, groups: int, about: str, fallback: str) -> None:
        super().__init__()
        self._watched: list[tuple[int, int]] = []
        self._kernel: socket.socket | None = None
        try:
            self._kernel = _kernel_socket(protocol, groups)
        except OSError as error:
            reason = error.strerror
            _log.info(
                "cannot receive the kernel's messages about %s (%s): %s", about, reason, fallback
            )

    def wait(
        self, timeout_s: float | None, watched: Iterable[tuple[int, int]] = ()
    ) -> dict[int, int]:
        """As ``Bell.wait``; a message ends the wait too."""
        kernel = [] if self._kernel is None else [(self._kernel.fileno(), select.POLLIN)]
        return super().wait(timeout_s, [*watched, *self._watched, *kernel])

    def watch(self, descriptors: list[tuple[int, int]]) -> None:
        """Let these descriptors end each wait too, in place of earlier ones."""
        self._watched = descriptors

    def messages(self) -> list[bytes]:
        """The messages since the last call; an empty one if some were lost."""
        received: list[bytes] = []
        while self._kernel is not None:
            try:
                received.append(self._kernel.recv(_MESSAGE_BYTES))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # a burst that the socket could not hold
                    raise
                received.append(b"")
        return received

    def close(self) -> None:
        """End a wait and receive no more messages. Idempotent."""
        self.ring()
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            kernel.close()


def _kernel_socket(protocol: int, groups: int) -> socket.socket:
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    try:
        kernel.bind((0, groups))
    except OSError:
        kernel.close()
        raise
    return kernel


class FairLock:
    """A lock that is granted in the order of asking, so that a loop cannot keep it from others."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        try:
            turn.acquire()  # until ``__exit__`` of the holder before releases it
        except BaseException:  # Ctrl-C in a program that uses the queue: leave the line
            with self._guard:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                    raise
            self.__exit__()  # its turn had come
            raise

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()  # the next one holds it now
            else:
                self._held = False

    def locked(self) -> bool:
        """Whether it is held."""
        return self._held


def give_way(lock: threading.Lock) -> None:
    """Let those who wait for this lock have it before its holder goes on.

    Without the wait the holder would have it again before they wake up. A condition of its own lets
    go of the lock while it waits, and nobody notifies it.
    """
    threading.Condition(lock).wait(_GIVE_WAY_S)


class Task:
    """One of the agent's jobs."""

    max_step_s: float
    """The longest a step may take; past it the thread counts as stuck."""
    bell: Bell
    """What the loop waits on."""

    def step(self, now_s: float) -> float | None:
        """Do one unit of work at monotonic time ``now_s``.

        Returns:
            0 to be called again at once, ``None`` to wait until rung, else seconds to wait.
        """
        raise NotImplementedError

    def wake(self) -> None:
        """Ring the bell, and end a blocking call of the step where that loses no data."""
        self.bell.ring()

    def close(self) -> None:
        """Abort a step that does not end by itself, and free what the task holds. Idempotent."""


class Beat:
    """The reports of a loop, so that it does not count as stuck."""

    due_s = math.inf
    """Monotonic: when the next one is due."""

    def report(self, next_due_s: float = math.inf) -> None:
        """The loop is well, and reports again by this time."""
        self.due_s = next_due_s


_WAKE_UP_SLACK_S = 5.0  # a loaded machine may wake a thread late; then it is not stuck


def run_loop(task: Task, stop: threading.Event, beat: Beat, clock: Clock) -> None:
    """Step ``task`` until ``stop`` is set. What a step raises ends the loop and is raised."""
    while True:
        task.bell.clear()
        if stop.is_set():
            return
        now_s = clock.monotonic_s()
        beat.report(now_s + task.max_step_s)
        wait_s = task.step(now_s)
        if wait_s != 0:
            slack_s = math.inf if wait_s is None else wait_s + _WAKE_UP_SLACK_S
            beat.report(clock.monotonic_s() + slack_s)
            task.bell.wait(wait_s)


_THREAD_BYTES = 9 << 20  # a stack has 8 MiB by default


def started(target: Callable[[], object], name: str) -> threading.Thread | None:
    """Start a daemon thread; ``None``: the system refuses one."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    return thread if has_started(thread) else None


def has_started(thread: threading.Thread) -> bool:
    """Start a thread; False: the system refuses it."""
    try:
        # If a thread gets its stack, and then no memory to begin with, Python waits for it without
        # end. So there must be room for more than the stack.
        mmap.mmap(-1, _THREAD_BYTES).close()
        thread.start()
    except (OSError, MemoryError, RuntimeError):
        return False
    return True


def result_of(act: Callable[[], T], name: str) -> Future[T] | None:
    """What ``act`` returns or raises in a daemon thread; ``None``: the system refuses one."""
    result: Future[T] = Future()
    result.set_running_or_notify_cancel()  # if nobody waits any more, the work goes on

    def run() -> None:
        try:
            result.set_result(act())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            result.set_exception(error)

    return result if started(run, name) else None


def within(timeout_s: float | None, act: Callable[[], object]) -> None:
    """Call ``act`` in a thread; return when it has ended, or after ``timeout_s`` if that is given.

    A StorageError is logged. If the system refuses the thread, ``act`` is called in this one: at a
    stop, late is better than never.
    """
    is_left_behind = threading.Event()

    def perform() -> None:
        try:
            act()
        except StorageError as error:
            _log.error("%s", error)
        except Exception:
            if not is_left_behind.is_set():  # else what it needs may be closed by now
                raise

    if (thread := started(perform, "within")) is None:
        perform()
    else:
        thread.join(timeout_s)
        is_left_behind.set()
