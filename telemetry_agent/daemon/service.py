"""The process round the agent: signals, readiness, watchdog, reload.

Main starts the threads and then only listens: it sits in ``sigwait`` with all signals blocked, so
there are no signal handlers, and feeds the service manager's watchdog as long as every thread is in
time. A timer's signal tells it when to look.
"""

import logging
import signal
from collections.abc import Callable

from telemetry_agent import __version__
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import Settings
from telemetry_agent.daemon import logs
from telemetry_agent.daemon.app import Agent
from telemetry_agent.daemon.systemd import notify, watchdog_interval_s
from telemetry_agent.errors import AgentError
from telemetry_agent.page.events import Doctor

log = logging.getLogger(__name__)

_EX_SOFTWARE = 70  # sysexits.h: a fault of ours; the service manager starts the agent again
# Not sigtimedwait: stopped (SIGSTOP, a frozen cgroup) and continued past its deadline it returns
# whatever number is in memory there, which may be that of a signal.
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM}
_LOOK_EVERY_S = 10.0


def run(load: Callable[[], Settings], clock: Clock, doctor: Doctor | None = None) -> int:
    """Run until a signal says stop; SIGHUP reads the config anew. Returns the exit status.

    Raises:
        ConfigError: the config is wrong.
        ResourceError: the system refuses to read it, or a thread.
        QueueLockedError: another process holds the queue.
        StorageError: the queue cannot be opened.
    """
    settings = load()
    secrets: set[str] = set()
    # Before any thread starts, so that all inherit it and only main hears of them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    _configure_logs(settings, secrets)
    agent = Agent(settings, clock, secrets=secrets, doctor=doctor)
    agent.start()
    log.info("telemetry-agent %s %s", __version__, agent)
    notify(READY=1, STATUS=str(agent))
    number = _listen(agent, load, clock)
    notify(STOPPING=1, STATUS="stopping")
    if agent.supervisor.gave_up:
        log.critical("stopping, to be started afresh")
    else:
        log.info("stopping on %s", signal.Signals(number).name)
    agent.stop()
    stats = agent.queue.stats()
    log.info("stopped: %d fixes wait for the next start", stats.ready + stats.unack)
    return _EX_SOFTWARE if agent.supervisor.gave_up else 0


def _listen(agent: Agent, load: Callable[[], Settings], clock: Clock) -> int:
    """Until a signal says stop: which one."""
    every_s = watchdog_interval_s() or _LOOK_EVERY_S
    signal.setitimer(signal.ITIMER_REAL, every_s, every_s)
    looked_s = clock.monotonic_s()
    told: list[str] = []
    while True:
        number = signal.sigwait(_SIGNALS)
        if number == signal.SIGALRM:
            now_s = clock.monotonic_s()
            # Nobody is asked for the time in which main did not run either.
            agent.supervisor.excuse(max(0.0, now_s - looked_s - every_s), now_s)
            looked_s = now_s
            late = agent.supervisor.late(now_s)
            if not any(task.vital for task in late):
                notify(WATCHDOG=1)
            names = [task.name for task in late]
            if not late:
                log.debug("every thread is in time")
            elif names != told:
                log.error("stuck: %s", ", ".join(names))
            told = names
        elif number == signal.SIGHUP:
            notify(RELOADING=1)
            _reload(agent, load)
            notify(READY=1, STATUS=str(agent))
        else:
            return number


def _reload(agent: Agent, load: Callable[[], Settings]) -> None:
    try:
        settings = load()
    except AgentError as error:
        log.error("the old config stays: %s", error)  # noqa: TRY400 - no fault of ours
        return
    agent.apply(settings)
    _configure_logs(settings, agent.secrets)
    log.info("reloaded: %s", agent)


def _configure_logs(settings: Settings, secrets: set[str]) -> None:
    logs.configure(settings.log.level, settings.log.format, settings.device, secrets)
