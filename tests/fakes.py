"""Fakes of the interfaces, shared by all tests."""

import random
import socket

from telemetry_agent.clock import Clock
from telemetry_agent.gnss.sources.hotplug import PortBell


class FakeClock(Clock):
    """A clock that only the test advances."""

    def __init__(self, *, wall_ms: int = 1_790_000_000_000, synchronised: bool = True) -> None:
        self.now_s = 1000.0
        self._wall_offset_ms = wall_ms - int(self.now_s * 1000)
        self._synchronised = synchronised

    def advance(self, seconds: float) -> float:
        self.now_s += seconds
        return self.now_s

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return int(self.now_s * 1000) + self._wall_offset_ms

    def synchronised(self) -> bool:
        return self._synchronised


class FakePorts(PortBell):
    """A bell that gets device events from the test instead of the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.close()
        self._kernel, self._test = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._kernel.setblocking(False)

    def says(self, *messages: bytes) -> None:
        """Simulate messages of the kernel."""
        for message in messages:
            self._test.send(message)

    def add_port(self) -> None:
        """Simulate the kernel's message about a new port."""
        self.says(b"add@/devices/usb1\0ACTION=add\0SUBSYSTEM=tty\0DEVNAME=ttyUSB0\0")


class AlwaysReachable:
    """Reachability without information about the route: every attempt is allowed."""

    def closed(self) -> None:
        pass

    def doubt(self) -> None:
        pass

    def answered(self) -> None:
        pass


class Longest(random.Random):
    """A random generator that always draws the end of the interval, so that waits are known."""

    def uniform(self, a: float, b: float) -> float:
        return b
