"""Keeps the tasks alive: starts them, rebuilds one that crashed, ends them within a deadline.

A crash of one task never stops another: a dead network must not stop recording, a dead receiver
must not stop uploading. A task that crashes is logged, counted and built again after a backoff. If
a task that records crashes too often, the process ends, because only a restart by the service
manager can help then. Every other task is built again without a limit. A task that hangs is logged,
and keeps the watchdog from being fed.
"""

import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from telemetry_agent.clock import Clock
from telemetry_agent.errors import refused_thread
from telemetry_agent.tasks import Beat, Task, has_started, run_loop

log = logging.getLogger(__name__)

_CRASHES_ALLOWED = 5
_CRASH_WINDOW_S = 600.0
_REBUILD_INITIAL_S = 0.5  # doubled by each crash in the window, so 8 s at most
_ABORT_S = 0.5

T = TypeVar("T", bound=Task)


class Supervised(Generic[T]):
    """One task and its thread. ``build`` makes the task, and makes it again after a crash.

    Args:
        give_up: ends the process.
        records: whether recording needs the task: the process ends if its first start is refused,
            or if it crashes again and again.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[], T],
        clock: Clock,
        give_up: Callable[[], None],
        *,
        records: bool,
    ) -> None:
        self.name = name
        self._records = records
        self._has_run = False
        self.is_refused = False
        """Whether the system refused the thread."""
        self.crashes = 0
        self._build = build
        self._clock = clock
        self._give_up = give_up
        self.task = build()
        self._prepare()

    def start(self) -> None:
        """Start the thread.

        If the system refuses it, ``Supervisor.start_refused`` tries again: recording does not wait
        for another task, and an agent that runs keeps what it has recorded.

        Raises:
            ResourceError: the system refuses the first one of a task that records.
        """
        if has_started(self.thread):
            self._has_run, self.is_refused = True, False
            return
        self._prepare()  # a thread that was refused cannot be started again
        error = refused_thread(f"the {self.name}")
        if self._records and not self._has_run:
            raise error
        if not self.is_refused:
            log.error("%s; it is tried again: %s", error.message, error.remedy)
        self.is_refused = True

    def restart(self, timeout_s: float) -> None:
        """End the task as ``end`` does, and run a new one.

        A step that still hangs keeps the old task: its thread has that stop, and ends behind it.
        """
        self.end(timeout_s)
        self.task = self._build()
        self._prepare()
        self.start()

    def _prepare(self) -> None:
        self.beat = Beat()
        self._stop = threading.Event()
        # A daemon thread: name resolution cannot be interrupted and is left behind at exit.
        self.thread = threading.Thread(
            target=self._run, args=(self._stop, self.beat), name=self.name, daemon=True
        )

    def end(self, timeout_s: float) -> None:
        """End the loop after its step; after ``timeout_s`` abort the step. Close the task."""
        self.is_refused = False
        self._stop.set()
        for stop_step, limit_s in ((self.task.wake, timeout_s), (self.task.close, _ABORT_S)):
            try:
                stop_step()
            except Exception:  # the others are to be ended too
                log.exception("%s failed at its end", self.name)
            if self.thread.is_alive():
                self.thread.join(limit_s)

    def _run(self, stop: threading.Event, beat: Beat) -> None:
        recent: deque[float] = deque(maxlen=_CRASHES_ALLOWED)  # when it crashed in the window
        crashed = False
        while not stop.is_set():
            try:
                if crashed:
                    self.task.close()
                    task = self._build()
                    if stop.is_set():  # meanwhile another may have taken its place
                        task.close()
                        return
                    self.task, crashed = task, False
                run_loop(self.task, stop, beat, self._clock)
            except Exception as error:
                if stop.is_set():  # the task was closed while the step ran
                    log.debug("%s failed at its end", self.name, exc_info=True)
                    return
                crashed = True
                self.crashes += 1
                beat.report()
                now_s = self._clock.monotonic_s()
                while recent and now_s - recent[0] >= _CRASH_WINDOW_S:
                    recent.popleft()
                often = len(recent) == recent.maxlen
                text = "%s crashed (%d since the start): %r"
                log.error(text, self.name, self.crashes, error, exc_info=not often)  # noqa: TRY400 - with one traceback
                if often and self._records:
                    log.critical("%s crashes again and again: giving up", self.name)
                    self._give_up()
                    return
                recent.append(now_s)
                stop.wait(_REBUILD_INITIAL_S * 2 ** (len(recent) - 1))


class Supervisor:
    """The list of tasks. The service thread starts, restarts and ends them.

    The main thread looks which are late. While the service thread has nothing to do, it also starts
    those to which the system refused a thread.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: list[Supervised[Any]] = []
        self.gave_up = False

    def add(self, name: str, build: Callable[[], T], *, records: bool = False) -> Supervised[T]:
        """Add a task; it runs when ``start`` is called. See ``Supervised``."""
        supervised = Supervised(name, build, self._clock, self._give_up, records=records)
        self._tasks.append(supervised)
        return supervised

    def start(self) -> None:
        """Start every task, in the order they were added."""
        for task in self._tasks:
            task.start()

    def start_refused(self) -> None:
        """Try again to start those to which the system refused a thread."""
        for task in self._tasks:
            if task.is_refused:
                task.start()

    def late(self, now_s: float) -> list[str]:
        """The names of the tasks whose beat is overdue."""
        return [task.name for task in self._tasks if now_s > task.beat.due_s]

    def _give_up(self) -> None:
        # The main thread waits in sigwait.
        self.gave_up = True
        os.kill(os.getpid(), signal.SIGTERM)
