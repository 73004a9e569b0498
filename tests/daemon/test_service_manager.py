import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telemetry_agent.daemon.service import notify, watchdog_interval_s


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(60)
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield manager


def test_one_datagram_holds_all_assignments(manager: socket.socket) -> None:
    assert notify(READY=1, STATUS="recording: 3d, 0 waiting")
    assert manager.recv(4096) == b"READY=1\nSTATUS=recording: 3d, 0 waiting"


def test_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"telemetry-agent-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(60)
        manager.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        assert notify(WATCHDOG=1)
        assert manager.recv(4096) == b"WATCHDOG=1"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(status=st.text(st.characters()))
def test_no_text_of_a_status_becomes_another_assignment(
    manager: socket.socket, status: str
) -> None:
    assert notify(STATUS=status)
    received = manager.recv(65536)
    assert received.startswith(b"STATUS=")
    assert b"\n" not in received


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "relative/path"])
def test_without_a_manager_nothing_is_said(
    address: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify(READY=1)
    assert not caplog.records


def test_a_manager_that_is_gone_is_told_of_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    with caplog.at_level(logging.WARNING):
        assert not notify(READY=1)
    assert str(tmp_path / "gone") in caplog.text


def test_a_manager_that_does_not_read_does_not_hold_the_agent_up(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry_agent.daemon.service._SEND_LIMIT_S", 0.01)
    while notify(WATCHDOG=1):
        pass  # until the manager's queue is full
    assert manager.recv(4096) == b"WATCHDOG=1"
    assert notify(WATCHDOG=1)


@pytest.mark.parametrize(
    ("allowed_us", "pid", "interval_s"),
    [
        ("30000000", "own", 15.0),
        ("30000000", None, 15.0),
        ("30000000", "1", None),
        (None, None, None),
        ("0", "own", None),
        ("soon", "own", None),
        ("", "own", None),
    ],
)
def test_the_watchdog_interval(
    allowed_us: str | None,
    pid: str | None,
    interval_s: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (
        ("WATCHDOG_USEC", allowed_us),
        ("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid),
    ):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert watchdog_interval_s() == interval_s
