"""A receiver that gpsd has.

Theory of operation. gpsd is asked for two things at once. ``raw`` passes on the sentences of a
receiver unchanged: decoding them here gives the same fixes as the receiver on a port of its own,
without what gpsd derives by itself (speeds, geoid heights). A receiver with a binary protocol has
no sentences; then gpsd's reports count (TPV, SKY, GST), written as the sentences that a receiver
would send, digit for digit. So both go through one decoder, with one set of rules for epochs, dates
and validity.

gpsd reports a position after the sentence that brought it. So reports count only after two epochs
of reports without a position sentence between them. gpsd reports one time more than once, as it
learns more about it; each report gets another talker of satellite systems, because the same talker
would look like a receiver that repeats its cycle.

Other programs use gpsd's protocol too, and send null, NaN or texts in place of numbers. An invalid
value is unknown, and counted under its name. Many of them know no other request than the WATCH that
clients usually begin with, so that is the first one; gpsd answers it with its devices.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from telemetry_agent.clock import Clock
from telemetry_agent.errors import Advice, SourceError
from telemetry_agent.gnss.sources.protocols import nmea_sentence
from telemetry_agent.gnss.sources.sockets import TcpSource
from telemetry_agent.model import ReceiverState

PORT = 2947

_POSITION = (b"GGA,", b"RMC,", b"GLL,", b"GNS,")
_PART_OF_EPOCH = 0.25
_LONGEST_LINE = 1 << 16
_PULSE = "/dev/pps"
_REPLY_S = 2.0
_DEVICES = b"?DEVICES;\n"
_WATCH = b'?WATCH={"enable":true,"json":true};\n'
_M_S_PER_KNOT = 0.514444
_SATELLITES = 12  # places in a GSA
_GROUPS = 4  # in a GSV
# "gnssid" -> talker in GSV, and id in GSA; -1: gpsd before 3.18 has only the number.
_SYSTEMS = {
    -1: ("GN", ""),
    0: ("GP", "1"),
    1: ("GP", "1"),  # SBAS
    2: ("GA", "3"),
    3: ("GB", "4"),
    4: ("IM", ""),
    5: ("GQ", "5"),
    6: ("GL", "2"),
    7: ("GI", "6"),
}
# gpsd's "status" -> the quality indicator of GGA.
_QUALITY = {2: 2, 3: 4, 4: 5, 5: 6, 6: 6, 7: 7, 8: 8, 9: 3}
# Not GN: a report without a fix would take back those after it, in which gpsd has one.
_TALKERS = ("GP", "GL", "GA", "GB", "GQ", "GI", "QZ")
_LARGEST = 1e12  # of any quantity; a larger one is invalid
T = TypeVar("T")
_FIRST_YEAR, _LAST_YEAR = 1969, 2068  # the range of two digits


class Reports:
    """Lines of gpsd -> sentences of the receiver, or those that it would send with NMEA.

    Args:
        rejected: counts ``gpsd-json`` (lines without a JSON object), and ``gpsd-lat`` and the like
            for each needed value that is missing or invalid.
        skipped: how many receivers to skip of those that gpsd has.
    """

    def __init__(self, rejected: Counter[str] | None = None, skipped: int = 0) -> None:
        self.rejected: Counter[str] = Counter() if rejected is None else rejected
        self.devices: list[str] | None = None
        """The receivers that gpsd has; None before it has answered."""
        self.followed: str | None = None
        """The one of them whose reports count."""
        self._skipped = skipped
        self.error: str | None = None
        """The message of its last ERROR."""
        self._tail = b""
        # Epochs of reports since the last position sentence, as if one had been missed. There are
        # several reports in an epoch, so one without a time is a part of one.
        self._epochs = 1.0
        self._time: object = None
        self._timed = False  # the last TPV had a time
        self._talkers = itertools.cycle(_TALKERS)
        self._talker = ""

    def feed(self, data: bytes) -> bytes:
        """The sentences in the lines that ``data`` completes, or made from them."""
        *lines, tail = (self._tail + data).split(b"\n")
        self._tail = tail[-_LONGEST_LINE:]
        sentences = b""
        for line in lines:
            if line.startswith(b"$"):
                sentences += line + b"\n"
                if line[3:7] in _POSITION:
                    self._epochs = 0.0
            elif line.startswith(b"{"):
                sentences += self._report(line)
        return sentences

    def _report(self, line: bytes) -> bytes:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            self.rejected["gpsd-json"] += 1
            return b""
        report = _Report(values, self.rejected)
        kind, device = values.get("class"), values.get("device")
        if device != self.followed and device in (self.devices or ()):
            return b""  # another receiver: gpsd was not yet asked for one of them
        if kind == "DEVICES":
            self._note_devices(report)
        elif kind == "ERROR":
            self.error = report.typed("message", str, "")
        elif kind == "TPV" and not self._begin_report(values):
            return b""
        # The receiver's own sentences come first; a report of the same epoch would repeat them.
        if self._epochs < 2:
            return b""
        match kind:
            case "TPV":
                bodies = _tpv(report, self._talker)
            case "SKY":
                bodies = _sky(report)
            case "GST":
                bodies = _gst(report)
            case _:
                return b""
        return b"".join(map(nmea_sentence, bodies))

    def _note_devices(self, report: "_Report") -> None:
        paths = (device.typed("path", str) for device in report.objects("devices"))
        # gpsd lists the pulse of a receiver as a device too; it never has a position. A path with
        # control characters is left out: it could change the terminal on which it is shown.
        self.devices = [
            path for path in paths if path and path.isprintable() and not path.startswith(_PULSE)
        ]
        if self.devices and self.followed is None:
            self.followed = self.devices[self._skipped % len(self.devices)]

    def _begin_report(self, values: Mapping[str, object]) -> bool:
        """Note the time of a TPV, and choose its talker; False: it is of another device."""
        timed, self._timed = self._timed, "time" in values
        # A receiver that does not know the time sends several such reports in a row. A single one
        # is of another device on an NMEA 2000 bus.
        if timed and not self._timed:
            return False
        time = values.get("time")
        if time != self._time:
            self._time = time
            self._epochs += 1
            self._talkers = itertools.cycle(_TALKERS)
        elif time is None:
            self._epochs += _PART_OF_EPOCH
        self._talker = next(self._talkers)
        return True


class _Report:
    """One JSON object. A requested value that is invalid is None, and counted."""

    def __init__(self, values: Mapping[str, object], rejected: Counter[str]) -> None:
        self._values = values
        self._rejected = rejected

    def has(self, name: str) -> bool:
        """Whether there is a value, valid or not."""
        return name in self._values

    def typed(self, name: str, kind: type[T], default: T | None = None) -> T | None:
        """A value of this type; a missing one without a default is counted."""
        value = self._values.get(name, default)
        if isinstance(value, kind):
            return value
        self._reject(name)
        return None

    def number(self, name: str, least: float, most: float) -> float | None:
        """A number in these bounds; a missing one is counted."""
        value = self._values.get(name)
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and least <= value <= most  # NaN is not
        ):
            return value
        self._reject(name)
        return None

    def integer(self, name: str, most: int, default: T) -> int | T:
        """An integer from 0 on, or else the default; a missing one is counted if that is None."""
        number = self.number(name, 0, most) if default is None or self.has(name) else None
        if number is not None and number != int(number):
            self._reject(name)
            number = None
        return default if number is None else int(number)

    def text(self, name: str, factor: float = 1.0) -> str:
        """A number as a field of a sentence; a missing one is an empty field, and not counted."""
        number = self.number(name, -_LARGEST, _LARGEST) if self.has(name) else None
        return "" if number is None else f"{number * factor:.6f}"

    def objects(self, name: str) -> Iterator["_Report"]:
        """The objects of a list."""
        for value in self.typed(name, list, []) or []:
            if isinstance(value, dict):
                yield _Report(value, self._rejected)
            else:
                self._reject(name)

    def time(self) -> tuple[str, str]:
        """hhmmss.sss and ddmmyy; empty without a time."""
        if not self.has("time"):
            return "", ""
        with suppress(TypeError, ValueError, OverflowError, OSError):
            said: Any = self._values["time"]
            if isinstance(said, float):  # an old gpsd: seconds since 1970
                time = datetime.fromtimestamp(said, UTC)
            else:
                time = datetime.fromisoformat(said)
            time = time.astimezone(UTC) if time.tzinfo else time
            if _FIRST_YEAR <= time.year <= _LAST_YEAR:
                return f"{time:%H%M%S}.{time.microsecond // 1000:03}", f"{time:%d%m%y}"
        self._reject("time")
        return "", ""

    def _reject(self, name: str) -> None:
        self._rejected[f"gpsd-{name}"] += 1


class GpsdSource(TcpSource):
    """Follows one receiver of the gpsd at ``host:port``: the first that gpsd names.

    If it sends no data (it may be an AIS receiver, which gpsd does not report), the next one is
    followed.
    """

    def __init__(self, host: str, port: int = PORT) -> None:
        super().__init__(host, port, name=f"gpsd://{host}:{port}")
        self.rejected: Counter[str] = Counter()
        self._reports = Reports(self.rejected)
        self._asked = False  # for the data of one receiver
        self._skipped = 0  # receivers that were followed and sent no data
        self._has_sent = False

    def open(self) -> None:
        """See ``Source.open``."""
        super().open()
        if self._asked and not self._has_sent:
            self._skipped += 1
        self._reports = Reports(self.rejected, self._skipped)
        self._asked = self._has_sent = False
        self.request(_WATCH)

    def read(self, timeout_s: float) -> bytes:
        """See ``Source.read``."""
        sentences = self._reports.feed(super().read(timeout_s))
        self._has_sent = self._has_sent or bool(sentences)
        followed = self._reports.followed
        if self._reports.devices == []:
            raise SourceError(
                f"{self.name} has no receiver",
                "`sudo gpsdctl add /dev/…`, or name it in /etc/default/gpsd",
            )
        if followed and not self._asked:
            self._asked = True
            # Sentences do not name their receiver, so gpsd is asked for those of one receiver.
            # Without spaces: some programs that speak the protocol look for '"enable":true'.
            watch = f'{{"enable":true,"json":true,"raw":1,"device":{json.dumps(followed)}}}'
            self.request(f"?WATCH={watch};\n".encode())
        return sentences

    def advice(self, state: ReceiverState, heard: bytes) -> Advice:
        """See ``Source.advice``."""
        if state == "silent":
            error, receiver = self._reports.error, self._reports.followed or "a receiver"
            answer = "" if error is None else f", and answers {error[:80]!r}"
            return Advice(
                f"gpsd has {receiver} but receives no data from it{answer}",
                "check the receiver's wiring and power (`gpsmon` shows what gpsd gets)",
            )
        return super().advice(state, heard)


def devices(host: str = "localhost", port: int = PORT) -> list[str]:
    """The receivers that gpsd has; empty without a gpsd, or if it does not answer."""
    clock = Clock()
    source, reports = TcpSource(host, port), Reports()
    with closing(source):
        try:
            source.open()
            source.request(_DEVICES)
            until_s = clock.monotonic_s() + _REPLY_S
            while reports.devices is None and (left_s := until_s - clock.monotonic_s()) > 0:
                reports.feed(source.read(left_s))
        except SourceError:
            return []
    return reports.devices or []


def _tpv(tpv: _Report, talker: str) -> Iterator[str]:
    time, date = tpv.time()
    mode = tpv.integer("mode", 3, None)
    if mode is None:
        return
    if mode < 2:
        yield f"{talker}RMC,{time},V,,,,,,,{date},,,N"
        return
    lat, lon = tpv.number("lat", -90, 90), tpv.number("lon", -180, 180)
    if lat is None or lon is None:
        return  # gpsd does not have the whole epoch yet
    quality = _QUALITY.get(tpv.integer("status", 9, 1), 1)
    geoid_sep = tpv.text("geoidSep")
    alt = _altitude(tpv, geoid_sep)
    knots = tpv.text("speed", 1 / _M_S_PER_KNOT)
    place = f"{_angle(lat, 2, 'NS')},{_angle(lon, 3, 'EW')}"
    yield f"{talker}RMC,{time},A,{place},{knots},{tpv.text('track')},{date},,,"
    yield f"{talker}GGA,{time},{place},{quality},,,{alt},M,{geoid_sep},M,,"
    yield f"{talker}GSA,A,{mode},,,,,,,,,,,,,,,"


def _altitude(tpv: _Report, geoid_sep: str) -> str:
    """Metres above mean sea level."""
    if tpv.has("altMSL"):
        return tpv.text("altMSL")
    # gpsd before 3.20 has only "alt". Later that may be the height above the ellipsoid.
    if not tpv.has("altHAE"):
        return tpv.text("alt")
    above_ellipsoid = tpv.text("altHAE")
    if not above_ellipsoid or not geoid_sep:
        return ""
    return f"{float(above_ellipsoid) - float(geoid_sep):.6f}"


def _sky(sky: _Report) -> Iterator[str]:
    dops = ",".join(map(sky.text, ("pdop", "hdop", "vdop")))
    used: dict[str, list[str]] = {}
    in_view: dict[str, list[str]] = {}
    for satellite in sky.objects("satellites"):
        prn = satellite.integer("PRN", 999, None)
        if not prn:
            continue
        talker, system = _SYSTEMS[satellite.integer("gnssid", 7, -1)]
        own = prn if talker in {"GN", "GP"} else satellite.integer("svid", 999, prn)
        where = ",".join(satellite.text(name).partition(".")[0] for name in ("el", "az", "ss"))
        in_view.setdefault(talker, []).append(f"{own},{where}")
        if satellite.typed("used", bool, default=False):
            used.setdefault(system, []).append(str(own))
    for system, numbers in used.items() or [("", [])]:
        for first in range(0, max(1, len(numbers)), _SATELLITES):
            places = (numbers[first:] + [""] * _SATELLITES)[:_SATELLITES]
            yield f"GNGSA,A,,{','.join(places)},{dops},{system}"
    for talker, groups in in_view.items():
        total = -(-len(groups) // _GROUPS)
        for n in range(total):
            some = ",".join(groups[n * _GROUPS : (n + 1) * _GROUPS])
            yield f"{talker}GSV,{total},{n + 1},{len(groups)},{some}"


def _gst(gst: _Report) -> Iterator[str]:
    errors = ",".join(map(gst.text, ("lat", "lon", "alt")))
    yield f"GNGST,{gst.time()[0]},,,,,{errors}"


def _angle(degrees: float, width: int, signs: str) -> str:
    """``ddmm.mmmmmmmmm,N``: exactly as many digits as gpsd sends."""
    whole, rest_e9 = divmod(round(abs(degrees) * 1e9), 10**9)
    minutes, fraction = divmod(rest_e9 * 60, 10**9)
    return f"{whole:0{width}}{minutes:02}.{fraction:09},{signs[degrees < 0]}"
