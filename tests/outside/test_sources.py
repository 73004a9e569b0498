"""Receivers without a serial port: the real process with real senders."""

import contextlib
import socket
from datetime import datetime
from itertools import islice, pairwise
from pathlib import Path

import pytest
from netns import network
from peers import gpsd, gpsd_command
from polling import wait_until
from ports import free_port
from processes import AGENT, running
from rig import START_MS, simulated, started, write_config

from telemetry_agent.lab.drive import Drive
from telemetry_agent.lab.endpoint import Endpoint

FIXES = 40
EPOCHS = list(islice(Drive(START_MS), FIXES))
LIMIT_S = 60.0


@pytest.fixture
def endpoint(tmp_path: Path) -> Endpoint:
    return Endpoint("127.0.0.1:0", tmp_path / "received.db")


def test_by_way_of_gpsd(tmp_path: Path, endpoint: Endpoint) -> None:
    with endpoint, simulated(tmp_path) as receiver, gpsd(receiver.device) as port:
        config = write_config(tmp_path, f"gpsd://127.0.0.1:{port}", endpoint.url)
        with started(config) as daemon:
            assert endpoint.wait_for(FIXES, LIMIT_S), daemon.text()
            assert daemon.end() == 0
        _no_gap(endpoint)


def test_auto_takes_the_gpsd_of_this_machine(tmp_path: Path, endpoint: Endpoint) -> None:
    with network() as net, simulated(tmp_path) as receiver, contextlib.ExitStack() as stack:
        machine = net.namespace("gpsd")
        stack.push(endpoint)
        machine.inside(endpoint.__enter__)
        config = write_config(tmp_path, "auto", endpoint.url, gps={"baud": "auto"})
        serves = gpsd_command(2947, receiver.device)
        runs = (*AGENT, "run", "--config", str(config))
        with (
            running(*machine.command(*serves)),
            running(*machine.command(*runs)) as daemon,
        ):
            daemon.wait_for_line(f"gpsd has {receiver.device}: using gpsd://localhost")
            assert endpoint.wait_for(FIXES, LIMIT_S), daemon.text()
            assert daemon.end() == 0
        _no_gap(endpoint)


def _no_gap(endpoint: Endpoint) -> None:
    """gpsd reads before the agent starts: the first fixes are not recorded, all later ones are."""
    times_ms = sorted(
        round(datetime.fromisoformat(time).timestamp() * 1000) for _, _, time in endpoint.received()
    )
    assert {after - before for before, after in pairwise(times_ms)} == {50}


def test_over_tcp_and_again_when_the_connection_was_lost(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    with endpoint, socket.create_server(("127.0.0.1", 0)) as sender:
        sender.settimeout(LIMIT_S)
        address = f"tcp://127.0.0.1:{sender.getsockname()[1]}"
        with started(write_config(tmp_path, address, endpoint.url)) as daemon:
            for half in (EPOCHS[: FIXES // 2], EPOCHS[FIXES // 2 :]):
                connection, _ = sender.accept()
                with connection:
                    connection.sendall(b"".join(half))
            assert endpoint.wait_for(FIXES, LIMIT_S), daemon.text()
            assert daemon.end() == 0
        assert endpoint.count() == FIXES


def test_over_udp(tmp_path: Path, endpoint: Endpoint) -> None:
    port = free_port()
    with endpoint, socket.socket(type=socket.SOCK_DGRAM) as sender:
        config = write_config(tmp_path, f"udp://127.0.0.1:{port}", endpoint.url)
        with started(config) as daemon:
            sender.connect(("127.0.0.1", port))
            wait_until(lambda: _listens(sender))
            for epoch in EPOCHS:
                sender.send(epoch)
            assert endpoint.wait_for(FIXES, LIMIT_S), daemon.text()
            assert daemon.end() == 0
        assert endpoint.count() == FIXES


def _listens(sender: socket.socket) -> bool:
    try:
        sender.send(b"\r\n")
        sender.send(b"\r\n")  # fails if the first one was refused
    except ConnectionRefusedError:
        return False
    return True
