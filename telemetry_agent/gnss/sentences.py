"""One clean sentence -> whose it is, and its typed fields.

The talker is the first two letters of a tag. All talkers of satellite systems are one owner,
because one receiver uses them all: it sends GN, or GP for one system and GL for the next. Every
other talker (II is a plotter, AI an AIS transponder) is an owner of its own, so two such talkers
are two devices.

pynmea2 knows the place of each field in a sentence: its field tables are resolved to positions
once, at import. Its objects and converters are not used: they read an empty latitude as 0.0,
accept ``nan`` and ``1e5`` as numbers, return the raw text if a conversion fails, and cost ten
times as much as picking the field. The validators of ``field_values`` read each field instead.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import pynmea2

from telemetry_agent.gnss.epoch import Dtm, Gsa, Gst, Message, Moment, Report, Vtg
from telemetry_agent.gnss.field_values import (
    DAY_MS,
    NO_GEOMETRY,
    Instant,
    calendar_day,
    count,
    course_mdeg,
    ddmmyy_day,
    dop_e2,
    error_mm,
    instant,
    kmh_mm_s,
    knots_mm_s,
    mm,
    position_e9,
)
from telemetry_agent.gnss.framing import Sentence
from telemetry_agent.model import Quality

_GGA_QUALITY: dict[str, Quality] = {
    "1": "gps",
    "2": "dgps",
    "3": "pps",
    "4": "rtk",
    "5": "float-rtk",
    "6": "estimated",
    "7": "manual",
    "8": "simulated",
    "9": "dgps",  # NovAtel: corrections by SBAS
}
_GGA_QUALITY |= {f"0{digit}": quality for digit, quality in _GGA_QUALITY.items()}  # some send this
_NO_FIX = frozenset({"0", "00"})
# The mode characters of RMC, GLL and GNS, the best first.
_MODE_QUALITY: dict[str, Quality] = {
    "R": "rtk",
    "F": "float-rtk",
    "P": "pps",
    "D": "dgps",
    "A": "gps",
    "E": "estimated",
    "M": "manual",
    "S": "simulated",
}
_STATUS = frozenset({"A", "D", "V", ""})
_VTG_UNITS = ["T", "M", "N", "K"]
_METRES = frozenset({"M", "m", ""})  # some programs send feet
_GSA_MODE = {"1": 1, "2": 2, "3": 3}
SYSTEM_IDS = {
    "GN": "1",
    "GP": "1",
    "GL": "2",
    "GA": "3",
    "GB": "4",
    "BD": "4",
    "GQ": "5",
    "QZ": "5",
    "QQ": "5",
    "GI": "6",
}
"""Talker -> the id of its system in GSA.

