"""An installation by pip: the service that it makes, and that it removes again."""

import shutil
from pathlib import Path

import pytest
from packages.conftest import Built
from packages.containers import Container, container
from packages.device import INIT, UNIT, costs, left_behind, start_endpoint, start_receiver
from packages.roots import root
from processes import ROOT

pytestmark = pytest.mark.timeout(900)  # the first test makes root file systems and packages


def pip_install(machine: Container, built: Built, venv: str) -> None:
    """With the wheels that the packages hold: nothing is fetched."""
    wheels = machine.root / "root/wheels"
    if not wheels.exists():
        shutil.copytree(ROOT / "build/wheels/amd64", wheels)
        shutil.copy(built.wheel, wheels)
    machine.run("python3", "-m", "venv", venv)
    version = built.wheel.name.split("-")[1]
    argv = (f"{venv}/bin/pip", "install", "--no-index", "--find-links=/root/wheels")
    machine.run(*argv, f"telemetry-agent[page]=={version}")


def test_the_life_of_a_service_that_pip_brought(built: Built) -> None:
    with container(root("bookworm")) as machine:
        machine.boot()
        before = left_behind(machine)

        pip_install(machine, built, "/root/venv")
        done = machine.run("/root/venv/bin/telemetry-agent", "service", "install", check=False)
        assert done.returncode == 1
        assert "below a home folder, which the service cannot see" in done.stdout
        assert "sudo pipx install --global" in done.stdout
        assert left_behind(machine) == before

        pip_install(machine, built, "/opt/telemetry-agent")
        said = machine.said("/opt/telemetry-agent/bin/telemetry-agent", "service", "install")
        assert "Next: telemetry-agent init" in said
        assert machine.said("systemctl", "is-enabled", UNIT) == "enabled"
        assert machine.show(UNIT, "ActiveState") == "inactive"

        # PATH of the container has no /usr/local/bin: as sudo has it.
        link = machine.root / "usr/local/bin/telemetry-agent"
        assert link.readlink() == Path("/opt/telemetry-agent/bin/telemetry-agent")
        (machine.root / "usr/bin/telemetry-agent").symlink_to(link.readlink())
        start_receiver(machine)
        # Nobody listens yet: what is missing is said.
        done = machine.run(*INIT, "--wait=20s", check=False)
        assert done.returncode == 1
        assert "no position was delivered within 20 s" in done.stdout
        assert "connection refused by 127.0.0.1:8080" in done.stdout.partition("no position")[2]
        start_endpoint(machine)
        assert "delivered: 127.0.0.1" in machine.said(*INIT, "--force")
        size_kb = int(machine.said("du", "-sk", "/opt/telemetry-agent").split()[0])
        print(f"pip: {size_kb / 1000:.0f} MB installed, {costs(machine)}")  # noqa: T201 - for the table in docs/install.md

        # Once more, over the service that runs: its receiver is left alone, its data stay.
        said = machine.said(*(word for word in INIT if "--source" not in word), "--force")
        assert "the running agent reads /run/gps" in said
        assert "delivered: 127.0.0.1" in said
        machine.run("telemetry-agent", "service", "install")

        machine.run("telemetry-agent", "service", "uninstall")
        assert machine.show(UNIT, "MainPID") == "0"
        assert (machine.root / "var/lib/telemetry-agent/queue.db").exists()
        machine.run("telemetry-agent", "service", "install")
        said = machine.said("telemetry-agent", "service", "uninstall", "--purge")
        assert "deleting /var/lib/telemetry-agent with " in said
        (machine.root / "usr/bin/telemetry-agent").unlink()
        shutil.rmtree(machine.root / "opt/telemetry-agent")
        assert left_behind(machine) == before
        assert machine.run("getent", "passwd", "telemetry-agent", check=False).returncode == 2
