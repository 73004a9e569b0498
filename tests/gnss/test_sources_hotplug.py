import os
import socket
import threading

import pytest

from telemetry_agent.clock import Clock
from telemetry_agent.gnss.sources.hotplug import Hotplug
from telemetry_agent.tasks import Beat, KernelBell, run_loop

LIMIT_S = 5.0


def message(**properties: str) -> bytes:
    return b"".join(f"{key}={value}\0".encode() for key, value in properties.items())


KERNEL = b"add@/devices/usb1/1-1\0" + message(ACTION="add", SUBSYSTEM="tty", DEVNAME="ttyUSB0")
UDEV = b"libudev\0\xfe\xed\xca\xfe" + bytes(range(1, 29)) + message(ACTION="add", SUBSYSTEM="tty")
LOST = b""
OTHERS = [
    message(ACTION="remove", SUBSYSTEM="tty", DEVNAME="ttyUSB0"),
    message(ACTION="add", SUBSYSTEM="usb"),
    message(ACTION="add", SUBSYSTEM="tty0"),
    b"\xff" * 100,
]


class Kernel(KernelBell):
    """Sends what the test says."""

    def __init__(self, *said: bytes) -> None:
        super().__init__(socket.NETLINK_ROUTE, 0, "nothing", "nothing")
        self.said = list(said)

    def messages(self) -> list[bytes]:
        said, self.said = self.said, []
        return said


@pytest.mark.parametrize("said", [KERNEL, UDEV, LOST])
def test_a_port_that_comes_is_counted_and_rings(said: bytes) -> None:
    rung: list[int] = []
    hotplug = Hotplug(lambda: rung.append(1), Kernel(*OTHERS, said))
    assert hotplug.step(0) is None
    assert hotplug.step(0) is None
    assert (hotplug.arrivals, rung) == (1, [1])
    hotplug.close()


def test_everything_else_is_not() -> None:
    rung: list[int] = []
    hotplug = Hotplug(lambda: rung.append(1), Kernel(*OTHERS))
    assert hotplug.step(0) is None
    assert (hotplug.arrivals, rung) == (0, [])
    hotplug.close()


def test_a_wake_ends_the_wait() -> None:
    rung: list[int] = []
    hotplug = Hotplug(lambda: rung.append(1), Kernel())
    stop = threading.Event()
    thread = threading.Thread(target=run_loop, args=(hotplug, stop, Beat(), Clock()))
    thread.start()
    stop.set()
    hotplug.wake()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert rung == []
    hotplug.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may speak as the kernel does")
@pytest.mark.parametrize("group", [1, 2])
def test_over_a_real_netlink(group: int) -> None:
    rung: list[int] = []
    hotplug = Hotplug(lambda: rung.append(1))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15) as speaks:
        speaks.bind((0, 0))
        speaks.sendto(KERNEL, (0, group))
        while not rung:
            hotplug.bell.wait(LIMIT_S)
            hotplug.step(0)
    assert hotplug.arrivals >= 1
    hotplug.close()
