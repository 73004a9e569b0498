"""A receiver that gpsd has.

Theory of operation. gpsd is asked for two things at once. ``raw`` passes on the sentences that a
receiver sends, as they are: decoding them ourselves gives the very fixes that the receiver on our
own port would give, with nothing that gpsd derives by itself (speeds, geoid heights). A receiver
that speaks a binary protocol has no sentences; then gpsd's reports count (TPV, SKY, GST), written
as the sentences that a receiver would send, digit for digit. So both go through the one decoder,
with the one set of rules for epochs, dates and validity.

gpsd reports a position after the sentence that brought it. Reports therefore count only after two
epochs of reports between which no position sentence came.
"""

import json
import math
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from functools import reduce
from operator import xor
from typing import Any

from telemetry_agent.clock import Clock
from telemetry_agent.errors import Advice, SourceError
from telemetry_agent.gnss.sources.sockets import TcpSource
from telemetry_agent.model import ReceiverState

PORT = 2947

_POSITION = (b"GGA,", b"RMC,", b"GLL,", b"GNS,")
_LONGEST_LINE = 1 << 16
_REPLY_S = 2.0
_M_S_PER_KNOT = 0.514444
_SATELLITES = 12  # places in a GSA
# gpsd's "status" -> the quality indicator of GGA.
_QUALITY = {2: 2, 3: 4, 4: 5, 5: 6, 6: 6, 7: 7, 8: 8, 9: 3}

_Report = dict[str, Any]


class Reports:
    """What gpsd sends -> what the receiver says, or would say if it spoke NMEA.

    ``devices`` are the receivers that gpsd has; None before it has told.
    """

    def __init__(self) -> None:
        self.devices: list[str] | None = None
        self._tail = b""
        self._epochs = 1  # of reports since the last position sentence, as if one had been missed
        self._time: object = None

    def feed(self, data: bytes) -> bytes:
        """The sentences in, or made of, the lines that ``data`` completes."""
        *lines, tail = (self._tail + data).split(b"\n")
        self._tail = tail[-_LONGEST_LINE:]
        said = b""
        for line in lines:
            if line.startswith(b"$"):
                said += line + b"\n"
                if line[3:7] in _POSITION:
                    self._epochs = 0
            elif line.startswith(b"{"):
                said += self._report(line)
        return said

    def _report(self, line: bytes) -> bytes:
        try:
            report = json.loads(line)
        except ValueError:
            return b""
        kind = report.get("class")
        if kind == "DEVICES":
            self.devices = [device["path"] for device in report.get("devices", [])]
        elif kind == "TPV" and report.get("time") != self._time:
            self._time = report.get("time")
            self._epochs += 1
        write = _WRITERS.get(kind)
        if write is None or self._epochs < 2:
            return b""
        return b"".join(map(_sentence, write(report)))


class GpsdSource(TcpSource):
    """Follows one receiver of the gpsd at ``host:port``: the first that gpsd names.

    One that says nothing while it is followed gives way to the next: it may be an AIS, and gpsd
    does not say so.
    """

    def __init__(self, host: str, port: int = PORT, *, clock: Clock | None = None) -> None:
        super().__init__(host, port, clock=clock, name=f"gpsd://{host}:{port}")
        self._reports = Reports()
        self._followed: str | None = None
        self._mute = 0  # how many were followed in vain
        self._has_said = False

    def open(self) -> None:
        """See ``Source.open``."""
        super().open()
        self._reports = Reports()
        if self._followed and not self._has_said:
            self._mute += 1
        self._followed, self._has_said = None, False
        self.request(b"?DEVICES;\n")

    def read(self, timeout_s: float) -> bytes:
        """See ``Source.read``."""
        data = super().read(timeout_s)
        said = self._reports.feed(data)
        devices = self._reports.devices
        if devices == []:
            raise SourceError(
                f"{self.name} has no receiver",
                "`sudo gpsdctl add /dev/…`, or name it in /etc/default/gpsd",
            )
        if devices and self._followed is None:
            # Sentences do not say of which receiver they are, so gpsd is asked for those of one.
            self._followed = devices[self._mute % len(devices)]
            watch = {"enable": True, "json": True, "raw": 1, "device": self._followed}
            self.request(f"?WATCH={json.dumps(watch)};\n".encode())
        self._has_said = self._has_said or bool(said)
        return said

    def advice(self, state: ReceiverState, heard: bytes) -> Advice:
        """See ``Source.advice``."""
        if state == "silent":
            return Advice(
                f"gpsd has {self._followed or 'a receiver'} and hears nothing from it",
                "check the receiver's wiring and power (`gpsmon` shows what gpsd gets)",
            )
        return super().advice(state, heard)


