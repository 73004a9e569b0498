import logging
import os
import socket

import pytest
from fakes import FakePorts

from telemetry_agent.gnss.sources.hotplug import PortBell

LIMIT_S = 60.0


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


@pytest.mark.parametrize("said", [KERNEL, UDEV, LOST])
def test_a_port_that_comes_rings_and_is_noticed_once(said: bytes) -> None:
    ports = FakePorts()
    ports.says(*OTHERS, said, *OTHERS)
    ports.wait(None)
    assert ports.port_was_added()
    assert not ports.port_was_added()
    ports.close()


def test_everything_else_is_not() -> None:
    ports = FakePorts()
    ports.says(*OTHERS)
    assert not ports.port_was_added()
    ports.close()


def test_without_netlink_it_is_an_ordinary_bell(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(protocol: int, groups: int) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr("telemetry_agent.tasks._kernel_socket", refused)
    bell = PortBell()
    assert not bell.port_was_added()
    bell.ring()
    bell.wait(None)
    bell.close()
    (said,) = caplog.messages
    assert said == (
        "cannot receive the kernel's messages about devices (Operation not permitted): "
        "a receiver that is plugged in is found within half a minute, not at once"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may speak as the kernel does")
@pytest.mark.parametrize("group", [1, 2])
def test_over_a_real_netlink(group: int) -> None:
    bell = PortBell()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15) as speaks:
        speaks.bind((0, 0))
        speaks.sendto(KERNEL, (0, group))
        while not bell.port_was_added():
            bell.clear()
            bell.wait(LIMIT_S)
    bell.close()
