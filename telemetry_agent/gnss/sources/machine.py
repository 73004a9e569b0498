"""The serial ports of this machine: which belong to a GNSS receiver, and which are in use.

A port is judged only by what the kernel reports, never by opening it: opening raises DTR, which
resets an Arduino and may start other machines. The module knows the USB ids of receivers, the one
interface of an LTE modem that carries NMEA, and the header UART of a Raspberry Pi. Bridges that
hide their device (FTDI, CH34x, CP210x, PL2303) are found too; the user has to choose them by name.

Opening a port that another program reads would split the bytes between the two, and some programs
do not lock their port, such as a login console. So /proc is searched first. Without root only the
files of the same user are visible, and a sandboxed service sees no other process. Command lines and
systemd's units still show a login on a port.

All files are read below ``root``, so that tests can provide a machine.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from telemetry_agent.errors import Advice
from telemetry_agent.small_files import text_of as _text_of

Kind = Literal["receiver", "header", "modem", "unknown"]
_PREFERENCE = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A serial port that belongs to a receiver, or may."""

    path: Path
    """The stable name, for ``gps.source``."""
    device: Path
    """The node, such as /dev/ttyACM0."""
    kind: Kind
    """``unknown``: only the user knows which device is connected."""
    label: str
    """Its name for the user, such as "u-blox 7"."""
    blocked: str | None = None
    """Why it cannot be used now, and what to do."""

    @property
    def safe(self) -> bool:
        """Whether it may be opened without asking the user."""
        return self.kind != "unknown" and self.blocked is None


_RECEIVERS = {
    (0x1546, 0x01A4): "u-blox 4",
    (0x1546, 0x01A5): "u-blox 5",
    (0x1546, 0x01A6): "u-blox 6",
    (0x1546, 0x01A7): "u-blox 7",
    (0x1546, 0x01A8): "u-blox 8",
    (0x1546, 0x01A9): "u-blox 9",
    (0x0E8D, 0x3329): "MediaTek GNSS receiver",
    (0x067B, 0xAAA0): "SiRF GNSS receiver (PS-360)",
    (0x1163, 0x0100): "DeLorme Earthmate",
    (0x1163, 0x0200): "DeLorme Earthmate LT",
    (0x09D7, 0x0100): "NovAtel GNSS receiver",
    (0x1D50, 0x60C7): "Zubax GNSS",
}
# Vendor and product -> what it is, and the interface that carries NMEA.
_MODEMS = {
    (0x05C6, 0x9215): ("Quectel EC20", 1),
    (0x2C7C, 0x0121): ("Quectel EC21", 1),
    (0x2C7C, 0x0125): ("Quectel EC25/EG25", 1),
    (0x2C7C, 0x0191): ("Quectel EG91", 1),
    (0x2C7C, 0x0195): ("Quectel EG95", 1),
    (0x2C7C, 0x0296): ("Quectel BG96", 1),
    (0x2C7C, 0x0306): ("Quectel EG06", 1),
    (0x2C7C, 0x0512): ("Quectel EG12/EM12", 1),
    (0x2C7C, 0x0800): ("Quectel RM500Q", 1),
    (0x1E0E, 0x9001): ("SIMCom SIM7500/SIM7600", 1),
    (0x1E0E, 0x9205): ("SIMCom SIM7070", 1),
    (0x1E0E, 0x9206): ("SIMCom SIM7080", 1),
    (0x1BC7, 0x1010): ("Telit", 1),
    (0x1BC7, 0x1060): ("Telit LN920", 3),
    (0x1BC7, 0x1061): ("Telit LN920", 4),
    (0x1BC7, 0x1201): ("Telit LE910C1", 3),
    (0x1BC7, 0x1204): ("Telit LE910C1", 4),
    (0x1199, 0x9071): ("Sierra MC7455", 2),
    (0x1199, 0x9091): ("Sierra EM7565", 2),
    (0x1E2D, 0x005B): ("Cinterion", 4),
    (0x1E2D, 0x005D): ("Cinterion", 4),
    (0x1E2D, 0x0061): ("Cinterion", 4),
    (0x1E2D, 0x0069): ("Cinterion", 4),
}
_MODEM_VENDORS = {0x12D1, 0x19D2, *(vendor for vendor, _ in _MODEMS)}
_CONSOLES = {"agetty", "getty", "login"}
_BLUETOOTH = {"hciattach", "btattach"}
_BLUETOOTH_REMEDY = (
    'use the header\'s other port (gps.source = "/dev/serial0"), or add '
    "dtoverlay=disable-bt to /boot/firmware/config.txt, "
    "`sudo systemctl disable hciuart`, then reboot"
)
_REMEDIES = {
    "gpsd": 'set gps.source = "gpsd://localhost:2947", '
    "or `sudo systemctl disable --now gpsd.socket gpsd`",
    "ModemManager": "`sudo systemctl disable --now ModemManager`, or where the modem needs it, "
    "`sudo mmcli -m any --location-enable-gps-unmanaged`",
}


