"""``source = "auto"``: finds the receiver without opening any other device.

A gpsd with a receiver comes first, because it does not release it; its ports are not tried. Then
come the known receivers, in the order of ``find_receivers``. A candidate that was opened and sent
no data moves to the end of the list: a modem is better than a receiver without power, and any
receiver is better than a gpsd that only has an AIS receiver.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from telemetry_agent.errors import Advice, SourceError
from telemetry_agent.gnss.sources import BusyError, ForbiddenError, Source, gpsd
from telemetry_agent.gnss.sources.machine import Candidate, find_receivers, without_pids
from telemetry_agent.model import ReceiverState

_log = logging.getLogger(__name__)

_BY_HAND = 'gps.source = "{}"'
_GPSD = Path("gpsd")
"""Its place in the list of candidates."""
NO_RECEIVER = Advice(
    "no receiver found",
    "plug one in, or set gps.source to its device (for a serial port of a Raspberry Pi's header: "
    "`sudo raspi-config nonint do_serial_hw 0`, then reboot)",
)


class AutoSource(Source):
    """The best receiver of this machine, chosen again at each open.

    Args:
        open_port: makes the source for a port.
        find: lists the serial ports of this machine.
        gpsd_devices: lists the receivers of this machine's gpsd.
        gpsd_source: reads from that gpsd.
    """

    name = "the receiver"
    """That of the last one that was tried."""

    def __init__(
        self,
        open_port: Callable[[Path], Source],
        *,
        find: Callable[[], list[Candidate]] = find_receivers,
        gpsd_devices: Callable[[], list[str]] = gpsd.devices,
        gpsd_source: Source | None = None,
    ) -> None:
        self._open_port = open_port
        self._find = find
        self._gpsd_devices = gpsd_devices
        self._gpsd = gpsd_source or gpsd.GpsdSource("localhost")
        self.rejected = self._gpsd.rejected  # only its reports are checked before the decoder
        self._source: Source = self._gpsd
        self._open_path: Path | None = None  # until data comes from it
        self._without_data: dict[Path, None] = {}  # a set in order: the last opened comes last
        self._logged: set[str] = set()

    def open(self) -> None:
        """See ``Source.open``."""
        of_gpsd = self._gpsd_devices()
        nodes = {Path(device).resolve() for device in of_gpsd}
        # gpsd does not release a port, and reading it as well would split the bytes.
        found = {port.path: port for port in self._find() if port.device not in nodes}
        candidates = [_GPSD] if of_gpsd else []
        candidates += [path for path, port in found.items() if port.safe]
        failed: dict[Path, SourceError] = {}
        for path in sorted(candidates, key=self._turn):
            source = self._source = self._gpsd if path == _GPSD else self._open_port(path)
            self.name = source.name
            try:
                source.open()
            except SourceError as error:
                failed[path] = error
                continue
            self._open_path, self.baud = path, source.baud
            if path == _GPSD:
                self._log_once(f"gpsd has {', '.join(of_gpsd)}: using {self.name}")
                return
            used = found.pop(path)
            others = _left_out(found.values(), failed)
            self._log_once(f"using {used.label}: {path}" + (f"; {others}" if others else ""))
            return
        raise _none_usable(found.values(), failed)

    def read(self, timeout_s: float) -> bytes:
        """See ``Source.read``."""
        data = self._source.read(timeout_s)
        if data and self._open_path:
            self._without_data.pop(self._open_path, None)
            self._open_path = None
        return data

    def cancel(self) -> None:
        """See ``Source.cancel``."""
        self._source.cancel()

    def close(self) -> None:
        """See ``Source.close``."""
        self._source.close()
        if path := self._open_path:
            self._without_data.pop(path, None)
            self._without_data[path] = self._open_path = None

    def advice(self, state: ReceiverState, heard: bytes) -> Advice:
        """See ``Source.advice``."""
        return self._source.advice(state, heard)

    def _turn(self, path: Path) -> int:
        """The key of the order: those that sent no data come last, the last opened at the end."""
        return [*self._without_data].index(path) + 1 if path in self._without_data else 0

    def _log_once(self, text: str) -> None:
        # Two ports without data are tried in turn for days.
        if (kind := without_pids(text)) not in self._logged:
            self._logged.add(kind)
            _log.info("%s", text)


def _left_out(found: Iterable[Candidate], failed: Mapping[Path, SourceError]) -> str:
    """Which ports were found but not used, and how to use them."""
    reasons = [str(failed[_GPSD])] if _GPSD in failed else []
    for port in found:
        if port.path in failed:
            reasons.append(str(failed[port.path]))
        elif port.blocked:
            reasons.append(f"{port.label} is not free: {port.blocked}")
        elif port.kind == "unknown":
            by_hand = _BY_HAND.format(port.path)
            reasons.append(f"{port.label} may be a receiver: if it is, set {by_hand}")
        else:
            reasons.append(f"not used: {port.label} ({_BY_HAND.format(port.path)})")
    return "; ".join(reasons)


def _none_usable(found: Collection[Candidate], failed: Mapping[Path, SourceError]) -> SourceError:
    if not (found or failed):
        return SourceError(*NO_RECEIVER)
    text = f"no usable receiver: {_left_out(found, failed)}"
    kinds = set(map(type, failed.values()))
    return next((kind for kind in (BusyError, ForbiddenError) if kind in kinds), SourceError)(text)
