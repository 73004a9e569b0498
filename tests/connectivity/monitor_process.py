"""The monitor as a process: ``HOST PORT PROBE_EVERY_S``.

It prints each report of the monitor with the monotonic time, which all processes share.
With NO_NETLINK in the environment, netlink is not available, as in some containers.
SIGUSR1 means an exchange without an answer, SIGUSR2 one with an answer, SIGTERM the end.
"""

import errno
import logging
import os
import signal
import socket
import sys
import threading

from telemetry_agent.clock import Clock
from telemetry_agent.connectivity.monitor import Monitor, Probe
from telemetry_agent.connectivity.routes import route_bell
from telemetry_agent.tasks import Beat, run_loop

clock = Clock()


def say(word: str) -> None:
    sys.stdout.write(f"{word} {clock.monotonic_s():.6f}\n")
    sys.stdout.flush()


class Words(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(f"log {record.getMessage()} at")


class Loop(Monitor):
    """A monitor that prints a line when it has nothing to do, so that a test can wait for that."""

    def step(self, now_s: float) -> float | None:
        wait_s = super().step(now_s)
        if wait_s is None:
            say(f"idle {self.state.word}")
        return wait_s


class NoNetlink(socket.socket):
    def __init__(
        self, family: int = -1, kind: int = -1, proto: int = -1, fileno: int | None = None
    ) -> None:
        if family == socket.AF_NETLINK:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        super().__init__(family, kind, proto, fileno)


def main() -> None:
    host, port, probe_every_s = sys.argv[1:]
    heard = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, heard)
    if "NO_NETLINK" in os.environ:
        socket.socket = NoNetlink  # type: ignore[assignment, misc]
    logging.basicConfig(level=logging.DEBUG, handlers=[Words()])
    bell = route_bell()
    monitor = Loop(
        Probe(host, int(port)),
        bell,
        probe_every_s=float(probe_every_s),
        resume_spread_s=0,
        on_return=lambda _: say("return"),
        on_change=lambda: say("change"),
    )
    say("begun")
    stop = threading.Event()
    thread = threading.Thread(target=run_loop, args=(monitor, stop, Beat(), clock))
    thread.start()
    while True:
        got = signal.sigwait(heard)
        if got == signal.SIGUSR1:
            monitor.doubt()
        elif got == signal.SIGUSR2:
            monitor.answered()
        else:
            break
    stop.set()
    monitor.wake()
    thread.join(60)
    monitor.close()
    say("end")


main()
