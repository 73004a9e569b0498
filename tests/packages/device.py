"""What is done on a device, and looked at there, whatever way the agent was installed."""

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
"""Debian's release -> the package for it on this machine."""
UNIT = "telemetry-agent.service"
QUEUE = "var/lib/telemetry-agent/queue.db"
INIT = (
    *("telemetry-agent", "init", "--source=/run/gps", "--device=van-07", "--start"),
    "--url=http://127.0.0.1:8080/v1/fixes",
)


def install(machine: Container, deb: Path, *options: str) -> str:
    """As ``sudo apt install ./FILE`` does, without a network."""
    shutil.copy(deb, machine.root / "root")
    argv = ["apt-get", "install", "--yes", "--no-install-recommends", *options]
    return machine.said(*argv, f"/root/{deb.name}")


def typed(machine: Container, block: str, *, check: bool = True) -> str:
    """A block as somebody types it who is root, and says yes to apt."""
    script = f'cd /root; sudo() {{ env "$@"; }}\n{block}'
    return machine.run("bash", "-euc", script, check=check).stdout.strip()


def start_receiver(machine: Container) -> None:
    """A receiver for everybody at /run/gps."""
    machine.start("receiver", "telemetry-agent", "simulate", "--link=/run/gps", "--rate=5")
    machine.wait_for_line("receiver", "/run/gps")
    machine.run("chmod", "666", "/run/gps")


def plug_in_receiver(machine: Container) -> None:
    """A receiver as the kernel shows one at USB: a u-blox 8."""
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
    """Until a number of ``status --json`` has grown to this."""

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
    """Through an outage, a power cut and the upgrade of the running service. The names recorded."""
    # No network, and the power goes: what waits is there at the next start.
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

    # Nothing is lost, nothing came twice.
    recorded = rows(machine.root / QUEUE, "SELECT stream, seq FROM fixes")
    assert rows(machine.root / "root/received.db", "SELECT stream, seq FROM fixes") == recorded
    told = machine.said("journalctl", "--output=cat", "--unit=endpoint")
    assert told.count(" 0 came again, 0 rejected") == 2, told
    return recorded


def rows(database: Path, query: str) -> set[tuple[str, int]]:
    with contextlib.closing(sqlite3.connect(database)) as db:
        return set(db.execute(query).fetchall())


def left_behind(machine: Container) -> set[str]:
    """Every file whose name is ours, but for what apt and the test keep."""
    argv = ["find", "/", "/run", "-xdev", "-name", "*telemetry*agent*", "-not", "-path", "/root/*"]
    found = machine.said(*argv, "-not", "-path", "/proc/*", "-not", "-path", "/sys/*")
    return {line for line in found.splitlines() if not line.startswith("/var/cache/apt/")}


def installed_kb(machine: Container) -> int:
    """The size of every package there is."""
    shown = ("dpkg-query", "--show", "--showformat=${Installed-Size}\\n")
    return sum(map(int, machine.said(*shown).split()))


def costs(machine: Container) -> str:
    """What the running service takes: memory, time to start, time of ``status``."""
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
