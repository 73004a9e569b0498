"""The process around the agent: signals, readiness, watchdog, reload.

The main thread only waits for signals: it blocks all of them and calls ``sigwait``, so there are no
signal handlers. Work that may wait for a disk or a process (reading the config, opening the queue,
a reload, moving the queue, the stop) is done by a worker thread. Meanwhile the main thread receives
signals, and feeds systemd's watchdog while every task except the page is in time. SIGALRM, from a
timer and from the worker when it has finished, makes it check.

Each message to the service manager is one datagram to the socket that NOTIFY_SOCKET names. On a
terminal or in a container there is no such socket, and no message is sent.
"""

import logging
import os
import signal
import socket
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from telemetry_agent import __version__
from telemetry_agent.ackqueue.file.rows import Row
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.config import last_good, subprocess_loader
from telemetry_agent.config.settings import LoadedConfig, Settings
from telemetry_agent.daemon import logs
from telemetry_agent.daemon.app import Agent
from telemetry_agent.errors import (
    AgentError,
    ResourceError,
    ask_for_memory,
    counted,
    limit_reached,
    refused_thread,
)
from telemetry_agent.page.agent_view import Doctor
from telemetry_agent.snapshot import ConfigView
from telemetry_agent.trouble import Trouble

log = logging.getLogger(__name__)

_EX_SOFTWARE = 70  # sysexits.h: an internal error; systemd starts the agent again
# Not sigtimedwait: if the process is stopped (SIGSTOP, a frozen cgroup) and continued after the
# deadline, it returns an arbitrary number, which may be that of a signal.
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM}
_LOOK_EVERY_S = 5.0
_FROZEN_S = 1.0
_EXCUSED_S = 60.0  # longer than most steps
_LONG_S = 20.0  # the config alone may take half of it: see small_files.ANSWER_S
_STOP_S = 9.0
"""From the signal to the end of the process; 10 s are promised."""

# The stacks of the worker and of the two threads that record, and what the agent itself takes.
_START_BYTES = 32_000_000
_SEND_LIMIT_S = 1.0  # the main thread must receive signals
_silence = Trouble(log, Clock())
"""The service manager cannot be notified."""

MakeDoctor = Callable[[], Doctor]


