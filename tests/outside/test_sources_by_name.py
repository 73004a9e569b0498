"""Receivers with a host name: silent name servers, and a dead address beside a good one.

The senders are real: gpsd, and a program that sends sentences over TCP.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from far_away import FarAway
from field import BEYOND, FAR, NAME_SERVER, NEAR, NameServer
from netns import network
from peers import gpsd_command
from processes import AGENT, Running, run_agent, running
from rig import START_MS, simulated, write_config
from watchdog import watchdog

from telemetry_agent.clock import Clock
from telemetry_agent.lab.drive import Drive

PORT = 2947
CONNECTED_WITHIN_S = 60.0
clock = Clock()


class Van:
    """A device, and a far machine whose name it knows."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder, self._stack = folder, stack
        net = stack.enter_context(network())
        self.device, self.far = net.namespace("device"), net.namespace("far")
        self.far.ip(f"addr add {BEYOND}/32 dev lo")
        self._manager = stack.enter_context(watchdog(folder))
        self._net = net

    def cable(self) -> None:
        self._net.cable(self.device, "eth0", self.far, "eth0")
        self.device.ip(f"addr add {NEAR}/24 dev eth0")
        self.far.ip(f"addr add {FAR}/24 dev eth0")
        self.device.ip(f"route add default via {FAR}")

    def serve(self, scheme: str) -> None:
        """Run a receiver on the far machine, for every client."""
        if scheme == "gpsd":
            receiver = self._stack.enter_context(simulated(self.folder, rate_hz=10))
            argv = (*gpsd_command(PORT, receiver.device), "-G")
            self._stack.enter_context(running(*self.far.command(*argv)))
            return
        self._listener = self._stack.enter_context(
            self.far.inside(lambda: socket.create_server(("", PORT)))
        )
        self._listener.settimeout(60)
        threading.Thread(target=self._send, daemon=True).start()

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            connection.sendall(b"".join(islice(Drive(START_MS), 20)))
            self._stack.callback(connection.close)

    def start(self, source: str) -> Running:
        self.config = write_config(self.folder, source, "http://127.0.0.1:9/")
        argv = (*AGENT, "run", "--config", str(self.config))
        agent = running(*self.device.command(*argv), env=self._manager.environment)
        daemon = self._stack.enter_context(agent)
        daemon.wait_for_line("telemetry-agent .* records ")
        return daemon

    def status(self) -> dict[str, object]:
        told = run_agent("status", "--json", "--config", str(self.config)).stdout
        return dict(json.loads(told)["receiver"])

    def wait_for_fix(self, daemon: Running, within_s: float) -> None:
        until_s = clock.monotonic_s() + within_s
        while not self.status()["fixes"]:
            assert clock.monotonic_s() < until_s, daemon.text()

    def end(self, daemon: Running) -> None:
        assert self._manager.longest_gap_s() < self._manager.LIMIT_S
        assert not any("stuck" in line for line in daemon.err)
        assert daemon.end() == 0


@pytest.fixture
def van(tmp_path: Path) -> Iterator[Van]:
    with contextlib.ExitStack() as stack:
        yield Van(tmp_path, stack)


@pytest.mark.parametrize("scheme", ["tcp", "gpsd"])
def test_a_silent_name_server_is_reported_and_stops_nothing(van: Van, scheme: str) -> None:
    van.cable()
    van.far.ip(f"addr add {NAME_SERVER}/32 dev lo")
    van.device.file("resolv.conf", f"nameserver {NAME_SERVER}\n")  # giving up takes 10 s
    van.device.file("nsswitch.conf", "hosts: dns\n")
    van.serve(scheme)
    with contextlib.closing(NameServer(van.far)) as names:
        daemon = van.start(f"{scheme}://base.test:{PORT}")
        began_s = clock.monotonic_s()
        daemon.wait_for_line(f"{scheme}://base.test:{PORT} cannot be reached .no name server")
        assert clock.monotonic_s() - began_s < CONNECTED_WITHIN_S
        status = van.status()
        assert status["state"] == "absent"
        assert "no name server answered for base.test" in str(status["message"])
        names.mute = False
        van.wait_for_fix(daemon, 60)
        van.end(daemon)


@pytest.mark.parametrize("scheme", ["tcp", "gpsd"])
def test_a_dead_address_beside_a_good_one_far_away(van: Van, scheme: str) -> None:
    with contextlib.closing(FarAway(van.device, van.far, one_way_s=0.3)):
        van.device.ip(f"addr add {NEAR}/24 dev far0")
        van.device.ip("addr add 2001:db8::1/64 dev far0 nodad")
        van.device.ip(f"route add {BEYOND} dev far0")
        van.far.ip(f"addr add {FAR}/24 dev far0")
        van.device.hosts({"base.test": ["2001:db8::2", BEYOND]})
        van.serve(scheme)
        daemon = van.start(f"{scheme}://base.test:{PORT}")
        van.wait_for_fix(daemon, CONNECTED_WITHIN_S)
        assert not any("cannot be reached" in line for line in daemon.err)
        van.end(daemon)
