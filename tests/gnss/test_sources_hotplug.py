import logging
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from telemetry_agent.clock import Clock
from telemetry_agent.gnss.sources.hotplug import Hotplug, uevent_socket
from telemetry_agent.tasks import Beat, Stop, run_loop

LIMIT_S = 5.0


def message(**properties: str) -> bytes:
    return b"".join(f"{key}={value}\0".encode() for key, value in properties.items())


KERNEL = b"add@/devices/usb1/1-1\0" + message(ACTION="add", SUBSYSTEM="tty", DEVNAME="ttyUSB0")
UDEV = b"libudev\0\xfe\xed\xca\xfe" + bytes(range(1, 29)) + message(ACTION="add", SUBSYSTEM="tty")
OTHERS = [
    message(ACTION="remove", SUBSYSTEM="tty", DEVNAME="ttyUSB0"),
    message(ACTION="add", SUBSYSTEM="usb"),
    message(ACTION="add", SUBSYSTEM="tty0"),
    b"",
    b"\xff" * 100,
]


@pytest.fixture
def kernel() -> Iterator[tuple[socket.socket, Hotplug, list[int]]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    rung: list[int] = []
    hotplug = Hotplug(lambda: rung.append(1), listen=lambda: theirs)
    yield ours, hotplug, rung
    ours.close()
    hotplug.close()


@pytest.mark.parametrize("said", [KERNEL, UDEV])
def test_a_port_that_comes_is_counted_and_rings(
    kernel: tuple[socket.socket, Hotplug, list[int]], said: bytes
) -> None:
    speaks, hotplug, rung = kernel
    speaks.send(said)
    assert hotplug.step(0) == 0
    assert (hotplug.arrivals, rung) == (1, [1])


def test_everything_else_is_not(kernel: tuple[socket.socket, Hotplug, list[int]]) -> None:
    speaks, hotplug, rung = kernel
    for said in OTHERS:
        speaks.send(said)
        assert hotplug.step(0) == 0
    assert (hotplug.arrivals, rung) == (0, [])


def test_a_wake_ends_the_wait(kernel: tuple[socket.socket, Hotplug, list[int]]) -> None:
    _, hotplug, rung = kernel
    stop = Stop()
    thread = threading.Thread(target=run_loop, args=(hotplug, stop, Beat(), Clock()))
    thread.start()
    stop.set()
    hotplug.wake()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert rung == []


def test_without_messages_from_the_kernel_it_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    def refused() -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    hotplug = Hotplug(lambda: None, listen=refused)
    assert hotplug.step(0) is None
    hotplug.close()
    (said,) = caplog.messages
    assert said == (
        "cannot receive messages from the kernel (Operation not permitted): a receiver that is "
        "plugged in is found within half a minute, not at once"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may speak as the kernel does")
@pytest.mark.parametrize("group", [1, 2])
def test_over_a_real_netlink(group: int) -> None:
    rung: list[int] = []
    listener = uevent_socket()
    hotplug = Hotplug(lambda: rung.append(1), listen=lambda: listener)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15) as speaks:
        speaks.bind((0, 0))
        speaks.sendto(KERNEL, (0, group))
        while not rung:
            hotplug.step(0)
    assert hotplug.arrivals >= 1
    hotplug.close()
