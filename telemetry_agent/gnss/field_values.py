"""One field of a sentence -> its value, digit by digit, without floats.

An unclear field is None, as an empty one is: unknown, never 0. Numbers are bounded, so that each
value fits in 64 bits.

A time of day (``Instant``) is milliseconds since midnight UTC. A second 60 is the same number as
the second 0 after it; a bit above all times of day marks it, so that the two are different
instants with one value. ``time_of_day_ms`` removes the mark.

An epoch repeats its time and position in several sentences, and slow quantities repeat for
minutes, so small caches avoid most of the work.
"""

from datetime import date
from functools import lru_cache
from typing import NewType

from telemetry_agent.fields import DAY_1970

Instant = NewType("Instant", int)
DAY_MS = 86_400_000
_SECOND_60 = 1 << 28
_SIGNS = frozenset("+-")
_WORST_DOP_E2 = 8999

NO_GEOMETRY = 9999
"""For a dilution of 90 or more, usually 99.99: the geometry of the satellites allows no useful
position."""


def time_of_day_ms(instant: Instant) -> int:
    """Milliseconds since midnight; second 60 counts into the next minute."""
    return instant & (_SECOND_60 - 1)


@lru_cache(maxsize=32)
def instant(text: str) -> Instant | None:
    """``hhmmss`` and an optional fraction of any length, cut to milliseconds."""
    whole, _, fraction = text.partition(".")
    if len(whole) != 6 or not (whole + fraction).isdecimal():
        return None
    hour, rest = divmod(int(whole), 10_000)
    minute, second = divmod(rest, 100)
    if hour > 23 or minute > 59 or second > 60:
        return None
    ms = (hour * 3600 + minute * 60 + second) * 1000 + int((fraction + "000")[:3])
    return Instant(ms | _SECOND_60 if second == 60 else ms)


@lru_cache(maxsize=8)
def calendar_day(day: str, month: str, year: str) -> int | None:
    """Days since 1970 of a date whose parts are 1 or 2, 1 or 2, and 2 or 4 digits.

    A year of two digits is of this century if it is below 69.
    """
    if len(year) == 2:  # of RMC, and of GoFree (Navico) in ZDA
        year = ("20" if year < "69" else "19") + year
    if not (day + month + year).isdecimal() or len(day) > 2 or len(month) > 2 or len(year) != 4:
        return None
    try:
        return date(int(year), int(month), int(day)).toordinal() - DAY_1970
    except ValueError:
        return None


@lru_cache(maxsize=8)
def ddmmyy_day(text: str) -> int | None:
    """Days since 1970 of exactly six digits."""
    return calendar_day(text[:2], text[2:4], text[4:]) if len(text) == 6 else None


@lru_cache(maxsize=32)
def position_e9(lat: str, north: str, lon: str, east: str) -> tuple[int, int] | None:
    """Latitude and longitude in 1e-9 degrees, from ``ddmm.mm``, N or S, ``dddmm.mm``, E or W.

    Some programs send a minus for south and west, with either letter: -11814.6 E is W. Some leave
    out leading zeros, and some send decimal degrees: 41.63 N, 12.45 E is not beside Africa.
    """
    if "." in lat[:4] and lat.lstrip("+-").find(".") < 3 and lon.lstrip("+-").find(".") < 4:
        return None
    lat_e9 = _angle_e9(lat, north, "N", "S", 90_000_000_000)
    lon_e9 = _angle_e9(lon, east, "E", "W", 180_000_000_000)
    return None if lat_e9 is None or lon_e9 is None else (lat_e9, lon_e9)


def _angle_e9(text: str, sign: str, plus: str, minus: str, limit_e9: int) -> int | None:
    whole, point, fraction = (text[1:] if text[:1] in _SIGNS else text).partition(".")
    digits = whole + fraction
    if not point or not whole or not digits.isdecimal():
        return None
    per_minute: int = 10 ** len(fraction)
    per_degree = 60 * per_minute
    degrees, minutes = divmod(int(digits), 100 * per_minute)
    angle_e9 = degrees * 10**9 + (minutes * 10**9 + per_degree // 2) // per_degree
    if minutes >= per_degree or angle_e9 > limit_e9 or sign not in {plus, minus}:
        return None
    return -angle_e9 if sign == minus or text[0] == "-" else angle_e9


def scaled(text: str, numerator: int, denominator: int = 1) -> int | None:
    """A decimal number times a factor, rounded to the nearest integer, half away from zero."""
    whole, _, fraction = (text[1:] if text[:1] in _SIGNS else text).partition(".")
    digits = whole + fraction
    if not digits.isdecimal() or len(whole) > 9:
        return None
    divisor: int = denominator * 10 ** len(fraction)
    size = (int(digits) * numerator + divisor // 2) // divisor
    return -size if text[0] == "-" else size


@lru_cache(maxsize=64)
def mm(text: str) -> int | None:
    """Metres, as millimetres."""
    return scaled(text, 1000)


@lru_cache(maxsize=64)
def error_mm(text: str) -> int | None:
    """A standard deviation in metres, as millimetres."""
    return _not_negative(scaled(text, 1000))


@lru_cache(maxsize=64)
def knots_mm_s(text: str) -> int | None:
    """A speed in knots, as mm/s."""
    return _not_negative(scaled(text, 514_444, 1000))


@lru_cache(maxsize=64)
def kmh_mm_s(text: str) -> int | None:
    """A speed in km/h, as mm/s."""
    return _not_negative(scaled(text, 10_000, 36))


def _not_negative(value: int | None) -> int | None:
    return None if value is None or value < 0 else value


@lru_cache(maxsize=64)
def course_mdeg(text: str) -> int | None:
    """A direction in 0.001 degrees; 360 is 0."""
    angle = scaled(text, 1000)
    return None if angle is None or not 0 <= angle <= 360_000 else angle % 360_000


@lru_cache(maxsize=64)
def dop_e2(text: str) -> int | None:
    """A dilution of precision in 0.01; some receivers send 0 for unknown. See ``NO_GEOMETRY``."""
    dop = scaled(text, 100)
    if dop is None or dop < 1:
        return None
    return dop if dop <= _WORST_DOP_E2 else NO_GEOMETRY


@lru_cache(maxsize=64)
def count(text: str) -> int | None:
    """A number of satellites."""
    text = text.removeprefix("+")
    return int(text) if text.isdecimal() and len(text) < 4 else None
