"""A service manager that records when the agent fed its watchdog."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path


class Watchdog:
    """The service manager of an agent that runs with ``environment``."""

    LIMIT_S = 8.0
    """A service manager kills an agent that does not feed it for this long."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self.environment = {
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": str(round(self.LIMIT_S * 1e6)),
        }
        self._fed = threading.Condition()
        self._fed_s: list[float] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait until it has been fed at least ``seconds`` from now."""
        until_s = time.monotonic() + seconds
        with self._fed:
            late = lambda: bool(self._fed_s) and self._fed_s[-1] >= until_s  # noqa: E731
            assert self._fed.wait_for(late, seconds + 60), "nobody feeds the watchdog"

    def longest_gap_s(self) -> float:
        """The longest time between two feeds, counted from the first."""
        with self._fed:
            times_s = [*self._fed_s, time.monotonic()]
        return max(after_s - before_s for before_s, after_s in pairwise(times_s))

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(60)
        self._socket.close()

    def _run(self) -> None:
        while message := self._socket.recv(4096):
            if b"WATCHDOG=1" in message:
                with self._fed:
                    self._fed_s.append(time.monotonic())
                    self._fed.notify_all()


@contextlib.contextmanager
def watchdog(folder: Path) -> Iterator[Watchdog]:
    with contextlib.closing(Watchdog(folder)) as made:
        yield made