class Service:
    """Runs the agent until a signal ends it; SIGHUP reads the config again.

    Args:
        path: the config file; ``None``: one of the usual places.
        doctor: makes the checks that the page shows.
    """

    def __init__(self, path: Path | None, clock: Clock, doctor: MakeDoctor | None = None) -> None:
        self._doctor = doctor
        self._path = path
        self._clock = clock
        self._secrets: set[str] = set()
        # One thread for the whole life: at the stop the system may refuse one.
        self._worker = ThreadPoolExecutor(1, "service")
        self._agent: Agent | None = None
        self._every_s = min(watchdog_interval_s() or _LOOK_EVERY_S, _LOOK_EVERY_S)
        self._checked_s = clock.monotonic_s()
        self._excused_until_s = 0.0
        self._reported_late: list[str] = []
        self._end_signal: signal.Signals | None = None
        self._deadline_s = float("inf")
        self._reload = False
        self._look = subprocess_loader.Look(path)
        self._must_look = False
        """The config does not work: it is read again when its files change."""

    def run(self) -> int:
        """Run until SIGTERM or SIGINT. Returns the exit status.

        Raises:
            ConfigError: the config is wrong, and there is no last good one.
            ResourceError: the system refuses to read it, or refuses a thread.
            OSError: the system refuses memory.
            QueueLockedError: another process holds the queue.
            StorageError: the queue cannot be opened.
        """
        ask_for_memory(_START_BYTES)
        # Before any thread starts: all of them inherit the mask, so only this one receives signals.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        signal.setitimer(signal.ITIMER_REAL, self._every_s, self._every_s)
        in_time = self._run_in_worker("the start", self._start)
        while in_time and self._end_signal is None:
            if self._reload or (self._must_look and self._look.changed()):
                self._reload = False
                notify(RELOADING=1)
                in_time = self._run_in_worker("the reload", self._apply)
                self._notify_ready()
            else:
                self._receive()
                if self._end_signal is not None or self._agent is None:
                    continue
                # Here, and not in ``_check``: now the worker neither starts nor ends a task.
                self._agent.supervisor.start_refused()
                if self._agent.may_move():
                    in_time = self._run_in_worker("the move of the queue", self._move)
        return self._end(in_time=in_time)

    def _start(self) -> None:
        config = self._load(fall_back=True)
        if self._end_signal is not None:
            return
        self._configure_logs(config.settings)
        for note in config.notes:
            log.warning("%s", note)
        view = None
        if config.fault is not None:
            view = ConfigView("wrong" if config.holds_uploads else "unreadable", str(config.fault))
            log.error(
                "%s; recording continues with the last good config%s",
                config.fault,
                ", uploads are held" if config.holds_uploads else "",
            )
            self._must_look = True
        agent = self._start_agent(config.settings, view)
        log.info("telemetry-agent %s %s", __version__, agent)
        self._notify_ready()
        _keep(config)

    def _apply(self) -> None:
        agent = self._agent
        if agent is None:
            return
        try:
            config = self._load(fall_back=False)
        except AgentError as error:
            log.error("the previous config stays in effect: %s", error)  # noqa: TRY400 - the user's config
            return
        agent.apply(config.settings)
        self._configure_logs(config.settings)
        log.info("reloaded: %s", agent)
        self._must_look = False
        _keep(config)

    def _notify_ready(self) -> None:
        notify(READY=1, STATUS=self._agent.status_line() if self._agent else "")

    def _load(self, *, fall_back: bool) -> LoadedConfig:
        self._look.changed()  # from here on a change is noticed
        return subprocess_loader.load(self._path, fall_back=fall_back)

    def _move(self) -> None:
        """If need be, continue in the other directory, with the fixes that could not be written."""
        before = self._agent
        if before is None or not before.must_move():
            return
        self._agent = None
        waiting = before.stop(moves=True)
        covered = before.queue if before.is_covered else None
        if covered is not None:
            log.warning("another disk was mounted over %s: it is used now", covered.path.parent)
        agent = self._start_agent(before.settings, before.config, waiting, covered)
        those = counted(len(waiting), "fix was", "fixes were")
        taken = f"; {those} taken along that had not reached the disk" if waiting else ""
        log.warning("%s%s", agent, taken)

    def _start_agent(
        self,
        settings: Settings,
        config: ConfigView | None,
        waiting: Collection[Row] = (),
        covered: AckQueue | None = None,
    ) -> Agent:
        agent = Agent(
            settings,
            self._clock,
            secrets=self._secrets,
            config=config,
            waiting=waiting,
            covered=covered,
            doctor=self._doctor,
        )
        try:
            agent.start()
        except BaseException:
            agent.stop()  # without it the next start would miss the end of the queue's log
            raise
        self._agent = agent
        return agent

    def _end(self, *, in_time: bool) -> int:
        """Stop the agent, unless what the worker does now is past its time (not ``in_time``)."""
        agent = self._agent
        gave_up = agent is not None and agent.supervisor.gave_up
        notify(STOPPING=1, STATUS="stopping")
        if gave_up:
            log.critical("stopping: the service manager starts the agent again")
        elif self._end_signal is not None:
            log.info("stopping on %s", self._end_signal.name)
        if agent is not None and in_time:
            in_time = self._run_in_worker("the stop", agent.stop)
        lost = ""
        if agent is not None:
            queue, waiting = agent.queue, "what is on the disk waits"
            with queue.shared.lock:  # without a look at its files: their mount may be dead
                uncommitted = queue.shared.writer.uncommitted
            if uncommitted:
                lost = f"; at most {counted(uncommitted, 'fix is', 'fixes are')} lost"
            if in_time and queue.disk_error() is None:  # else it may hold other rows than memory
                waiting = counted(agent.pending(), "fix waits", "fixes wait")
            log.info("stopped: %s for the next start", waiting)
        status = _EX_SOFTWARE if gave_up else 0
        if not in_time:
            log.error("a disk or a file system hangs: the process ends without it%s", lost)
            logs.standard_error().end()
            os._exit(status)  # the interpreter would wait for the thread that hangs
        return status

    def _run_in_worker(self, name: str, act: Callable[[], object]) -> bool:
        """Let the worker run ``act`` while this thread receives signals; raises what it raises.

        Returns whether it has ended before the deadline of a stop.
        """
        try:
            done = self._worker.submit(act)
        except RuntimeError as error:
            raise refused_thread(name) from error
        done.add_done_callback(lambda _done: os.kill(os.getpid(), signal.SIGALRM))
        report_s = self._clock.monotonic_s() + _LONG_S
        while not done.done():
            now_s = self._clock.monotonic_s()
            if now_s >= self._deadline_s:
                return False
            if now_s >= report_s:
                report_s = float("inf")
                log.error(
                    "%s has taken %.0f s so far: a disk or a mount may hang: `sudo dmesg` shows it",
                    name,
                    _LONG_S,
                )
            self._receive()
        try:
            done.result()
        except OSError as error:
            raise limit_reached(error) or ResourceError(
                f"the system refuses what the agent needs: {error.strerror}"
            ) from error
        return True

    def _receive(self) -> None:
        """Wait for one signal, and note or handle it."""
        number = signal.sigwait(_SIGNALS)
        if number == signal.SIGHUP:
            self._reload = True  # also during the start, and during another reload
        elif number == signal.SIGALRM:
            self._check()
        elif self._end_signal is None:
            self._end_signal = signal.Signals(number)
            self._deadline_s = self._clock.monotonic_s() + _STOP_S
            signal.setitimer(signal.ITIMER_REAL, 0.25, 0.25)  # to look at the deadline so often

    def _check(self) -> None:
        agent, now_s = self._agent, self._clock.monotonic_s()
        if agent is None or self._end_signal is not None:
            return
        # The timer ends each wait of this thread. If it did not run for longer, the process was
        # stopped, and no task is late by that.
        if now_s > self._checked_s + self._every_s + _FROZEN_S:
            self._excused_until_s = now_s + _EXCUSED_S
        self._checked_s = now_s
        late = [] if now_s < self._excused_until_s else agent.supervisor.late(now_s)
        if not late:
            notify(WATCHDOG=1)
            log.debug("every thread is in time")
        elif late != self._reported_late:
            log.error("stuck: %s", ", ".join(late))
        self._reported_late = late
        notify(STATUS=agent.status_line())

    def _configure_logs(self, settings: Settings) -> None:
        log_settings = settings.log
        logs.configure(log_settings.level, log_settings.format, settings.device, self._secrets)


