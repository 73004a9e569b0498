"""Fake machines, for code that reads /sys, /dev and /proc."""

import os
from pathlib import Path

from telemetry_agent.gnss.sources.machine import Candidate, find_receivers


class Machine:
    """A fake tree of /sys, /dev and /proc."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._usb = 0
        (root / "sys/class/tty").mkdir(parents=True)
        (root / "proc").mkdir()
        (root / "dev/serial/by-id").mkdir(parents=True)
        self._tty("tty0", root / "sys/devices/virtual/tty/tty0")

    def usb(self, ids: str, says: str, *ttys: str, interface: int = 0, by_id: str = "") -> None:
        """Add a USB device whose interfaces, starting at ``interface``, have these ports."""
        self._usb += 1
        device = self.root / f"sys/devices/pci0000:00/usb1/1-{self._usb}"
        device.mkdir(parents=True)
        vendor, product = ids.split(":")
        maker, _, name = says.partition("|")
        for attribute, text in (
            ("idVendor", vendor),
            ("idProduct", product),
            ("manufacturer", maker),
            ("product", name),
        ):
            if text:
                (device / attribute).write_text(f"{text}\n")
        for number, tty in enumerate(ttys, interface):
            place = device / f"1-{self._usb}:1.{number}"
            place.mkdir()
            (place / "bInterfaceNumber").write_text(f"{number:02x}\n")
            # A CDC port is directly below its interface; a bridge has its own folder in between.
            port = place / tty if tty.startswith("ttyUSB") else place
            self._tty(tty, port)
            if by_id:
                link = self.root / f"dev/serial/by-id/usb-{by_id}-if{number:02}"
                link.symlink_to(f"../../{tty}")

    def uart(self, tty: str, model: str = "") -> None:
        self._tty(tty, self.root / f"sys/devices/platform/soc/fe201000.serial/{tty}")
        if model:
            (self.root / "proc/device-tree").mkdir()
            (self.root / "proc/device-tree/model").write_text(f"{model}\0")

    def link(self, name: str, tty: str) -> None:
        (self.root / "dev" / name).symlink_to(tty)

    def process(self, pid: int, program: str, *arguments: str, has: str = "") -> None:
        folder = self.root / f"proc/{pid}"
        (folder / "fd").mkdir(parents=True)
        (folder / "comm").write_text(f"{program}\n")
        (folder / "cmdline").write_bytes("\0".join([program, *arguments, ""]).encode())
        if has:
            (folder / "fd/3").symlink_to(has)

    def cmdline(self, text: str) -> None:
        (self.root / "proc/cmdline").write_text(f"{text}\n")

    def _tty(self, name: str, device: Path) -> None:
        device.mkdir(parents=True, exist_ok=True)
        place = self.root / "sys/class/tty" / name
        place.mkdir()
        (place / "device").symlink_to(os.path.relpath(device, place))

    def found(self) -> list[tuple[str, str, str]]:
        return [(str(c.path), c.kind, c.label) for c in find_receivers(self.root)]

    def safe(self) -> list[Candidate]:
        return [c for c in find_receivers(self.root) if c.safe]
