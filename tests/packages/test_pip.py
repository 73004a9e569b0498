"""Installation with pip: the service is installed and removed again."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import blocks
from packages import device
from packages.built import Built
from packages.containers import Container, container
from packages.device import (
    INIT,
    QUEUE,
    UNIT,
    costs,
    install,
    left_behind,
    reboot_and_upgrade,
    rows,
    start_endpoint,
    start_receiver,
)
from packages.roots import root
from processes import ROOT

pytestmark = pytest.mark.timeout(1800)  # the first test creates root file systems and packages


UNINSTALL = {
    "pipx": "pipx uninstall --global telemetry-agent",
    "uv": "UV_TOOL_DIR=/opt/uv UV_TOOL_BIN_DIR=/usr/local/bin uv tool uninstall telemetry-agent",
}


def bring_wheels(machine: Container, wheel: Path) -> None:
    """Copy the wheels from the packages to replace PyPI: nothing is downloaded."""
    wheels = machine.root / "root/wheels"
    shutil.copytree(ROOT / "build/wheels/amd64", wheels)
    shutil.copy(wheel, wheels)


def typed(machine: Container, block: str, *, check: bool = True) -> str:
    offline = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/root/wheels\n"
    offline += "export UV_NO_INDEX=1 UV_FIND_LINKS=/root/wheels UV_OFFLINE=1\n"
    return device.typed(machine, offline + block, check=check)


def test_the_life_of_a_service_that_pip_brought(built: Built) -> None:
    with container(root("bookworm")) as machine:
        machine.boot()
        before = left_behind(machine)

        bring_wheels(machine, built.previous_wheel)
        by_pip = blocks("install.md", "sh")[-1]
        in_home = by_pip.replace("/opt/telemetry-agent", "/root/venv")
        said = typed(machine, in_home, check=False)
        assert "below /root, which the service cannot see" in said
        assert "sudo pipx install --global" in said
        assert left_behind(machine) == before

        # A unit that another author wrote is not changed.
        own = machine.root / "etc/systemd/system" / UNIT
        own.write_text("[Service]\nExecStart=/usr/bin/true\n")
        assert f"{UNIT} was not written by `service install`: move it" in typed(
            machine, by_pip, check=False
        )
        program = "/opt/telemetry-agent/bin/telemetry-agent"
        done = machine.run(program, "service", "uninstall", check=False)
        assert (done.returncode, "nothing was removed" in done.stdout) == (1, True)
        assert "ExecStart=/usr/bin/true" in own.read_text()
        own.unlink()

        assert "Next: sudo telemetry-agent init" in typed(machine, by_pip)
        assert machine.said("systemctl", "is-enabled", UNIT) == "enabled"
        assert machine.show(UNIT, "ActiveState") == "inactive"

        link = machine.root / "usr/local/bin/telemetry-agent"
        assert link.readlink() == Path("/opt/telemetry-agent/bin/telemetry-agent")
        start_receiver(machine)
        # The endpoint does not run yet: the message reports it.
        done = machine.run(*INIT, "--wait=20s", check=False)
        assert done.returncode == 1
        assert "no position was delivered within 20 s" in done.stdout
        assert "connection refused by 127.0.0.1:8080" in done.stdout.partition("no position")[2]
        start_endpoint(machine)
        assert "delivered: 127.0.0.1" in machine.said(*INIT, "--force")
        size_kb = int(machine.said("du", "-sk", "/opt/telemetry-agent").split()[0])
        print(f"pip: {size_kb / 1000:.0f} MB installed, {costs(machine)}")  # noqa: T201 - for the table in docs/install.md

        # init again, while the service runs: it keeps its receiver and its data.
        said = machine.said(*(word for word in INIT if "--source" not in word), "--force")
        assert "the running agent reads /run/gps" in said
        assert "delivered: 127.0.0.1" in said

        _, upgrade, *_, uninstall = blocks("upgrade.md", "sh")
        shutil.copy(built.wheel, machine.root / "root/wheels")
        pip = "/opt/telemetry-agent/bin/pip install --upgrade telemetry-agent\n"
        reboot_and_upgrade(machine, built, lambda: typed(machine, pip + upgrade))

        typed(machine, uninstall)
        assert machine.show(UNIT, "MainPID") == "0"
        assert (machine.root / "var/lib/telemetry-agent/queue.db").exists()
        # If the service is missing, init installs it too.
        done = machine.run(program, *INIT[1:], "--force", "--wait=1s", check=False)
        assert "the service runs; waiting for the first position" in done.stdout
        assert machine.show(UNIT, "ActiveState") == "active"
        machine.run(program, "service", "uninstall")
        done = machine.run(program, "service", "uninstall", check=False)
        assert (done.returncode, "the service is not installed" in done.stdout) == (1, True)
        machine.run(program, "queue", "resend", "--since=2000-01-01")
        # As after a start on a read-only disk.
        machine.run("cp", "--preserve", f"/{QUEUE}", "/run/telemetry-agent")
        waiting = rows(machine.root / QUEUE, "SELECT stream, seq FROM fixes WHERE state IN (1, 2)")
        machine.run("usermod", "-aG", "telemetry-agent", "games")  # as remedies advise
        said = machine.said(program, "service", "uninstall", "--purge")
        assert f"with {2 * len(waiting)} undelivered fixes" in said
        assert waiting
        shutil.rmtree(machine.root / "opt/telemetry-agent")
        assert left_behind(machine) == before
        assert machine.run("getent", "passwd", "telemetry-agent", check=False).returncode == 2
        assert machine.run("getent", "group", "telemetry-agent", check=False).returncode == 2


def test_the_package_takes_the_place_of_a_service_that_pip_brought(built: Built) -> None:
    with container(root("bookworm")) as machine:
        machine.boot()
        before = left_behind(machine)
        bring_wheels(machine, built.wheel)
        typed(machine, blocks("install.md", "sh")[-1])
        start_receiver(machine)
        machine.run(*INIT, "--wait=1s", check=False)

        said = install(machine, built.debs["amd64"])
        assert "sudo /usr/bin/telemetry-agent service uninstall" in said
        assert "/opt/telemetry-agent/bin/telemetry-agent run" in machine.show(UNIT, "ExecStart")
        package = "/usr/bin/telemetry-agent"
        done = machine.run(package, "service", "uninstall", "--purge", check=False)
        assert (done.returncode, "`apt purge` it" in done.stdout) == (1, True)

        said = machine.said(package, "service", "uninstall")
        assert "the service of the Debian package is in effect" in said
        assert f"path={package} ;" in machine.show(UNIT, "ExecStart")
        assert machine.said("systemctl", "is-enabled", UNIT) == "enabled"
        assert machine.show(UNIT, "ActiveState") == "active"
        done = machine.run(package, "service", "uninstall", check=False)
        assert (done.returncode, "the Debian package provides " in done.stdout) == (1, True)
        assert "service uninstall" not in install(machine, built.debs["amd64"], "--reinstall")

        machine.run("apt-get", "purge", "--yes", "telemetry-agent")
        shutil.rmtree(machine.root / "opt/telemetry-agent")
        assert left_behind(machine) == before


@pytest.mark.parametrize("tool", ["pipx", "uv"])
def test_the_service_of_a_tool_of_its_own(built: Built, tool: str) -> None:
    """Install as in docs/install.md, set up the service, then remove all but the tool's files."""
    with container(root("bookworm")) as machine:
        machine.boot()
        bring_wheels(machine, built.wheel)
        fetched = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
        wheels = machine.root / "root/wheels"
        subprocess.run([*fetched, "--dest", str(wheels), tool, "pip"], check=True)
        machine.run("python3", "-m", "venv", "/root/tools")
        typed(machine, f"/root/tools/bin/pip install {tool}")
        (machine.root / "usr/local/bin" / tool).symlink_to(f"/root/tools/bin/{tool}")
        (by_tool,) = [block for block in blocks("install.md", "sh") if f"{tool} " in block]

        before = left_behind(machine)
        said = typed(machine, by_tool)
        assert "Next: sudo telemetry-agent init" in said
        start_receiver(machine)
        start_endpoint(machine)
        assert "delivered: 127.0.0.1" in machine.said(*INIT)
        machine.run("systemctl", "stop", "receiver", "endpoint")
        # The command belongs to the tool: it stays until the tool removes it.
        typed(machine, "telemetry-agent service uninstall --purge")
        assert "telemetry-agent" in typed(machine, "telemetry-agent --version")
        typed(machine, UNINSTALL[tool])
        assert left_behind(machine) - before <= {"/opt/pipx/venvs/.telemetry-agent.lock"}