def _keep(config: LoadedConfig) -> None:
    try:
        last_good.keep(config.texts)
    except OSError as error:
        why = error.strerror or error
        log.warning("cannot keep a copy of the config in %s: %s", last_good.folder(), why)


def notify(**assignments: str | int) -> bool:
    """Notify the service manager, as in ``notify(READY=1, STATUS="recording")``.

    The names are those of sd_notify(3): READY, STATUS, WATCHDOG, STOPPING, and RELOADING before
    the READY that ends a reload. A line break in a value would begin another assignment, so it is
    sent as a space.

    Returns:
        Whether it was sent. The agent continues if it was not.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    message = "\n".join(
        f"{name}={' '.join(str(value).splitlines())}" for name, value in assignments.items()
    )
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.settimeout(_SEND_LIMIT_S)
            # A name that begins with @ is in the kernel's abstract namespace, which spells it NUL.
            path = "\0" + address[1:] if address[0] == "@" else address
            manager.sendto(message.encode("utf-8", "replace"), path)
    except OSError as error:
        why = error.strerror or error
        _silence.failed(f"cannot notify the service manager at {address}: {why}")
        return False
    _silence.over("the service manager can be notified again")
    return True


def watchdog_interval_s() -> float | None:
    """How often ``notify(WATCHDOG=1)`` is due: twice within the unit's WatchdogSec.

    Returns:
        ``None`` without a watchdog, or if it watches another process.
    """
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    allowed_us = os.environ.get("WATCHDOG_USEC", "")
    return int(allowed_us) / 2e6 if allowed_us.isdecimal() and int(allowed_us) > 0 else None
