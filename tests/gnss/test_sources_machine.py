"""Real machines, with the files by which their kernels describe them."""

import os
from pathlib import Path

import pytest
from machines import Machine

from telemetry_agent.gnss.sources.machine import (
    Holder,
    candidate,
    explain,
    find_receivers,
    holder,
)

PORT = Path("/dev/ttyUSB0")
PI_4 = "Raspberry Pi 4 Model B Rev 1.4"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


QUECTEL = ("ttyUSB0", "ttyUSB1", "ttyUSB2", "ttyUSB3")


def test_nothing(machine: Machine) -> None:
    machine.uart("ttyS0")
    assert machine.found() == []


@pytest.mark.parametrize("generation", [5, 6, 7, 8, 9])
def test_u_blox(machine: Machine, generation: int) -> None:
    name = f"u-blox_AG_-_www.u-blox.com_u-blox_{generation}_-_GPS_GNSS_Receiver"
    machine.usb(f"1546:01a{generation}", f"u-blox AG|u-blox {generation}", "ttyACM0", by_id=name)
    path = f"/dev/serial/by-id/usb-{name}-if00"
    assert machine.found() == [(path, "receiver", f"u-blox {generation}")]
    assert machine.safe()[0].device == Path("/dev/ttyACM0")


@pytest.mark.parametrize("fact", ["idVendor", "idProduct"])
def test_a_receiver_that_is_being_unplugged_hides_no_other(machine: Machine, fact: str) -> None:
    machine.usb("1546:01a8", "u-blox AG|u-blox 8", "ttyACM0")
    machine.usb("0e8d:3329", "MTK|GPS Receiver", "ttyACM1")
    for file in machine.root.rglob(fact):
        if file.read_text().strip() in {"1546", "01a8"}:
            file.write_text("")
    assert machine.found() == [("/dev/ttyACM1", "receiver", "MediaTek GNSS receiver")]


def test_media_tek(machine: Machine) -> None:
    machine.usb("0e8d:3329", "MTK|GPS Receiver", "ttyACM0")
    assert machine.found() == [("/dev/ttyACM0", "receiver", "MediaTek GNSS receiver")]


def test_sirf_behind_its_own_bridge(machine: Machine) -> None:
    machine.usb("067b:aaa0", "Prolific|", "ttyUSB0")
    assert machine.found() == [("/dev/ttyUSB0", "receiver", "SiRF GNSS receiver (PS-360)")]


def test_globalsat_bu_353_hides_behind_a_bridge(machine: Machine) -> None:
    machine.usb(
        "067b:2303",
        "Prolific Technology Inc.|USB-Serial Controller D",
        "ttyUSB0",
        by_id="Prolific_Technology_Inc._USB-Serial_Controller_D",
    )
    path = "/dev/serial/by-id/usb-Prolific_Technology_Inc._USB-Serial_Controller_D-if00"
    label = "Prolific Technology Inc. USB-Serial Controller D"
    assert machine.found() == [(path, "unknown", label)]
    assert machine.safe() == []


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ("0403:6001", "FTDI|FT232R USB UART"),
        ("10c4:ea60", "Silicon Labs|CP2102 USB to UART Bridge Controller"),
        ("1a86:7523", "|USB2.0-Serial"),
        ("2341:0043", "Arduino (www.arduino.cc)|Arduino Uno"),
    ],
)
def test_what_may_be_anything_is_not_opened(machine: Machine, ids: str, says: str) -> None:
    machine.usb(ids, says, "ttyUSB0")
    assert machine.found() == [("/dev/ttyUSB0", "unknown", says.replace("|", " ").strip())]
    assert machine.safe() == []


def test_a_bridge_without_a_name(machine: Machine) -> None:
    machine.usb("1a86:7523", "", "ttyUSB0")
    assert machine.found() == [("/dev/ttyUSB0", "unknown", "USB serial port")]


@pytest.mark.parametrize("ids", ["2c7c:0125", "2c7c:0121", "1e0e:9001"])
def test_the_nmea_port_of_a_modem_and_no_other(machine: Machine, ids: str) -> None:
    machine.usb(ids, "Modem|LTE Module", *QUECTEL, "ttyUSB4")
    ((path, kind, _),) = machine.found()
    assert (path, kind) == ("/dev/ttyUSB1", "modem")
    assert len(machine.safe()) == 1


def test_a_sim7600_whose_ports_were_numbered_late(machine: Machine) -> None:
    machine.usb("0403:6001", "FTDI|FT232R", "ttyUSB0")
    machine.usb("1e0e:9001", "SimTech|SimTech, Incorporated", *[f"ttyUSB{n}" for n in range(1, 6)])
    assert [str(c.path) for c in machine.safe()] == ["/dev/ttyUSB2"]