def find_receivers(root: Path = Path("/")) -> list[Candidate]:
    """All candidates, best first: receivers, the Pi's header, modems, unknown ports."""
    found = [*_usb_ports(root), *_header(root)]
    return sorted(found, key=lambda port: (_PREFERENCE.index(port.kind), str(port.device)))


def candidate(path: Path, root: Path = Path("/")) -> Candidate | None:
    """The candidate for ``path``, which may be any of its names."""
    device = path.resolve()
    return next((port for port in find_receivers(root) if port.device == device), None)


def _usb_ports(root: Path) -> Iterator[Candidate]:
    names = _stable_names(root)
    for tty in (root / "sys/class/tty").glob("tty*"):
        interface = _above(tty / "device", "bInterfaceNumber")
        if not interface or not (usb := _above(interface, "idVendor")):
            continue
        try:
            number = int(_text_of(interface / "bInterfaceNumber"), 16)
            ids = int(_text_of(usb / "idVendor"), 16), int(_text_of(usb / "idProduct"), 16)
        except ValueError:  # it is being unplugged
            continue
        described = f"{_name_in(usb / 'manufacturer')} {_name_in(usb / 'product')}".strip()
        if judged := _judge(ids, number, described):
            device = Path("/dev") / tty.name
            yield Candidate(names.get(tty.name, device), device, *judged)


def _name_in(path: Path) -> str:
    """A name that a device or a program gave itself, fit for a terminal and a log line."""
    return "".join(filter(str.isprintable, _text_of(path)))


def _judge(ids: tuple[int, int], interface: int, described: str) -> tuple[Kind, str] | None:
    """Kind and label of a USB port; ``None``: certainly not a receiver's."""
    if ids in _RECEIVERS:
        return "receiver", _RECEIVERS[ids]
    if ids in _MODEMS:
        label, nmea = _MODEMS[ids]
        # A modem's other ports take AT commands or firmware: never open them.
        return ("modem", f"{label} modem") if interface == nmea else None
    if ids[0] in _MODEM_VENDORS:
        return None
    return "unknown", described or "USB serial port"


def _stable_names(root: Path) -> dict[str, Path]:
    """Port, such as ttyUSB0 -> its name below /dev/serial/by-id."""
    folder = Path("/dev/serial/by-id")
    names = [folder / link.name for link in sorted((root / folder.relative_to("/")).glob("*"))]
    return {port: name for name in names if (port := _target(root, name))}


def _above(path: Path, attribute: str) -> Path | None:
    """The nearest folder from ``path`` upwards that has this attribute."""
    place = path.resolve()
    folders = (place, *place.parents)
    return next((folder for folder in folders if (folder / attribute).is_file()), None)


def _header(root: Path) -> Iterator[Candidate]:
    """The UART on the header of a Raspberry Pi."""
    model = _pi_model(root)
    if "Raspberry Pi" not in model:
        return
    path = Path("/dev/serial0")
    tty = _target(root, path)
    if "Raspberry Pi 5" in model and tty != "ttyAMA0":
        # On a Pi 5 serial0 is the debug connector, unless the header's port is switched on.
        path, tty = Path("/dev/ttyAMA0"), "ttyAMA0"
    if not tty or not (root / "sys/class/tty" / tty).exists():
        return
    device = Path("/dev") / tty
    blocked = None
    if by := holder(device, root):
        blocked = str(explain(device, by, root))
    elif _is_console(tty, root):
        blocked = f"the system console is on {device}: {getty_remedy(tty, root)}"
    yield Candidate(path, device, "header", f"the header's serial port of this {model}", blocked)


def _target(root: Path, link: Path) -> str | None:
    try:
        return (root / link.relative_to("/")).readlink().name
    except OSError:
        return None


_NOT_SHOWN = 65534
"""The group of every file of a group that is not ours, inside the service's PrivateUsers=."""


class Holder(NamedTuple):
    """A process that uses a port."""

    pid: int
    program: str


