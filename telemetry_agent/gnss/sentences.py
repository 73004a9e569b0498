"""One clean sentence -> typed fields.

pynmea2 knows the place of each field in a sentence: its field tables are resolved to positions
once, at import. Its objects and converters are not used: they read an empty latitude as 0.0,
accept ``nan`` and ``1e5`` as numbers, return the raw text if a conversion fails, and cost ten
times as much as picking the field. The validators of ``field_values`` read each field instead.
"""

import math
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import pynmea2

from telemetry_agent.gnss.field_values import (
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


class Report(NamedTuple):
    """A position as RMC, GGA, GLL or GNS reports it. What a type does not carry is None."""

    tag: str
    instant: Instant | None
    veto: bool
    """The talker reports that there is no fix."""
    position_e9: tuple[int, int] | None
    """Latitude and longitude, if the receiver reports that they are valid and both can be read."""
    quality: Quality | None
    sats: int | None = None
    hdop_e2: int | None = None
    alt_mm: int | None = None
    geoid_sep_mm: int | None = None
    day: int | None = None
    """Days since 1970."""
    speed_mm_s: int | None = None
    course_mdeg: int | None = None
    unsure: bool = False
    """It counts only if a GGA or GNS of the same instant has a position; so does its date."""
    day_if_sure: int | None = None


class Moment(NamedTuple):
    """Time and date, as in ZDA. Of GBS only the time is used: it may begin an epoch."""

    tag: str
    instant: Instant | None
    day: int | None = None
    """Days since 1970."""


class Vtg(NamedTuple):
    """Speed and course over ground."""

    tag: str
    speed_mm_s: int | None
    course_mdeg: int | None
    instant: None = None


class Gsa(NamedTuple):
    """The satellites in use of one system, and the dilutions of precision."""

    tag: str
    mode: int | None
    """1 no fix, 2 2D, 3 3D."""
    system: str
    """Its id, or a talker without one. Satellite numbers are unique within it."""
    satellites: tuple[str, ...]
    """Their numbers as sent; unused places are empty or 0."""
    pdop_e2: int | None
    hdop_e2: int | None
    vdop_e2: int | None
    instant: None = None


class Gst(NamedTuple):
    """Errors, 1 sigma."""

    tag: str
    about: Instant | None
    """The instant of the errors; it does not begin an epoch."""
    err_h_mm: int | None
    err_v_mm: int | None
    instant: None = None


class Dtm(NamedTuple):
    """The datum that positions refer to."""

    tag: str
    datum: str
    instant: None = None


Message = Report | Moment | Vtg | Gsa | Gst | Dtm
"""``instant`` is the sentence's time of day, which may begin an epoch."""


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

MISSING = [""] * 13  # added where a short sentence leaves fields out


class FieldReader:
    """Reads the fields of the sentences that a fix is made of.

    Args:
        rejected: counts what is wrong with a field, which then is unknown: ``bad-status`` (of RMC
            or GLL), ``bad-quality`` (of GGA), ``bad-unit`` (a height that is not in metres, a wrong
            letter in VTG), ``bad-time``, ``bad-date``, ``bad-position``.
    """

    def __init__(self, rejected: Counter[str]) -> None:
        self.rejected = rejected
        self.types: dict[str, tuple[int, int, Callable[[list[str]], Message]]] = {
            "RMC": (8, 13, self._rmc),
            "GGA": (13, 13, self._gga),
            "GLL": (7, 8, self._gll),
            "GNS": (13, 13, self._gns),
            "VTG": (5, 5, self._vtg),
            "GST": (8, 9, self._gst),
            "ZDA": (4, 5, self._zda),
            "GBS": (2, 2, self._gbs),
            "DTM": (2, 2, _dtm),
        }
        """Letters -> the least number of fields, the number that is read, and the reader.

        The tag counts as a field. A sentence with too few is damaged, although its checksum is
        right: 8 bits miss some damage.
        """

    def _rmc(self, fields: list[str]) -> Report:
        time, status, lat, north, lon, east, knots, course, ddmmyy, mode = _RMC(fields)
        position = day = None
        # The navigational status after the mode is ignored: many receivers always send 'V' there.
        if status == "A" or (status != "V" and self._is_differential(status)):
            day = ddmmyy_day(ddmmyy)
            if day is None and ddmmyy:
                self.rejected["bad-date"] += 1
            if mode != "N":
                position = self._position_e9(lat, north, lon, east)
        # D alone does not prove a fix: the mode must, or a GGA of the same instant.
        unsure = status == "D" and mode not in _MODE_QUALITY
        return Report(
            fields[0],
            self._instant(time),
            status == "V",
            position,
            _MODE_QUALITY.get(mode),
            day=None if unsure else day,
            speed_mm_s=knots_mm_s(knots),
            course_mdeg=course_mdeg(course),
            unsure=unsure,
            day_if_sure=day if unsure else None,
        )

    def _gga(self, fields: list[str]) -> Report:
        time, lat, north, lon, east, indicator, sats, hdop, alt, unit, geoid_sep, sep_unit = _GGA(
            fields
        )
        quality = _GGA_QUALITY.get(indicator)
        if quality is None and indicator not in {"", "0"}:
            self.rejected["bad-quality"] += 1
        position = self._position_e9(lat, north, lon, east) if quality else None
        return Report(
            fields[0],
            self._instant(time),
            indicator == "0",
            position,
            quality,
            count(sats),
            dop_e2(hdop),
            self._height_mm(alt, unit),
            self._height_mm(geoid_sep, sep_unit),
        )

    def _gll(self, fields: list[str]) -> Report:
        time, lat, north, lon, east, status, mode = _GLL(fields)
        position = None
        valid = status == "A" or (status != "V" and self._is_differential(status))
        if valid and mode != "N":
            position = self._position_e9(lat, north, lon, east)
        quality = _MODE_QUALITY.get(mode)
        unsure = status == "D" and quality is None
        return Report(
            fields[0], self._instant(time), status == "V", position, quality, unsure=unsure
        )

    def _gns(self, fields: list[str]) -> Report:
        time, lat, north, lon, east, modes, sats, hdop, alt, geoid_sep = _GNS(fields)
        # One mode for each system. The navigational status after it is ignored, as in RMC.
        position = self._position_e9(lat, north, lon, east) if modes.strip("N") else None
        return Report(
            fields[0],
            self._instant(time),
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
            fields += MISSING
            course, knots, kmh, mode = _VTG(fields)
            units = fields[2:9:2]
            if units != _VTG_UNITS and any(map(_is_other_unit, units, _VTG_UNITS)):
                self.rejected["bad-unit"] += 1
                return Vtg(fields[0], None, None)
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
        return Gst(fields[0], self._instant(time), err_h_mm, error_mm(alt))

    def _zda(self, fields: list[str]) -> Moment:
        time, *parts = _ZDA(fields)
        day = calendar_day(*parts)
        if day is None and any(parts):
            self.rejected["bad-date"] += 1
        return Moment(fields[0], self._instant(time), day)

    def _gbs(self, fields: list[str]) -> Moment:
        return Moment(fields[0], self._instant(fields[1]))

    def _is_differential(self, status: str) -> bool:
        """RTK and differential receivers send D; other letters are unknown."""
        if status not in {"", "D"}:
            self.rejected["bad-status"] += 1
        return status == "D"

    def _height_mm(self, text: str, unit: str) -> int | None:
        if unit in _METRES:
            return mm(text)
        if text:
            self.rejected["bad-unit"] += 1
        return None

    def _instant(self, text: str) -> Instant | None:
        moment = instant(text)
        if moment is None and text:
            self.rejected["bad-time"] += 1
        return moment

    def _position_e9(self, lat: str, north: str, lon: str, east: str) -> tuple[int, int] | None:
        position = position_e9(lat, north, lon, east)
        if position is None and (lat or lon):
            self.rejected["bad-position"] += 1
        return position


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
    pdop, hdop, vdop = fields[first : first + 3]
    return Gsa(
        fields[0],
        _GSA_MODE.get(fields[2]),
        system or SYSTEM_IDS.get(fields[0][:2], fields[0][:2]),
        tuple([number for number in fields[3:first] if number.strip("0")]),  # 00: an empty place
        _useful_dop_e2(pdop),
        dop_e2(hdop),
        _useful_dop_e2(vdop),
    )


def _useful_dop_e2(text: str) -> int | None:
    dop = dop_e2(text)
    return None if dop == NO_GEOMETRY else dop


def _is_other_unit(letter: str, unit: str) -> bool:
    return letter not in {unit, ""}


def _dtm(fields: list[str]) -> Dtm:
    return Dtm(fields[0], fields[1])
