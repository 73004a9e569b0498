"""Which process uses a serial port, and how to free it.

Opening a port that another program reads would split the bytes between the two, and some programs
do not lock their port, such as a login console. So /proc is searched before the port is opened.
Without root only the files of the same user are visible, and a sandboxed service sees no other
process. Command lines, locks and systemd's units still show some users of a port.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from telemetry_agent.errors import Advice

_BLUETOOTH = {"hciattach", "btattach", "btuart"}
_CONSOLES = {"agetty", "getty", "login"}


class Holder(NamedTuple):
    """A process that uses a port."""

    pid: int
    program: str


def holder(device: Path, root: Path = Path("/")) -> Holder | None:
    """Another process that has ``device`` (a node such as /dev/ttyUSB0) open; ``None``: not seen.

    ``root`` is where the machine's /proc and /dev are.
    """
    proc = root / "proc"
    for pid in _processes(proc):
        if pid != os.getpid() and (_has_open(proc, pid, device) or _is_getty_on(proc, pid, device)):
            return Holder(pid, text_of(proc / str(pid) / "comm") or "a program")
    for pid in _login_unit(root, device.name):
        return Holder(pid, "agetty")
    for pid in _lockers(proc, root / device.relative_to("/")):
        if pid != os.getpid():
            return Holder(pid, text_of(proc / str(pid) / "comm") or "a program")
    return None


def is_console(tty: str, root: Path = Path("/")) -> bool:
    """Whether this tty is a console of the kernel; systemd then starts a login there."""
    arguments = text_of(root / "proc/cmdline").split()
    return any(a.removeprefix("console=").split(",")[0] == tty for a in arguments if "=" in a)


def getty_remedy(tty: str, root: Path = Path("/")) -> str:
    """How to remove the login from a port."""
    if "Raspberry Pi" in pi_model(root):
        return "`sudo raspi-config nonint do_serial_cons 1`, then reboot"
    also = f", remove console={tty} from the kernel's command line" if is_console(tty, root) else ""
    # The login has taken the port's group and mode: the next start gives them back.
    return f"`sudo systemctl disable --now serial-getty@{tty}`{also}, then reboot"


def pi_model(root: Path) -> str:
    """The model in the device tree; "" where there is none."""
    return text_of(root / "proc/device-tree/model")


def explain(device: Path, by: Holder, root: Path = Path("/")) -> Advice:
    """Which process uses the port, and the command that frees it."""
    who = f"{by.program} (pid {by.pid})"
    if by.program in _CONSOLES:
        return Advice(f"a login console has {device} ({who})", getty_remedy(device.name, root))
    if by.program == "gpsd":
        return Advice(
            f"{who} has {device}",
            'set gps.source = "gpsd://localhost:2947", '
            "or `sudo systemctl disable --now gpsd.socket gpsd`",
        )
    if by.program == "ModemManager":
        return Advice(
            f"{who} has {device}",
            "`sudo systemctl disable --now ModemManager`, or where the modem needs it, "
            "`sudo mmcli -m any --location-enable-gps-unmanaged`",
        )
    if by.program in _BLUETOOTH:
        return Advice(
            f"Bluetooth has {device} ({who})",
            'use the header\'s other port (gps.source = "/dev/serial0"), or add '
            "dtoverlay=disable-bt to /boot/firmware/config.txt, "
            "`sudo systemctl disable hciuart`, then reboot",
        )
    if by.program.startswith("telemetry-agent"):
        return Advice(f"another telemetry-agent (pid {by.pid}) has {device}", "stop it")
    return Advice(f"{who} has {device}", f"stop that program (`sudo kill {by.pid}`)")


def _processes(proc: Path) -> Iterator[int]:
    try:
        yield from sorted(int(p.name) for p in proc.iterdir() if p.name.isdecimal())
    except OSError:
        return


def _has_open(proc: Path, pid: int, device: Path) -> bool:
    try:
        return any(file.readlink() == device for file in (proc / str(pid) / "fd").iterdir())
    except OSError:
        return False  # it has ended, or it belongs to another user


def _is_getty_on(proc: Path, pid: int, device: Path) -> bool:
    if text_of(proc / str(pid) / "comm") not in {"agetty", "getty"}:
        return False
    arguments = text_of(proc / str(pid) / "cmdline").split("\0")
    return device.name in arguments or str(device) in arguments


def _login_unit(root: Path, tty: str) -> Iterator[int]:
    """The processes of the unit that runs a login on this tty."""
    units = root / "sys/fs/cgroup/system.slice"
    for unit in units.glob(f"*getty.slice/serial-getty@{tty}.service/cgroup.procs"):
        yield from map(int, text_of(unit).split())


def _lockers(proc: Path, node: Path) -> Iterator[int]:
    try:
        status = node.stat()
    except OSError:
        return
    # /proc/locks names a file by major:minor:inode of its directory entry, the first two in hex.
    major, minor = os.major(status.st_dev), os.minor(status.st_dev)
    file = f"{major:02x}:{minor:02x}:{status.st_ino}"
    for line in text_of(proc / "locks").splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[5] == file and fields[4].isdecimal() and int(fields[4]):
            yield int(fields[4])


def text_of(path: Path) -> str:
    """The content of a small file, without zeros and white space at its ends; "" if unreadable."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip("\0\n ")
    except OSError:
        return ""