def devices(host: str = "localhost", port: int = PORT, *, clock: Clock | None = None) -> list[str]:
    """The receivers that gpsd has; none where there is no gpsd, or it does not answer."""
    clock = clock or Clock()
    source, reports = TcpSource(host, port, clock=clock), Reports()
    with closing(source):
        try:
            source.open()
            source.request(b"?DEVICES;\n")
            until_s = clock.monotonic_s() + _REPLY_S
            while reports.devices is None and (left_s := until_s - clock.monotonic_s()) > 0:
                reports.feed(source.read(left_s))
        except SourceError:
            return []
    return reports.devices or []


def _tpv(tpv: _Report) -> Iterator[str]:
    time, date = _time(tpv)
    mode = tpv.get("mode", 0)
    if time and mode < 2:
        yield f"GNRMC,{time},V,,,,,,,{date},,,N"
    if not time or mode < 2 or "lat" not in tpv or "lon" not in tpv:
        return  # gpsd has not heard the whole epoch yet
    quality = _QUALITY.get(tpv.get("status", 1), 1)
    # "alt" is what gpsd before 3.20 called it.
    alt = tpv.get("altMSL", tpv.get("alt"))
    knots = _number(tpv.get("speed"), 1 / _M_S_PER_KNOT)
    place = f"{_angle(tpv['lat'], 2, 'NS')},{_angle(tpv['lon'], 3, 'EW')}"
    yield f"GNRMC,{time},A,{place},{knots},{_number(tpv.get('track'))},{date},,,"
    heights = f"{_number(alt)},M,{_number(tpv.get('geoidSep'))},M"
    yield f"GNGGA,{time},{place},{quality},,,{heights},,"
    yield f"GNGSA,A,{mode},,,,,,,,,,,,,,,"


def _sky(sky: _Report) -> Iterator[str]:
    dops = ",".join(_number(sky.get(name)) for name in ("pdop", "hdop", "vdop"))
    used: dict[int, list[int]] = {}
    for satellite in sky.get("satellites", []):
        if satellite.get("used"):
            used.setdefault(satellite.get("gnssid", 0), []).append(satellite["PRN"])
    for system, numbers in used.items() or [(0, [])]:
        for first in range(0, max(1, len(numbers)), _SATELLITES):
            places = (list(map(str, numbers))[first : first + _SATELLITES] + [""] * 12)[:12]
            yield f"GNGSA,A,,{','.join(places)},{dops},{system + 1}"


def _gst(gst: _Report) -> Iterator[str]:
    errors = ",".join(_number(gst.get(name)) for name in ("lat", "lon", "alt"))
    yield f"GNGST,{_time(gst)[0]},,,,,{errors}"


_WRITERS = {"TPV": _tpv, "SKY": _sky, "GST": _gst}


def _time(report: _Report) -> tuple[str, str]:
    """hhmmss.sss and ddmmyy."""
    try:
        time = datetime.fromisoformat(report["time"])
    except (KeyError, TypeError, ValueError):
        return "", ""
    return f"{time:%H%M%S}.{time.microsecond // 1000:03}", f"{time:%d%m%y}"


def _angle(degrees: float, width: int, signs: str) -> str:
    """``ddmm.mmmmmmmmm,N``: exactly as many digits as gpsd sends."""
    whole, rest_e9 = divmod(round(abs(degrees) * 1e9), 10**9)
    minutes, fraction = divmod(rest_e9 * 60, 10**9)
    return f"{whole:0{width}}{minutes:02}.{fraction:09},{signs[degrees < 0]}"


def _number(value: object, factor: float = 1.0) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    return f"{value * factor:.6f}"


def _sentence(body: str) -> bytes:
    return f"${body}*{reduce(xor, body.encode()):02X}\r\n".encode()