def holder(device: Path, root: Path = Path("/"), agent: int | None = None) -> Holder | None:
    """Another process that has ``device`` (a node such as /dev/ttyUSB0) open; ``None``: not seen.

    ``root`` is where the machine's /proc and /sys are; ``agent`` is a process that may have it.
    """
    if not device.name.startswith("tty"):
        return None  # a pty: the program that made it often has it open as well
    proc = root / "proc"
    pids = {int(folder.name) for folder in proc.glob("[0-9]*")} - {os.getpid(), agent}
    for pid in sorted(pids):
        # A process of another user is not seen with its files: a login is, and opening a port that
        # another program has locked fails.
        if _has_open(proc, pid, device) or _is_getty_on(proc, pid, device):
            return Holder(pid, _name_in(proc / str(pid) / "comm") or "a program")
    units = root / "sys/fs/cgroup/system.slice"
    for unit in units.glob(f"*getty.slice/serial-getty@{device.name}.service/cgroup.procs"):
        for process in _text_of(unit).split():
            return Holder(int(process), "agetty")
    return None


def _has_open(proc: Path, pid: int, device: Path) -> bool:
    try:
        return any(file.readlink() == device for file in (proc / str(pid) / "fd").iterdir())
    except OSError:
        return False  # it has ended, or it belongs to another user


def _is_getty_on(proc: Path, pid: int, device: Path) -> bool:
    if _text_of(proc / str(pid) / "comm") not in {"agetty", "getty"}:
        return False
    arguments = _text_of(proc / str(pid) / "cmdline").split("\0")
    return device.name in arguments or str(device) in arguments


def runs(program: str, root: Path = Path("/")) -> bool:
    """Whether a process of this name runs."""
    return any(_text_of(comm) == program for comm in (root / "proc").glob("[0-9]*/comm"))


def explain(device: Path, by: Holder, root: Path = Path("/")) -> Advice:
    """Which process uses the port, and the command that frees it."""
    who = f"{by.program} (pid {by.pid})"
    if by.program in _CONSOLES:
        return Advice(f"a login console has {device} ({who})", getty_remedy(device.name, root))
    if by.program in _BLUETOOTH:
        return Advice(f"Bluetooth has {device} ({who})", _BLUETOOTH_REMEDY)
    if by.program.startswith("telemetry-agent"):
        return Advice(f"another telemetry-agent (pid {by.pid}) has {device}", "stop it")
    remedy = _REMEDIES.get(by.program, f"stop that program (`sudo kill {by.pid}`)")
    return Advice(f"{who} has {device}", remedy)


def without_pids(text: str) -> str:
    """A text of ``explain``, alike for a program that is started again and again, as a login is."""
    return re.sub(r"(pid|kill) \d+", r"\1", text)


def how_to_permit(device: Path, user: str, then: str = "log in again") -> str:
    """How ``user`` gets the right to read and write a port, and what makes that effective."""
    with contextlib.suppress(OSError, KeyError):  # it has just gone, or its group has no name
        status = device.stat()
        if status.st_gid == _NOT_SHOWN:
            if os.geteuid():  # root is outside of the service, and sees the group
                return "`sudo telemetry-agent doctor` shows what to do"
        elif status.st_gid and status.st_mode & 0o060 == 0o060:
            return f"`sudo usermod -aG {device.group()} {user}`, then {then}"
    return (
        f'put SUBSYSTEM=="tty", KERNEL=="{device.resolve().name}", GROUP="dialout", '
        'MODE="0660" into a .rules file in /etc/udev/rules.d, then reboot'
    )


def getty_remedy(tty: str, root: Path = Path("/")) -> str:
    """How to remove the login from a port."""
    if "Raspberry Pi" in _pi_model(root):
        return "`sudo raspi-config nonint do_serial_cons 1`, then reboot"
    also = (
        f", remove console={tty} from the kernel's command line" if _is_console(tty, root) else ""
    )
    # The login has taken the port's group and mode: the next start gives them back.
    return f"`sudo systemctl disable --now serial-getty@{tty}`{also}, then reboot"


def _is_console(tty: str, root: Path = Path("/")) -> bool:
    """Whether this tty is a console of the kernel; systemd then starts a login there."""
    arguments = _text_of(root / "proc/cmdline").split()
    return f"console={tty}" in {argument.partition(",")[0] for argument in arguments}


def _pi_model(root: Path) -> str:
    """The model in the device tree; "" where there is none."""
    return _text_of(root / "proc/device-tree/model")
