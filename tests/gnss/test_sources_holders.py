import os
from pathlib import Path

import pytest
from machines import Machine

from telemetry_agent.gnss.sources.holders import Holder, explain, holder

PORT = Path("/dev/ttyUSB0")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.process(1, "systemd")
    return machine


def test_nobody(machine: Machine) -> None:
    machine.process(77, "gpsd", has="/dev/ttyUSB1")
    assert holder(PORT, machine.root) is None
    assert holder(PORT, machine.root / "no-proc") is None


def test_who_has_it_open(machine: Machine) -> None:
    machine.process(77, "gpsd", has=str(PORT))
    assert holder(PORT, machine.root) == Holder(77, "gpsd")


def test_we_ourselves_do_not_count(machine: Machine) -> None:
    machine.process(os.getpid(), "telemetry-agent", has=str(PORT))
    assert holder(PORT, machine.root) is None


def test_a_login_of_another_user_is_seen_by_its_command_line(machine: Machine) -> None:
    machine.process(612, "agetty", "-o", "-p -- \\u", "9600", "ttyUSB0", "vt220")
    machine.process(613, "agetty", "tty1", "linux")
    assert holder(PORT, machine.root) == Holder(612, "agetty")


def test_a_login_that_cannot_be_seen_is_known_by_its_unit(machine: Machine) -> None:
    slice_ = machine.root / "sys/fs/cgroup/system.slice/system-serial\\x2dgetty.slice"
    for tty, pids in (("ttyUSB0", "612\n613\n"), ("ttyUSB1", "700\n"), ("ttyUSB2", "")):
        unit = slice_ / f"serial-getty@{tty}.service"
        unit.mkdir(parents=True)
        (unit / "cgroup.procs").write_text(pids)
    assert holder(PORT, machine.root) == Holder(612, "agetty")
    assert holder(Path("/dev/ttyUSB2"), machine.root) is None


def test_a_lock_of_another_user_is_seen(machine: Machine) -> None:
    node = machine.root / "dev/ttyUSB0"
    node.write_bytes(b"")
    status = node.stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    machine.process(5, "picocom")
    (machine.root / "proc/locks").write_text(
        "1: POSIX  ADVISORY  READ 9 fe:00:2179669 128 128\n"
        f"2: FLOCK  ADVISORY  WRITE 5 {device}:{status.st_ino} 0 EOF\n"
        f"2: -> FLOCK  ADVISORY  WRITE 6 {device}:{status.st_ino} 0 EOF\n"
    )
    assert holder(PORT, machine.root) == Holder(5, "picocom")


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("gpsd", 'gpsd (pid 9) has /dev/ttyUSB0: set gps.source = "gpsd://localhost:2947", or `s'),
        ("ModemManager", "ModemManager (pid 9) has /dev/ttyUSB0: `sudo systemctl disable --now Mo"),
        ("agetty", "`sudo systemctl disable --now serial-getty@ttyUSB0`"),
        ("hciattach", "Bluetooth has /dev/ttyUSB0 (hciattach (pid 9)): use the header's other po"),
        ("telemetry-agent", "another telemetry-agent (pid 9) has /dev/ttyUSB0: stop it"),
        ("minicom", "minicom (pid 9) has /dev/ttyUSB0: stop that program (`sudo kill 9`)"),
    ],
)
def test_each_holder_has_its_remedy(machine: Machine, program: str, says: str) -> None:
    assert says in str(explain(PORT, Holder(9, program), machine.root))


def test_a_console_of_the_kernel_starts_its_login_again(machine: Machine) -> None:
    machine.cmdline("root=/dev/sda1 console=ttyUSB0,9600n8")
    text = explain(PORT, Holder(9, "agetty"), machine.root)
    assert ", remove console=ttyUSB0 from the kernel's command line, then reboot" in text.remedy