@pytest.mark.parametrize(
    ("ids", "interface", "nmea"),
    [("1bc7:1201", 2, "ttyUSB1"), ("1199:9071", 0, "ttyUSB2")],
)
def test_telit_and_sierra(machine: Machine, ids: str, interface: int, nmea: str) -> None:
    machine.usb(ids, "Maker|Modem", *QUECTEL, interface=interface)
    assert [str(c.path) for c in machine.safe()] == [f"/dev/{nmea}"]


def test_a_modem_whose_nmea_port_is_not_known_is_left_alone(machine: Machine) -> None:
    machine.usb("12d1:1506", "HUAWEI|HUAWEI Mobile", *QUECTEL)
    machine.usb("1199:68c0", "Sierra|MC7304", "ttyUSB4", "ttyUSB5")
    assert machine.found() == []


def test_a_u_blox_modem_is_no_receiver(machine: Machine) -> None:
    machine.usb("1546:1102", "u-blox AG|LISA-U2", "ttyACM0", "ttyACM1")
    assert machine.safe() == []


def test_the_receiver_comes_before_the_modem(machine: Machine) -> None:
    machine.usb("2c7c:0125", "Quectel|EG25-G", *QUECTEL)
    machine.usb("067b:aaa0", "Prolific|", "ttyUSB4")
    machine.usb("1546:01a8", "u-blox AG|u-blox 8", "ttyACM0")
    assert [str(c.path) for c in machine.safe()] == [
        f"/dev/tty{n}" for n in ("ACM0", "USB4", "USB1")
    ]


def test_a_port_is_known_by_any_of_its_names(machine: Machine) -> None:
    machine.usb("0403:6001", "FTDI|FT232R", "ttyUSB0")
    machine.usb("067b:aaa0", "Prolific|", "ttyUSB4")
    name = machine.root / "my-receiver"
    name.symlink_to("/dev/ttyUSB4")
    assert candidate(name, machine.root) == machine.safe()[0]
    assert candidate(Path("/dev/ttyUSB9"), machine.root) is None


def test_the_header_of_a_pi(machine: Machine) -> None:
    machine.uart("ttyS0", PI_4)
    machine.link("serial0", "ttyS0")
    machine.cmdline("console=tty1 root=/dev/mmcblk0p2")
    ((path, kind, label),) = machine.found()
    assert (path, kind) == ("/dev/serial0", "header")
    assert label == f"the header's serial port of this {PI_4}"
    assert machine.safe()[0].device == Path("/dev/ttyS0")


def test_the_header_of_a_pi_5_is_not_its_debug_connector(machine: Machine) -> None:
    machine.uart("ttyAMA10", "Raspberry Pi 5 Model B Rev 1.0")
    machine.link("serial0", "ttyAMA10")
    assert machine.found() == []
    machine.uart("ttyAMA0")
    assert [path for path, _, _ in machine.found()] == ["/dev/ttyAMA0"]
    (machine.root / "dev/serial0").unlink()
    machine.link("serial0", "ttyAMA0")  # the port is switched on
    assert [path for path, _, _ in machine.found()] == ["/dev/serial0"]


def test_a_pi_whose_header_port_is_off(machine: Machine) -> None:
    machine.uart("ttyAMA1", PI_4)
    assert machine.found() == []


def test_the_header_of_another_computer_may_be_anything(machine: Machine) -> None:
    machine.uart("ttyS0", "Banana Pi BPI-M1")
    machine.link("serial0", "ttyS0")
    assert machine.found() == []


def test_a_pi_with_the_system_console_on_its_header(machine: Machine) -> None:
    machine.uart("ttyS0", PI_4)
    machine.link("serial0", "ttyS0")
    machine.cmdline("console=ttyS0,115200 console=tty1")
    (port,) = find_receivers(machine.root)
    assert not port.safe
    assert port.blocked == (
        "the system console is on /dev/ttyS0: "
        "`sudo raspi-config nonint do_serial_cons 1`, then reboot"
    )


def test_a_pi_with_a_login_on_its_header(machine: Machine) -> None:
    machine.uart("ttyS0", PI_4)
    machine.link("serial0", "ttyS0")
    machine.process(612, "agetty", "--keep-baud", "115200,57600,38400,9600", "ttyS0", "vt220")
    (port,) = find_receivers(machine.root)
    assert not port.safe
    assert port.blocked is not None
    assert port.blocked.startswith("a login console has /dev/ttyS0 (agetty (pid 612)): `sudo raspi")


