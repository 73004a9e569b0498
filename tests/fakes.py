"""Fakes for the seams, shared by the tests of every room."""

import random
import socket

from telemetry_agent.clock import Clock
from telemetry_agent.gnss.sources.hotplug import PortBell


class FakeClock(Clock):
    """Time that passes when the test says so."""

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
    """A bell that hears of devices from the test, and not from the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.close()
        self._kernel, self._test = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._kernel.setblocking(False)

    def says(self, *messages: bytes) -> None:
        """What the kernel would say."""
        for message in messages:
            self._test.send(message)

    def add_port(self) -> None:
        """What the kernel would say of a new port."""
        self.says(b"add@/devices/usb1\0ACTION=add\0SUBSYSTEM=tty\0DEVNAME=ttyUSB0\0")


class AlwaysReachable:
    """Nothing is known of the way to the endpoint: every attempt is worth making."""

    def closed(self) -> None:
        pass

    def doubt(self) -> None:
        pass

    def answered(self) -> None:
        pass


class Longest(random.Random):
    """Draws the end of every interval, so that waits are known."""

    def uniform(self, a: float, b: float) -> float:
        return b
