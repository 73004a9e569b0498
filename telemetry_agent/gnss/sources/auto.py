"""``source = "auto"``: finds the receiver by itself, without touching anything else.

A gpsd that has a receiver comes first, because it would not let go of it. Then what the machine
knows to be a receiver, in the order of ``find_receivers``. A candidate that was opened and said
nothing at all goes to the end of the row: the modem is better than a receiver without power.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from telemetry_agent.errors import SourceError
from telemetry_agent.gnss.sources import BusyError, Source, gpsd
from telemetry_agent.gnss.sources.machine import Candidate, find_receivers
from telemetry_agent.model import ReceiverState

_log = logging.getLogger(__name__)

_BY_HAND = 'gps.source = "{}"'


class AutoSource:
    """The best receiver of this machine, chosen anew at each open.

    Args:
        open_port: makes the source for a port.
        find: what the machine has.
        gpsd_devices: what the gpsd of this machine has.
        open_gpsd: makes the source for that gpsd.
    """

    def __init__(
        self,
        open_port: Callable[[Path], Source],
        *,
        find: Callable[[], list[Candidate]] = find_receivers,
        gpsd_devices: Callable[[], list[str]] = gpsd.devices,
        open_gpsd: Callable[[], Source] = lambda: gpsd.GpsdSource("localhost"),
    ) -> None:
        self._open_port = open_port
        self._find = find
        self._gpsd_devices = gpsd_devices
        self._open_gpsd = open_gpsd
        self._source: Source | None = None
        self._open_path: Path | None = None  # until something comes from it
        self._mute: list[Path] = []
        self._said: set[str] = set()

    @property
    def name(self) -> str:
        """How messages call it."""
        return self._source.name if self._source else "the receiver"

    @property
    def baud(self) -> int | None:
        """Of the serial line that is open, if it is one and the speed is known."""
        return getattr(self._source, "baud", None)

    def open(self) -> None:
        """See ``Source.open``."""
        if served := self._gpsd_devices():
            self._source = self._open_gpsd()
            self._source.open()
            self._say(f"gpsd has {', '.join(served)}: positions come from {self.name}")
            return
        found = self._find()
        failed: dict[Path, SourceError] = {}
        for port in sorted(filter(_is_safe, found), key=self._last_the_mute):
            self._source = self._open_port(port.path)
            try:
                self._source.open()
            except SourceError as error:
                failed[port.path] = error
                continue
            self._open_path = port.path
            others = _left_out([other for other in found if other != port], failed)
            self._say(f"using {port.label}: {port.path}" + (f"; {others}" if others else ""))
            return
        raise _none_usable(found, failed)

    def read(self, timeout_s: float) -> bytes:
        """See ``Source.read``."""
        if self._source is None:
            raise SourceError(f"{self.name} is not open")
        data = self._source.read(timeout_s)
        if data and self._open_path:
            if self._open_path in self._mute:
                self._mute.remove(self._open_path)
            self._open_path = None
        return data

    def cancel(self) -> None:
        """See ``Source.cancel``."""
        if source := self._source:
            source.cancel()

    def close(self) -> None:
        """See ``Source.close``."""
        if self._source is not None:
            self._source.close()
        if self._open_path:
            if self._open_path in self._mute:
                self._mute.remove(self._open_path)
            self._mute.append(self._open_path)
            self._open_path = None

    def remedy(self, state: ReceiverState, heard: bytes) -> str:
        """See ``Source.remedy``."""
        return self._source.remedy(state, heard) if self._source else f"{self.name} is {state}"

    def _last_the_mute(self, port: Candidate) -> int:
        return self._mute.index(port.path) + 1 if port.path in self._mute else 0

    def _say(self, text: str) -> None:
        # Once: of two ports where nothing comes, each is tried in turn all day.
        if text not in self._said:
            self._said.add(text)
            _log.info("%s", text)


def _is_safe(port: Candidate) -> bool:
    return port.safe


def _left_out(found: list[Candidate], failed: Mapping[Path, SourceError]) -> str:
    """What was found and is not used, and how to have it used."""
    said = []
    for port in found:
        if port.path in failed:
            said.append(str(failed[port.path]))
        elif port.blocked:
            said.append(f"{port.label} is not free: {port.blocked}")
        elif port.kind == "unknown":
            by_hand = _BY_HAND.format(port.path)
            said.append(f"{port.label} may be a receiver or not: if it is one, set {by_hand}")
        else:
            said.append(f"not used: {port.label} ({_BY_HAND.format(port.path)})")
    return "; ".join(said)


def _none_usable(found: list[Candidate], failed: Mapping[Path, SourceError]) -> SourceError:
    if not found:
        return SourceError(
            "no receiver found: plug one in, or set gps.source to its device (a serial port of a "
            "Raspberry Pi's header is switched on by `sudo raspi-config nonint do_serial_hw 0`)"
        )
    text = f"no receiver that can be used: {_left_out(found, failed)}"
    busy = any(isinstance(error, BusyError) for error in failed.values())
    return BusyError(text) if busy else SourceError(text)
