"""The position that can be derived from one sentence, or from one of gpsd's reports.

Written from the rules, independently of the decoder: fields by regular expressions, numbers by
fractions. It does not judge values that need several sentences.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Any

DAY_MS = 86_400_000
DAY_2026_11_23 = date(2026, 11, 23).toordinal() - date(1970, 1, 1).toordinal()

_GNSS = ["GN", "GP", "GL", "GA", "GB", "BD", "GQ", "QZ", "QQ", "GI", "IM"]
_MODES = set("ADEFMPRS")
_LEAST_FIELDS = {"RMC": 8, "GGA": 13, "GLL": 7, "GNS": 13}
_NEAR_MS = 60


@dataclass(frozen=True)
class Said:
    """The values of a sentence or report. Without a place, no position may come out."""

    time_ms: int | None = None
    """Time of day."""
    day: int | None = None
    """Days since 1970-01-01."""
    place_e9: tuple[int, int] | None = None
    alt_mm: int | None = None
    speed_mm_s: int | None = None

    def is_near(self, times_ms: Iterable[int | None]) -> bool:
        """Whether it may be the same instant as one of these, or its day is ambiguous."""
        if self.time_ms is None:
            return False
        if not 60_000 <= self.time_ms < DAY_MS - 60_000:
            return True  # the current day may override its date
        apart = [abs(self.time_ms - other) for other in times_ms if other is not None]
        # At 12 hours both days are equally near; at quarter hours a GLL may have the local time.
        return any(ms <= _NEAR_MS or (ms + 2_000) % 900_000 <= 4_000 for ms in apart)

    def at_ms(self, known_ms: int) -> int:
        """Its full time in milliseconds since 1970, nearest to ``known_ms`` if it has no date."""
        assert self.time_ms is not None
        if self.day is not None:
            return self.day * DAY_MS + self.time_ms
        day = known_ms // DAY_MS
        at = [(day + n) * DAY_MS + self.time_ms for n in (-1, 0, 1)]
        return min(at, key=lambda ms: abs(ms - known_ms))


NOTHING = Said()


def of_sentence(body: str) -> Said | None:
    """The values of the text between ``$`` and ``*``; None if ambiguous without other sentences."""
    if re.search(r"[^ -~]|\$", body) or len(body) > 126:
        return None if "$" in body or "\n" in body or "\r" in body else NOTHING
    fields = body.split(",")
    if not re.fullmatch("[A-Z0-9]{5}", fields[0]) or body[0] == "P":
        return NOTHING
    fields = [field.strip() for field in fields]
    talker, kind = body[:2], body[2:5]
    if kind in {"ZDA", "GBS"} and talker in _GNSS:
        return Said(_time_ms(fields[1] if len(fields) > 1 else ""))
    if talker not in _GNSS or len(fields) < _LEAST_FIELDS.get(kind, 999):
        return NOTHING
    fields += [""] * 20
    said = {"RMC": _rmc, "GGA": _gga, "GLL": _gll, "GNS": _gns}[kind](fields)
    return said if said.time_ms is not None else NOTHING


def _rmc(fields: list[str]) -> Said:
    _, time, status, *place, knots, _, ddmmyy, _, _, mode = fields[:13]
    sure = (status == "A" and mode != "N") or (status == "D" and mode in _MODES)
    speed = _number(knots, Fraction(514_444, 1000))
    return Said(
        _time_ms(time),
        _day(ddmmyy) if status == "A" or sure else None,
        _place(place) if sure else None,
        speed_mm_s=speed if speed is not None and speed >= 0 else None,
    )


def _gga(fields: list[str]) -> Said:
    few = re.fullmatch(r"\+?\d{1,3}", fields[7]) and int(fields[7]) < 3
    sure = re.fullmatch("0?[678]" if few else "0?[1-9]", fields[6])
    alt_mm = _number(fields[9], 1000) if fields[10] in {"M", "m", ""} else None
    return Said(_time_ms(fields[1]), None, _place(fields[2:6]) if sure else None, alt_mm)


def _gll(fields: list[str]) -> Said:
    status, mode = fields[6:8]
    sure = (status == "A" and mode != "N") or (status == "D" and mode in _MODES)
    return Said(_time_ms(fields[5]), None, _place(fields[1:5]) if sure else None)


def _gns(fields: list[str]) -> Said:
    sure = re.search("[^N]", fields[6])
    return Said(
        _time_ms(fields[1]), None, _place(fields[2:6]) if sure else None, _number(fields[9], 1000)
    )


def time_of_day_ms(text: str) -> int:
    """The time of an intact ``hhmmss``."""
    return (int(text[:2]) * 3600 + int(text[2:4]) * 60 + int(text[4:6])) * 1000


def _time_ms(text: str) -> int | None:
    found = re.fullmatch(r"([01]\d|2[0-3])([0-5]\d)([0-5]\d|60)(?:\.(\d*))?", text)
    if not found:
        return None
    fraction = (found[4] or "")[:3].ljust(3, "0")
    return time_of_day_ms(text) + int(fraction)


def _day(ddmmyy: str) -> int | None:
    if not re.fullmatch(r"\d{6}", ddmmyy):
        return None
    day, month, year = (int(ddmmyy[n : n + 2]) for n in (0, 2, 4))
    year += 2000 if year < 69 else 1900
    try:
        at = date(year, month, day)
    except ValueError:
        return None
    is_date = year < 2036 and abs((at - date(1980, 1, 6)).days) >= 7
    return at.toordinal() - date(1970, 1, 1).toordinal() if is_date else None


def _place(fields: list[str]) -> tuple[int, int] | None:
    lat, north, lon, east = fields
    if re.match(r"[+-]?\d{0,2}\.", lat) and re.match(r"[+-]?\d{0,3}\.", lon):
        return None  # decimal degrees
    lat_e9, lon_e9 = _angle(lat, north, "NS", 90), _angle(lon, east, "EW", 180)
    return None if lat_e9 is None or lon_e9 is None else (lat_e9, lon_e9)


def _angle(text: str, side: str, sides: str, most: int) -> int | None:
    found = re.fullmatch(r"[+-]?(\d*?)(\d{1,2}\.\d*)", text)
    if not found or side not in set(sides):
        return None
    minutes = Fraction(found[2].rstrip("."))
    degrees = int(found[1] or 0) + minutes / 60
    if minutes >= 60 or degrees > most:
        return None
    is_positive = side == sides[0] and text[0] != "-"
    return math.floor(degrees * 10**9 + Fraction(1, 2)) * (1 if is_positive else -1)


def _number(text: str, factor: Fraction | int) -> int | None:
    if not re.fullmatch(r"[+-]?(\d{1,9}(\.\d*)?|\.\d+)", text):
        return None
    size = math.floor(abs(Fraction(text.rstrip("."))) * factor + Fraction(1, 2))
    return -size if text[0] == "-" else size


def of_report(line: bytes) -> Said | None:
    """The values of a line of gpsd's JSON; None if ambiguous without other lines."""
    if not line.startswith(b"{"):
        return None if line.startswith(b"$") else NOTHING
    try:
        report = json.loads(line)
    except (ValueError, RecursionError):
        return NOTHING
    at = _instant(report.get("time"))
    mode, lat, lon = (report.get(name) for name in ("mode", "lat", "lon"))
    if report.get("class") != "TPV" or at is None or not _is_number(mode):
        return NOTHING
    if not 1969 <= at.year <= 2035:
        return None if 2036 <= at.year <= 2068 else NOTHING
    placed = _is_number(lat, 90) and _is_number(lon, 180)
    if mode not in {0, 1, 2, 3} or (mode >= 2 and not placed):
        return NOTHING
    return Said(
        time_of_day_ms(f"{at:%H%M%S}") + at.microsecond // 1000,
        at.date().toordinal() - date(1970, 1, 1).toordinal(),
        (round(lat * 1e9), round(lon * 1e9)) if mode >= 2 else None,
        alt_mm=_quantity(report.get("altMSL"), 1000),
        speed_mm_s=_quantity(report.get("speed"), 1000, least=0),
    )


def _instant(said: object) -> datetime | None:
    try:
        if type(said) is float:  # an old gpsd
            return datetime.fromtimestamp(said, UTC)
        at = datetime.fromisoformat(said) if isinstance(said, str) else None
        return at.astimezone(UTC) if at and at.tzinfo else at
    except (ValueError, OverflowError, OSError):
        return None


def _is_number(value: Any, most: float = 1e12) -> bool:
    return type(value) in {int, float} and -most <= value <= most


def _quantity(value: Any, factor: int, least: float = -1e9) -> int | None:
    return round(value * factor) if _is_number(value, 1e9) and value >= least else None
