"""The commands of the pages on installing, upgrading and moving, run as printed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import blocks
from packages.built import PREVIOUS, Built
from packages.containers import Container, container
from packages.device import (
    QUEUE,
    UNIT,
    plug_in_receiver,
    start_endpoint,
    start_receiver,
    typed,
    wait_for_status,
)
from packages.roots import root

pytestmark = pytest.mark.timeout(1800)  # the first test creates root file systems and packages


def download(machine: Container, deb: Path) -> None:
    for old in (machine.root / "root").glob("*.deb"):
        old.unlink()
    shutil.copy(deb, machine.root / "root")


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Container]:
    """A Debian of this release; apt assumes yes and has no network."""
    with container(root(request.param)) as booted:
        booted.boot()
        (booted.root / "etc/apt/apt.conf.d/90yes").write_text(
            'APT::Get::Assume-Yes "true";\nAPT::Install-Recommends "false";\n'
        )
        yield booted


@pytest.mark.parametrize("machine", ["bookworm"], indirect=True)
def test_the_readme_leads_to_a_delivered_position(built: Built, machine: Container) -> None:
    install, init = blocks("README.md", "sh")[0].splitlines()
    download(machine, built.debs["amd64"])
    typed(machine, install)
    plug_in_receiver(machine)
    start_endpoint(machine)
    answers = [
        ("Which one is the receiver?", ""),
        ("This device's name", "van-07"),
        ("The server's URL", "http://127.0.0.1:8080/v1/fixes"),
        ("Which kind is it?", ""),
        ("Enable and start the service now?", ""),
    ]
    said = machine.asked(*init.removeprefix("sudo ").split(), answers=answers)
    assert "1. /dev/ttyACM0: u-blox 8" in said
    assert "fix: 3D" in said
    assert "recorded: the first position is on the disk" in said
    assert "delivered: 127.0.0.1:8080 has it" in said
    assert machine.said("systemctl", "is-enabled", UNIT) == "enabled"
    assert ", van-07, " in machine.said("telemetry-agent", "status")


@pytest.mark.parametrize("machine", ["trixie"], indirect=True)
def test_a_page_can_be_followed_to_the_letter(built: Built, machine: Container) -> None:
    install, init, *_ = blocks("install.md", "sh")
    upgrade, _, downgrade, uninstall, _ = blocks("upgrade.md", "sh")
    clone, journal = blocks("operations.md", "sh")
    version = built.wheel.name.split("-")[1]
    download(machine, built.previous["trixie"])
    typed(machine, install)
    start_receiver(machine)
    start_endpoint(machine)
    said = typed(machine, init)
    assert "delivered: 127.0.0.1" in said
    assert f"telemetry-agent {PREVIOUS}, van-07" in said
    download(machine, built.debs["trixie"])
    typed(machine, upgrade)
    assert f"telemetry-agent {version}, van-07" in machine.said("telemetry-agent", "status")
    assert "thrown away" in typed(machine, journal)  # the warning about a disk in memory
    download(machine, built.previous["trixie"])
    typed(machine, downgrade)
    assert f"telemetry-agent {PREVIOUS}, van-07" in machine.said("telemetry-agent", "status")

    # systemd shows the right state of a missing receiver and of a failed start.
    machine.run("systemctl", "stop", "receiver")
    machine.run("systemctl", "restart", UNIT)
    assert machine.show(UNIT, "StatusText").startswith("van-07 from /run/gps: no receiver")
    typed(machine, clone)
    config = machine.root / "etc/telemetry-agent/config.toml"
    right = config.read_text()
    config.write_text("device = 3")
    assert machine.run("systemctl", "start", UNIT, check=False).returncode == 1
    errors = machine.said("journalctl", "--unit", UNIT, "--priority=err", "--output=cat")
    assert "telemetry-agent: config: " in errors
    config.write_text(right)
    start_receiver(machine)

    typed(machine, clone)
    assert not (machine.root / QUEUE).exists()
    machine.run("systemctl", "start", UNIT)
    wait_for_status(machine, "queue.pending", 1)
    assert "undelivered fixes" in typed(machine, uninstall)