def test_a_pi_3_whose_bluetooth_has_the_header(machine: Machine) -> None:
    machine.uart("ttyAMA0", "Raspberry Pi 3 Model B Rev 1.2")
    machine.link("serial0", "ttyAMA0")
    machine.process(433, "hciattach", "/dev/serial1", has="/dev/ttyAMA0")
    (port,) = find_receivers(machine.root)
    assert port.blocked is not None
    assert port.blocked.startswith("Bluetooth has /dev/ttyAMA0 (hciattach (pid 433)): use the")


# ---- the user of a port


@pytest.fixture
def busy(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.process(1, "systemd")
    return machine


def test_nobody(busy: Machine) -> None:
    busy.process(77, "gpsd", has="/dev/ttyUSB1")
    assert holder(PORT, busy.root) is None
    assert holder(PORT, busy.root / "no-proc") is None


def test_who_has_it_open(busy: Machine) -> None:
    busy.process(77, "gpsd", has=str(PORT))
    assert holder(PORT, busy.root) == Holder(77, "gpsd")


def test_a_process_that_ends_or_hides_its_files_is_no_holder_and_hides_none(busy: Machine) -> None:
    (busy.root / "proc/5").mkdir()
    busy.process(77, "", has=str(PORT))
    assert holder(PORT, busy.root) == Holder(77, "a program")


def test_we_ourselves_do_not_count(busy: Machine) -> None:
    busy.process(os.getpid(), "telemetry-agent", has=str(PORT))
    assert holder(PORT, busy.root) is None


def test_the_program_that_made_a_pty_does_not_count(busy: Machine) -> None:
    busy.process(77, "socat", has="/dev/pts/3")
    assert holder(Path("/dev/pts/3"), busy.root) is None


def test_a_login_of_another_user_is_seen_by_its_command_line(busy: Machine) -> None:
    busy.process(612, "agetty", "-o", "-p -- \\u", "9600", "ttyUSB0", "vt220")
    busy.process(613, "agetty", "tty1", "linux")
    busy.process(600, "less", "/dev/ttyUSB0")
    assert holder(PORT, busy.root) == Holder(612, "agetty")
    busy.process(611, "getty", "9600", "/dev/ttyUSB0")
    assert holder(PORT, busy.root) == Holder(611, "getty")


def test_a_login_that_cannot_be_seen_is_known_by_its_unit(busy: Machine) -> None:
    slice_ = busy.root / "sys/fs/cgroup/system.slice/system-serial\\x2dgetty.slice"
    for tty, pids in (("ttyUSB0", "612\n613\n"), ("ttyUSB1", "700\n"), ("ttyUSB2", "")):
        unit = slice_ / f"serial-getty@{tty}.service"
        unit.mkdir(parents=True)
        (unit / "cgroup.procs").write_text(pids)
    assert holder(PORT, busy.root) == Holder(612, "agetty")
    assert holder(Path("/dev/ttyUSB2"), busy.root) is None


def test_no_name_changes_the_terminal_on_which_it_is_shown(busy: Machine) -> None:
    busy.process(77, "x\x1b[2Jy", has=str(PORT))
    assert holder(PORT, busy.root) == Holder(77, "x[2Jy")
    busy.usb("067b:2303", "Evil\x1b]0;owned\x07|USB\nserial", "ttyUSB7")
    assert ("/dev/ttyUSB7", "unknown", "Evil]0;owned USBserial") in busy.found()


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("gpsd", 'gpsd (pid 9) has /dev/ttyUSB0: set gps.source = "gpsd://localhost:2947", or `s'),
        ("ModemManager", "ModemManager (pid 9) has /dev/ttyUSB0: `sudo systemctl disable --now Mo"),
        ("agetty", "`sudo systemctl disable --now serial-getty@ttyUSB0`, then reboot"),
        ("getty", "`sudo systemctl disable --now serial-getty@ttyUSB0`"),
        ("login", "`sudo systemctl disable --now serial-getty@ttyUSB0`"),
        ("hciattach", "Bluetooth has /dev/ttyUSB0 (hciattach (pid 9)): use the header's other po"),
        ("btattach", "Bluetooth has /dev/ttyUSB0 (btattach (pid 9)): use the header's other po"),
        ("telemetry-agent", "another telemetry-agent (pid 9) has /dev/ttyUSB0: stop it"),
        ("minicom", "minicom (pid 9) has /dev/ttyUSB0: stop that program (`sudo kill 9`)"),
    ],
)
def test_each_holder_has_its_remedy(busy: Machine, program: str, says: str) -> None:
    assert says in str(explain(PORT, Holder(9, program), busy.root))


def test_a_console_of_the_kernel_starts_its_login_again(busy: Machine) -> None:
    busy.cmdline("root=/dev/sda1 console=ttyUSB0,9600n8")
    text = explain(PORT, Holder(9, "agetty"), busy.root)
    assert ", remove console=ttyUSB0 from the kernel's command line, then reboot" in text.remedy
