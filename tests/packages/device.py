"""Actions and checks on a device, for every kind of installation."""

import contextlib
import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from packages.built import Built
from packages.containers import Container

RELEASES = {"trixie": "trixie", "bookworm": "amd64"}
"""Debian release -> its package for this machine."""
UNIT = "telemetry-agent.service"
QUEUE = "var/lib/telemetry-agent/queue.db"
INIT = (
    *("telemetry-agent", "init", "--source=/run/gps", "--device=van-07", "--start"),
    "--url=http://127.0.0.1:8080/v1/fixes",
)


def install(machine: Container, deb: Path, *options: str) -> str:
    """Install a package like ``sudo apt install ./FILE``, without a network."""
    shutil.copy(deb, machine.root / "root")
    argv = ["apt-get", "install", "--yes", "--no-install-recommends", *options]
    return machine.said(*argv, f"/root/{deb.name}")


def typed(machine: Container, block: str, *, check: bool = True) -> str:
    """Run a block of commands as root; apt assumes yes."""
    script = f'cd /root; sudo() {{ env "$@"; }}\n{block}'
    return machine.run("bash", "-euc", script, check=check).stdout.strip()


def start_receiver(machine: Container) -> None:
    """Start a receiver at /run/gps that every user may access."""
    machine.start("receiver", "telemetry-agent", "simulate", "--link=/run/gps", "--rate=5")
    machine.wait_for_line("receiver", "/run/gps")
    machine.run("chmod", "666", "/run/gps")


def plug_in_receiver(machine: Container) -> None:
    """Add a USB receiver, as the kernel shows it: a u-blox 8."""
    start_receiver(machine)
    usb = machine.root / "root/usb/1-1"
    (usb / "1-1:1.0").mkdir(parents=True)
    (usb / "idVendor").write_text("1546\n")
    (usb / "idProduct").write_text("01a8\n")
    (usb / "1-1:1.0/bInterfaceNumber").write_text("00\n")
    tty = machine.root / "root/tty/ttyACM0"
    tty.mkdir(parents=True)
    (tty / "device").symlink_to("/root/usb/1-1/1-1:1.0")
    machine.run("chmod", "755", "/root")
    machine.run("mount", "--bind", "/root/tty", "/sys/class/tty")
    machine.run("ln", "--symbolic", "/run/gps", "/dev/ttyACM0")


def start_endpoint(machine: Container) -> None:
    machine.start(
        *("endpoint", "telemetry-agent", "receive"),
        *("--listen=127.0.0.1:8080", "--db=/root/received.db"),
    )
    machine.wait_for_line("endpoint", "http://")


def wait_for_status(machine: Container, path: str, least: int) -> None:
    """Wait until a number in ``status --json`` has reached ``least``."""

    def grown(line: str) -> bool:
        with contextlib.suppress(ValueError, KeyError):
            said = json.loads(line)
            for key in path.split("."):
                said = said[key]
            return bool(said >= least)
        return False

    machine.wait_for("telemetry-agent", "status", "--watch", "--json", until=grown)


def reboot_and_upgrade(
    machine: Container, built: Built, upgrade: Callable[[], object]
) -> set[tuple[str, int]]:
    """Test an outage, a power cut and an upgrade of the running service; return recorded names."""
    # The network and then the power fail: pending fixes are still there at the next start.
    machine.run("systemctl", "stop", "endpoint")
    wait_for_status(machine, "queue.pending", 20)
    machine.cut_power()
    machine.boot()
    machine.wait_for_line(UNIT, " records van-07 from /run/gps")
    assert machine.show(UNIT, "ActiveState") == "active"
    start_receiver(machine)
    wait_for_status(machine, "queue.pending", 30)

    old_pid = machine.show(UNIT, "MainPID")
    upgrade()
    assert machine.show(UNIT, "ActiveState") == "active"
    assert machine.show(UNIT, "MainPID") not in {old_pid, "0"}
    status = json.loads(machine.said("telemetry-agent", "status", "--json"))
    assert status["version"] == built.wheel.name.split("-")[1]
    assert status["queue"]["pending"] >= 20
    start_endpoint(machine)
    machine.run("systemctl", "stop", "receiver")
    machine.run("telemetry-agent", "drain")
    machine.run("systemctl", "stop", "endpoint", UNIT)

    # No fix is lost, and none came twice.
    recorded = rows(machine.root / QUEUE, "SELECT stream, seq FROM fixes")
    assert rows(machine.root / "root/received.db", "SELECT stream, seq FROM fixes") == recorded
    told = machine.said("journalctl", "--output=cat", "--unit=endpoint")
    assert told.count(" 0 came again, 0 rejected") == 2, told
    return recorded


def rows(database: Path, query: str) -> set[tuple[str, int]]:
    with contextlib.closing(sqlite3.connect(database)) as db:
        return set(db.execute(query).fetchall())


def left_behind(machine: Container) -> set[str]:
    """Every file with our name, except those of apt and of the test."""
    argv = ["find", "/", "/run", "-xdev", "-name", "*telemetry*agent*", "-not", "-path", "/root/*"]
    found = machine.said(*argv, "-not", "-path", "/proc/*", "-not", "-path", "/sys/*")
    return {line for line in found.splitlines() if not line.startswith("/var/cache/apt/")}


def installed_kb(machine: Container) -> int:
    """The total size of the installed packages, in kB."""
    shown = ("dpkg-query", "--show", "--showformat=${Installed-Size}\\n")
    return sum(map(int, machine.said(*shown).split()))


def costs(machine: Container) -> str:
    """The costs of the running service: memory, time to start, duration of ``status``."""
    pid = machine.show(UNIT, "MainPID")
    memory = machine.said("grep", "VmRSS", f"/proc/{pid}/status").split()[1]
    began, ready = (
        int(machine.show(UNIT, name))
        for name in ("InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    )
    asked_s = []
    for _ in range(5):
        start_s = time.monotonic()
        machine.run("telemetry-agent", "status")
        asked_s.append(time.monotonic() - start_s)
    return (
        f"{int(memory) / 1000:.1f} MB of memory, ready after {(ready - began) / 1e6:.2f} s, "
        f"status in {min(asked_s):.2f} s"
    )
