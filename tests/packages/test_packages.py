"""The life of a package on a device: installed, set up, rebooted, upgraded, removed, purged."""

import subprocess
from pathlib import Path

import pytest
from packages.built import PREVIOUS, Built
from packages.containers import container
from packages.device import (
    INIT,
    QUEUE,
    RELEASES,
    UNIT,
    costs,
    install,
    installed_kb,
    left_behind,
    reboot_and_upgrade,
    rows,
    start_endpoint,
    start_receiver,
    wait_for_status,
)
from packages.roots import require, root

pytestmark = pytest.mark.timeout(1800)  # the first test creates root file systems and packages


BROUGHT = (
    "/usr/share/man/man1/telemetry-agent-status.1.gz",
    "/usr/share/bash-completion/completions/telemetry-agent",
    "/usr/share/zsh/vendor-completions/_telemetry-agent",
    "/usr/share/fish/vendor_completions.d/telemetry-agent.fish",
    "/usr/share/doc/telemetry-agent/examples/config.toml",
    "/usr/share/doc/telemetry-agent/docs/servers.md.gz",
    "/usr/share/doc/telemetry-agent/copyright",
)


@pytest.mark.parametrize("release", RELEASES)
def test_the_life_of_a_package(built: Built, release: str, tmp_path: Path) -> None:
    name = RELEASES[release]
    with container(root(release)) as machine:
        machine.boot()
        before, size_kb = left_behind(machine), installed_kb(machine)

        said = install(machine, built.previous[name])
        assert "Next: sudo telemetry-agent init" in said
        # Without a config the unit is enabled and waits; no unit has failed.
        assert machine.said("systemctl", "is-enabled", UNIT) == "enabled"
        assert machine.show(UNIT, "ActiveState") == "inactive"
        assert machine.show(UNIT, "ConditionResult") == "no"
        assert machine.said("systemctl", "--failed", "--plain", "--no-legend") == ""
        assert PREVIOUS in machine.said("telemetry-agent", "--version")
        machine.run("ls", *BROUGHT)

        done = machine.run("telemetry-agent", "service", "install", check=False)
        assert (done.returncode, "the Debian package provides " in done.stdout) == (1, True)

        # A position arrives.
        start_receiver(machine)
        start_endpoint(machine)
        said = machine.said(*INIT)
        assert "recorded: the first position is on the disk" in said
        assert "delivered: 127.0.0.1" in said
        grown_mb = (installed_kb(machine) - size_kb) / 1000
        again = (*INIT[:-2], INIT[-1], "--force")
        assert "Next: sudo systemctl restart telemetry-agent" in machine.said(*again)
        machine.run("systemctl", "reload", UNIT)  # a minimal Debian has no /bin/kill
        machine.wait_for_line(UNIT, "reloaded: records van-07 from /run/gps")
        print(f"{release}: {grown_mb:.0f} MB installed, {costs(machine)}")  # noqa: T201 - for the table in docs/install.md

        # The upgrade restarts the service with its backlog.
        recorded = reboot_and_upgrade(machine, built, lambda: install(machine, built.debs[name]))
        assert len({stream for stream, _ in recorded}) == 3  # three starts

        # A purge reports undelivered fixes.
        machine.run("systemctl", "start", UNIT)
        start_receiver(machine)
        wait_for_status(machine, "queue.pending", 3)
        machine.run("systemctl", "stop", "receiver")
        machine.run("apt-get", "remove", "--yes", "telemetry-agent")
        assert machine.show(UNIT, "MainPID") == "0"
        assert (machine.root / QUEUE).exists()
        # After another installation it records again.
        install(machine, built.debs[name])
        assert machine.show(UNIT, "ActiveState") == "active"
        machine.run("apt-get", "remove", "--yes", "telemetry-agent")
        waiting = rows(machine.root / QUEUE, "SELECT stream, seq FROM fixes WHERE state IN (1, 2)")
        # As after a start on a read-only disk.
        machine.run("cp", "--preserve", f"/{QUEUE}", "/run/telemetry-agent")
        machine.run("usermod", "-aG", "telemetry-agent", "games")  # as remedies advise
        said = machine.said("apt-get", "purge", "--yes", "telemetry-agent")
        assert f"with {2 * len(waiting)} undelivered fixes" in said
        assert "not removed" not in said
        assert left_behind(machine) == before
        assert machine.run("getent", "passwd", "telemetry-agent", check=False).returncode == 2
        assert machine.run("getent", "group", "telemetry-agent", check=False).returncode == 2
        assert machine.said("systemctl", "--failed", "--plain", "--no-legend") == ""


@pytest.mark.parametrize("name", RELEASES.values())
def test_lintian_finds_nothing_that_is_not_explained(built: Built, name: str) -> None:
    require()
    argv = ["lintian", "--allow-root", "--fail-on=error,warning", str(built.debs[name])]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout
    assert not done.stdout


def test_the_package_for_armv6_refuses_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "uname").write_text("#!/bin/sh\necho armv6l\n")
    (tmp_path / "uname").chmod(0o755)
    script = Path(__file__).parents[2] / "release/debian/preinst.armhf"
    argv = ["sh", str(script), "install"]
    done = subprocess.run(
        argv, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "needs ARMv7 or newer, and this machine is armv6l" in done.stderr
    assert subprocess.run(argv, check=False).returncode == 0
