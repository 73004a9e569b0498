"""Upgrade and downgrade: the queue file, and commands with an agent of another version."""

import json
from pathlib import Path

import pytest
from ackqueue.older_files import OLDER, make_older
from packages.built import PREVIOUS, Built
from packages.containers import Container, container
from packages.device import (
    INIT,
    QUEUE,
    RELEASES,
    UNIT,
    install,
    rows,
    start_endpoint,
    start_receiver,
    wait_for_status,
)
from packages.roots import root

from telemetry_agent.snapshot import PROTOCOL

pytestmark = pytest.mark.timeout(1800)  # the first test creates root file systems and packages

NAMES = "SELECT stream, seq FROM fixes"


def install_beside(machine: Container, deb: Path) -> None:
    """Install without a restart of the running agent, as unattended-upgrades can be set to do."""
    refuses = machine.root / "usr/sbin/policy-rc.d"
    refuses.write_text("#!/bin/sh\nexit 101\n")
    refuses.chmod(0o755)
    pid = machine.show(UNIT, "MainPID")
    install(machine, deb, "--allow-downgrades")
    assert machine.show(UNIT, "MainPID") == pid
    refuses.unlink()


def assert_commands_work(machine: Container, runs: str, installed: str, protocols: str) -> None:
    """Run every command that queries the agent, while the agent has another version."""
    said = machine.said("telemetry-agent", "status")
    assert said.startswith(f"telemetry-agent {runs}, van-07, ")
    assert f"restart the service to run {installed}" in said
    assert protocols in said
    said = machine.run("telemetry-agent", "doctor", check=False).stdout
    assert f"version {runs}), but version {installed} is installed" in said
    for words in ("queue stats", "queue list", "export --format csv", "tap --for 1s"):
        said = machine.said("telemetry-agent", *words.split())
        assert said
        assert "Traceback" not in said


def reported_version(machine: Container) -> str:
    """The version in the agent's last report to the endpoint."""
    received = machine.root / "root/received.db"
    ((report, _),) = rows(received, "SELECT agent, stream FROM reports")
    return str(json.loads(report)["version"])


@pytest.mark.parametrize("release", RELEASES)
def test_versions_follow_each_other_over_a_backlog(built: Built, release: str) -> None:
    name = RELEASES[release]
    version = built.wheel.name.split("-")[1]
    with container(root(release)) as machine:
        machine.boot()
        install(machine, built.previous[name])
        start_receiver(machine)
        start_endpoint(machine)
        machine.run(*INIT)

        # Upgraded but not restarted.
        install_beside(machine, built.debs[name])
        assert_commands_work(machine, PREVIOUS, version, f"protocol {PROTOCOL}, the agent speaks ")
        wait_for_status(machine, "upload.delivered", 60)
        machine.run("systemctl", "stop", "endpoint")
        assert reported_version(machine) == PREVIOUS
        wait_for_status(machine, "queue.pending", 10)
        machine.run("systemctl", "restart", UNIT)
        wait_for_status(machine, "queue.pending", 20)
        start_endpoint(machine)
        wait_for_status(machine, "upload.delivered", 20)

        # Downgraded: it records immediately, although it does not know the file's schema.
        install_beside(machine, built.previous[name])
        assert_commands_work(machine, version, PREVIOUS, f"protocol {PROTOCOL - 1}, the agent ")
        machine.run("systemctl", "stop", "endpoint")
        wait_for_status(machine, "queue.pending", 10)
        machine.run("systemctl", "restart", UNIT)
        machine.wait_for_line(UNIT, "was written by a newer telemetry-agent")
        wait_for_status(machine, "receiver.fixes", 5)
        wait_for_status(machine, "queue.pending", 15)

        # Upgraded again: no fix is lost, and none comes twice.
        install(machine, built.debs[name])
        # The first fix may be the rest of the instant that the previous agent recorded last.
        wait_for_status(machine, "receiver.fixes", 5)
        start_endpoint(machine)
        machine.run("systemctl", "stop", "receiver")
        machine.run("telemetry-agent", "drain")
        machine.run("systemctl", "stop", "endpoint", UNIT)
        received = machine.root / "root/received.db"
        files = [machine.root / QUEUE, *(machine.root / QUEUE).parent.glob("queue.db.kept-*")]
        assert len(files) == 2
        recorded = {one for file in files for one in rows(file, NAMES)}
        assert len({stream for stream, _ in recorded}) == 4  # four starts
        assert rows(received, NAMES) == recorded
        told = machine.said("journalctl", "--output=cat", "--unit=endpoint")
        assert told.count(" 0 came again, 0 rejected") == 3, told

        assert reported_version(machine) == version

        # The fixes in a file of every older schema are delivered.
        for schema in OLDER:
            for file in (machine.root / QUEUE).parent.glob("queue.db*"):
                file.unlink()
            received.unlink()
            make_older(machine.root / QUEUE, schema)
            machine.run("chown", "telemetry-agent:", f"/{QUEUE}")
            start_endpoint(machine)
            machine.run("systemctl", "start", UNIT)
            machine.run("telemetry-agent", "drain")
            machine.run("systemctl", "stop", "endpoint", UNIT)
            assert {(f"{7:016x}", seq) for seq in (4, 5, 6)} <= rows(received, NAMES), schema
