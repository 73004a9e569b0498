"""A stand-in for the agent: threads under the real supervisor, systemd and log set-up.

SIGUSR1 gets its reader stuck, SIGHUP is a reload, SIGTERM a stop. The file ``exit`` beside the
config ends it with the status that it holds, before it is ready; ``endpoint`` names a server that
its uploader asks.
"""

import logging
import os
import signal
import sys
import threading
import urllib.request
from pathlib import Path

from telemetry_agent.clock import Clock
from telemetry_agent.daemon import logs
from telemetry_agent.daemon.supervisor import Supervisor
from telemetry_agent.daemon.systemd import notify, watchdog_interval_s
from telemetry_agent.tasks import Bell

CONFIG = Path("/etc/telemetry-agent")
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
log = logging.getLogger("telemetry_agent.standin")


class Reader:
    name = "reader"
    max_step_s = 0.2

    def __init__(self) -> None:
        self.bell = Bell()
        self.stuck = False

    def step(self, now_s: float) -> float | None:
        if self.stuck:
            threading.Event().wait()
        return None

    def wake(self) -> None:
        self.bell.ring()

    def close(self) -> None:
        pass


class Uploader(Reader):
    name = "uploader"
    max_step_s = 600.0

    def step(self, now_s: float) -> float | None:
        if (CONFIG / "endpoint").exists():
            urllib.request.urlopen((CONFIG / "endpoint").read_text()).read()
        return None


def main() -> int:
    logs.configure("debug", "auto", "van-07")
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if (CONFIG / "exit").exists():
        return int((CONFIG / "exit").read_text())
    clock = Clock()
    supervisor = Supervisor(clock)
    reader = Reader()
    tasks = [supervisor.add("reader", lambda: reader), supervisor.add("uploader", Uploader)]
    supervisor.start()
    credentials = Path(os.environ["CREDENTIALS_DIRECTORY"])
    held = {file.name: file.read_text() for file in sorted(credentials.iterdir())}
    log.info("recording", extra={"fields": {"STATE": "3d", "COUNT": 17, "CREDENTIALS": held}})
    log.warning("one\ntwo")
    log.debug("in detail")
    notify(READY=1, STATUS="recording")
    interval_s = watchdog_interval_s() or 60.0
    while True:
        heard = signal.sigtimedwait(SIGNALS, interval_s)
        if heard is None:
            if not supervisor.late(clock.monotonic_s()):
                notify(WATCHDOG=1)
                log.debug("in time")
        elif heard.si_signo == signal.SIGUSR1:
            reader.stuck = True
            reader.wake()
        elif heard.si_signo == signal.SIGHUP:
            notify(RELOADING=1)
            notify(READY=1, STATUS="recording with the new config")
            log.info("reloaded")
        else:
            notify(STOPPING=1, STATUS="stopping")
            for task in tasks:
                task.ask_to_stop()
            log.info("left behind: %s", [task.name for task in tasks if not task.join(0.2)])
            return 0


sys.exit(main())