GN and an old GP stand for all systems: there the number of a satellite shows its system.
"""

GNSS = "GN"
"""The owner of all sentences of a satellite receiver; also its talker for all systems."""

_GNSS_TALKERS = {*SYSTEM_IDS, "IM"}  # indoor beacons


def _columns(sentence: Any, names: str) -> Callable[[list[str]], tuple[str, ...]]:
    """A function that picks the named fields, in this order, from a split sentence."""
    columns = [column[1] for column in sentence.fields]
    return itemgetter(*(1 + columns.index(name) for name in names.split()))


_PLACE = "lat lat_dir lon lon_dir"
_RMC = _columns(
    pynmea2.RMC,
    f"timestamp status {_PLACE} spd_over_grnd true_course datestamp mode_indicator",
)
_GGA = _columns(
    pynmea2.GGA,
    f"timestamp {_PLACE} gps_qual num_sats horizontal_dil altitude altitude_units geo_sep "
    "geo_sep_units",
)
_GLL = _columns(pynmea2.GLL, f"timestamp {_PLACE} status faa_mode")
_GNS = _columns(pynmea2.GNS, f"timestamp {_PLACE} mode_indicator num_sats hdop altitude geo_sep")
_VTG = _columns(pynmea2.VTG, "true_track spd_over_grnd_kts spd_over_grnd_kmph faa_mode")
_GST = _columns(pynmea2.GST, "timestamp std_dev_latitude std_dev_longitude std_dev_altitude")
_ZDA = _columns(pynmea2.ZDA, "timestamp day month year")

_MISSING = [""] * 13  # added where a short sentence leaves fields out
_TAG = re.compile("[A-Z0-9]{5}")
# Signal K wrote the local time into GLL, beside an RMC in UTC. Time zones differ by quarter hours.
_QUARTER_MS = 900_000
_CLOSE_MS = 2_000
_KINDS_AT_MOST = 500
_NAMES_AT_MOST = 6

T = TypeVar("T")
Read = Callable[[Sentence], Message | None]
"""Reads the fields of a sentence; None if it cannot be used."""


class Kind(NamedTuple):
    """What a sentence with one tag is, and how it is read."""

    owner: str
    name: str = ""
    """The three letters of its type."""
    read: Read | None = None
    """Types without it have nothing for a fix."""


IN_VIEW = Kind(GNSS, "GSV")
_UNUSED = Kind("")  # a bad tag, or `$P…`, whatever follows: a `PGRMC` is not an RMC


class Parser:
    """Reads the sentences that a fix is made of.

    ``rejected`` counts what is wrong with them. Dropped whole: ``bad-tag`` (not five capital
    letters or digits), ``short`` (fewer fields than its type needs: 8 bits of checksum miss some
    damage). A field that is unknown: ``bad-status`` (of RMC or GLL), ``bad-quality`` (of GGA),
    ``bad-unit`` (a height that is not in metres, a wrong letter in VTG), ``bad-time`` (also a GLL
    in local time, which is dropped), ``bad-date``, ``bad-position``.
    """

    def __init__(self, rejected: Counter[str] | None = None) -> None:
        self.rejected: Counter[str] = Counter() if rejected is None else rejected
        self.proprietary: set[str] = set()
        """The first few names of proprietary sentences."""
        self.kinds: dict[str, Kind] = {}
        """By the first six characters (the tag and its comma). ``kind`` finds what is missing."""
        # Talker -> the time of its last RMC, GGA or GNS since its last GLL, to compare that with.
        self._clocks: dict[str, Instant | None] = {}
        # The least number of fields (the tag counts), the number that is read, and the reader.
        self._types: dict[str, Read] = {
            "RMC": self._reader(8, 13, self._rmc),
            "GGA": self._reader(13, 13, self._gga),
            "GLL": self._reader(7, 8, self._gll),
            "GNS": self._reader(13, 13, self._gns),
            "VTG": self._reader(5, 5, self._vtg),
            "GSA": lambda sentence: gsa(sentence) or self._checked(None, sentence, "short"),
            "GST": self._reader(8, 9, self._gst),
            "ZDA": self._reader(4, 5, self._zda),
            "GBS": self._reader(2, 2, lambda fields: Moment(fields[0], self._instant(fields[1]))),
            "DTM": self._reader(2, 2, lambda fields: Dtm(fields[0], fields[1])),
        }

    def kind(self, sentence: Sentence) -> Kind:
        """What this sentence is, for any talker. A bad tag is counted."""
        tag = sentence.partition(",")[0]
        if tag[:1] == "P" and tag.isalnum():
            kind = _UNUSED
            if len(self.proprietary) < _NAMES_AT_MOST:
                self.proprietary.add(tag)
        elif not _TAG.fullmatch(tag):
            self.rejected["bad-tag"] += 1
            return _UNUSED
        else:
            talker, name = tag[:2], tag[2:]
            owner = GNSS if talker in _GNSS_TALKERS else talker
            kind = Kind(owner, name, self._types.get(name))
            if (owner, name) == IN_VIEW[:2]:
                kind = IN_VIEW
        if len(self.kinds) >= _KINDS_AT_MOST:
            self.kinds.clear()  # damaged tags, of which there are millions
        self.kinds[sentence[:6]] = kind
        return kind

    def _reader(self, least: int, full: int, read: Callable[[list[str]], Message | None]) -> Read:
        def read_sentence(sentence: Sentence) -> Message | None:
            fields = sentence.split(",")
            if " " in sentence:
                fields = [field.strip() for field in fields]  # some pad their numbers
            if len(fields) < full:
                if len(fields) < least:
                    self.rejected["short"] += 1
                    return None
                fields += _MISSING
            return read(fields)

        return read_sentence

    def _rmc(self, fields: list[str]) -> Report:
        time, status, lat, north, lon, east, knots, course, ddmmyy, mode = _RMC(fields)
        at = self._clocks[fields[0][:2]] = self._instant(time)
        position = day = None
        # The navigational status after the mode is ignored: many receivers always send 'V' there.
        if self._is_valid(status):
            day = self._checked(ddmmyy_day(ddmmyy), ddmmyy, "bad-date")
            if mode != "N":
                position = self._position_e9(lat, north, lon, east)
        # D alone does not prove a fix: the mode must, or a GGA of the same instant.
        unsure = status == "D" and mode not in _MODE_QUALITY
        return Report(
            fields[0],
            at,
            status == "V",
            position,
            _MODE_QUALITY.get(mode),
            day=day,
            speed_mm_s=knots_mm_s(knots),
            course_mdeg=course_mdeg(course),
            unsure=unsure,
        )

    def _gga(self, fields: list[str]) -> Report:
        time, lat, north, lon, east, indicator, sats, hdop, alt, unit, geoid_sep, sep_unit = _GGA(
            fields
        )
        at = self._clocks[fields[0][:2]] = self._instant(time)
        quality = _GGA_QUALITY.get(indicator)
        if quality is None and indicator and indicator not in _NO_FIX:
            self.rejected["bad-quality"] += 1
        position = self._position_e9(lat, north, lon, east) if quality else None
        return Report(
            fields[0],
            at,
            indicator in _NO_FIX,
            position,
            quality,
            count(sats),
            dop_e2(hdop),
            self._height_mm(alt, unit),
            self._height_mm(geoid_sep, sep_unit),
        )

    def _gll(self, fields: list[str]) -> Report | None:
        time, lat, north, lon, east, status, mode = _GLL(fields)
        at, clock = self._instant(time), self._clocks.pop(fields[0][:2], None)
        if at is not None and clock is not None:
            ahead_ms = (at - clock + _CLOSE_MS) % DAY_MS
            if ahead_ms >= _QUARTER_MS and ahead_ms % _QUARTER_MS <= 2 * _CLOSE_MS:
                self.rejected["bad-time"] += 1
                return None
        position = None
        if self._is_valid(status) and mode != "N":
            position = self._position_e9(lat, north, lon, east)
        quality = _MODE_QUALITY.get(mode)
        unsure = status == "D" and quality is None
        return Report(fields[0], at, status == "V", position, quality, unsure=unsure)

    def _gns(self, fields: list[str]) -> Report:
        time, lat, north, lon, east, modes, sats, hdop, alt, geoid_sep = _GNS(fields)
        at = self._clocks[fields[0][:2]] = self._instant(time)
        # One mode for each system. The navigational status after it is ignored, as in RMC.
        position = self._position_e9(lat, north, lon, east) if modes.strip("N") else None
        return Report(
            fields[0],
            at,
            False,  # a system without a fix has the mode N, which takes nothing from the others
            position,
            next((word for mode, word in _MODE_QUALITY.items() if mode in modes), None),
            count(sats),
            dop_e2(hdop),
            mm(alt),
            mm(geoid_sep),
        )

    def _vtg(self, fields: list[str]) -> Vtg:
        if len(fields) < 9 and fields[2] != "T":
            course, _, knots, kmh = fields[1:5]  # the old layout, without letters for the units
        else:
            fields += _MISSING
            course, knots, kmh, mode = _VTG(fields)
            units = fields[2:9:2]
            if units != _VTG_UNITS and any(
                a not in {"", b} for a, b in zip(units, _VTG_UNITS, strict=True)
            ):
                self.rejected["bad-unit"] += 1
                mode = "N"
            if mode in {"E", "N"}:
                return Vtg(fields[0], None, None)
        speed_mm_s = knots_mm_s(knots)
        if speed_mm_s is None:
            speed_mm_s = kmh_mm_s(kmh)
        return Vtg(fields[0], speed_mm_s, course_mdeg(course))

    def _gst(self, fields: list[str]) -> Gst:
        time, lat, lon, alt = _GST(fields)
        lat_mm, lon_mm = error_mm(lat), error_mm(lon)
        err_h_mm = None
        if lat_mm is not None and lon_mm is not None:
            err_h_mm = round(math.hypot(lat_mm, lon_mm))
        return Gst(fields[0], self._instant(time), err_h_mm, err_v_mm=error_mm(alt))

    def _zda(self, fields: list[str]) -> Moment:
        time, *parts = _ZDA(fields)
        day = self._checked(calendar_day(*parts), "".join(parts), "bad-date")
        return Moment(fields[0], self._instant(time), day)

    def _is_valid(self, status: str) -> bool:
        if status not in _STATUS:
            self.rejected["bad-status"] += 1
        return status in {"A", "D"}  # RTK and differential receivers send D

    def _height_mm(self, text: str, unit: str) -> int | None:
        return mm(text) if unit in _METRES else self._checked(None, text, "bad-unit")

    def _checked(self, value: T | None, text: str, reason: str) -> T | None:
        """The value of a text; if it has none, and is not empty, that is counted."""
        if value is None and text:
            self.rejected[reason] += 1
        return value

    def _instant(self, text: str) -> Instant | None:
        return self._checked(instant(text), text, "bad-time")

    def _position_e9(self, lat: str, north: str, lon: str, east: str) -> tuple[int, int] | None:
        return position_e9(lat, north, lon, east) or self._checked(None, lat + lon, "bad-position")


@lru_cache(maxsize=32)  # at 10 Hz it is the same for many epochs
def gsa(sentence: Sentence) -> Gsa | None:
    """The fields of a whole GSA; None if it is too short."""
    # The standard has 12 satellites, PDOP, HDOP, VDOP and perhaps the number of the system; some
    # receivers add TDOP. Other layouts have more places for satellites, then the three dilutions.
    fields = [field.strip() for field in sentence.split(",")]
    end = len(fields)
    if end < 18:
        return None
    wide = "." not in fields[15] and (end > 19 or "." in fields[-1])
    first = end - 3 if wide else 15
    system = fields[18] if end > 18 and not wide and fields[18].isdecimal() else ""
    system = system or SYSTEM_IDS.get(fields[0][:2], fields[0][:2])
    pdop, hdop, vdop = map(dop_e2, fields[first : first + 3])
    return Gsa(
        fields[0],
        _GSA_MODE.get(fields[2]),
        tuple([(system, number) for number in fields[3:first] if number.strip("0")]),
        None if pdop == NO_GEOMETRY else pdop,
        hdop,
        None if vdop == NO_GEOMETRY else vdop,
    )
