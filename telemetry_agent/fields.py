"""The fields of a fix: one table for all code that names, writes, stores or checks them.

The external form (JSON, exports, the view ``fixes``) has the names and units of ``FIELDS``. An
unknown value is absent, never 0 or "". Internally a quantity is an integer. Each quotient below is
the double nearest to the exact value, so its shortest form is the decimal number that the receiver
sent.

A backlog passes a million fixes through ``fix_json``. A loop over the table takes twice as long as
code with each field written out. So ``written_out`` generates that code from the table once, as the
standard library does for named tuples.
"""

import json
from collections.abc import Callable, Mapping
from datetime import date, datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

from telemetry_agent.model import Fix, Flag, Quality

_SECOND = tuple(f"{second:02}." for second in range(60))
_MS = tuple(f"{ms:03}" for ms in range(1000))
DAY_1970 = date(1970, 1, 1).toordinal()
_FAR = 1e9


class Field(NamedTuple):
    """One field of a fix. A new one is added at the end: see CONTRIBUTING.md."""

    name: str
    """Its external name."""
    stored: str
    """In ``Fix`` and in the queue file: the name carries the unit."""
    allowed: str
    """The values that an endpoint may expect, for its messages."""
    kind: Literal["time", "number", "count", "quality", "flags", "object"] = "number"
    per_unit: int = 1
    """Stored integer = external value * ``per_unit``."""
    lowest: float = -_FAR
    highest: float = _FAR
    always: bool = False
    """Whether every fix has it."""
    since: str = ""
    """The release that added it; empty: the first. Tables and configs may be older."""


FIELDS = (
    Field("time", "time_ms", "UTC as 2026-11-23T12:35:19.000Z", "time", 1000, always=True),
    Field("lat", "lat_e9", "-90 to 90", "number", 10**9, -90, 90, always=True),
    Field("lon", "lon_e9", "-180 to 180", "number", 10**9, -180, 180, always=True),
    Field("alt", "alt_mm", "metres", "number", 1000),
    Field("geoid_sep", "geoid_sep_mm", "metres", "number", 1000),
    Field("speed", "speed_mm_s", "not negative", "number", 1000, 0),
    Field("course", "course_mdeg", "0 or more, less than 360", "number", 1000, 0, 359.9999999),
    Field("mode", "mode", "2 or 3", "count", 1, 2, 3, always=True),
    Field("quality", "quality", " ".join(get_args(Quality)), "quality", always=True),
    Field("hdop", "hdop_e2", "0.01 to 89.99", "number", 100, 0.01, 89.99),
    Field("vdop", "vdop_e2", "0.01 to 89.99", "number", 100, 0.01, 89.99),
    Field("pdop", "pdop_e2", "0.01 to 89.99", "number", 100, 0.01, 89.99),
    Field("sats", "sats", "a count", "count", 1, 0, 999),
    Field("err_h", "err_h_mm", "not negative", "number", 1000, 0),
    Field("err_v", "err_v_mm", "not negative", "number", 1000, 0),
    Field("odo", "odo_m", "not negative", "number", 1, 0),
    Field("flags", "flags", f"a list of {' '.join(get_args(Flag))}", "flags"),
    Field("extra", "extra", "an object", "object"),
)
"""In the order of ``Fix``."""
LATER_FIELDS = tuple(field for field in FIELDS if field.since)


@lru_cache(maxsize=8)
def _minute(minutes: int) -> str:
    """Minutes since 1970 as ``2026-11-23T12:35:``."""
    # Not fromtimestamp(): with a 32-bit time_t it overflows in 2038.
    days, minutes = divmod(minutes, 1440)
    hours, minutes = divmod(minutes, 60)
    return f"{date.fromordinal(DAY_1970 + days).isoformat()}T{hours:02}:{minutes:02}:"


def rfc3339(time_ms: int) -> str:
    """Milliseconds since 1970 as ``2026-11-23T12:35:19.000Z``."""
    minutes, ms = divmod(time_ms, 60_000)
    return f"{_minute(minutes)}{_SECOND[ms // 1000]}{_MS[ms % 1000]}Z"


def degrees(e9: int) -> str:
    """1e-9 degrees as a decimal number, never as ``5e-08``, which XML and some readers refuse."""
    return f"{e9 / 1e9:.9f}".rstrip("0").rstrip(".")


def written_out(name: str, source: str, uses: Mapping[str, Any]) -> Any:
    """The function ``name`` of a source text made from the table."""
    names = dict(uses)
    exec(source, names)  # noqa: S102 - the text is made from a constant table, at import
    return names[name]


def outside(field: Field) -> str:
    """The source of the expression for the external value."""
    return field.stored if field.per_unit == 1 else f"{field.stored} / {float(field.per_unit)}"


def writer(part: Callable[[Field], str | None], uses: Mapping[str, Any]) -> Callable[[Fix], str]:
    """Make a function that writes the fields of a fix, separated by commas.

    Args:
        part: the text for a field, as the content of an f-string; ``None`` leaves the field out.
        uses: the names in these texts, in addition to the stored names of the fields.
    """
    parts: list[str] = []
    for field in FIELDS:
        text = part(field)
        if text is not None:
            there = "flags" if field.kind == "flags" else f"{field.stored} is not None"
            parts.append(f"f''',{text}'''" + ("" if field.always else f" if {there} else ''"))
    source = (
        "def write(fix):\n"
        f"    {', '.join(field.stored for field in FIELDS)} = fix\n"
        f"    return ''.join([{', '.join(parts)}])[1:]\n"
    )
    write: Callable[[Fix], str] = written_out("write", source, uses)
    return write


def _json_part(field: Field) -> str:
    text = {"time": '"{rfc3339(time_ms)}"', "quality": '"{quality}"', "flags": "{dumps(flags)}"}
    value = "{extra}" if field.kind == "object" else f"{{{outside(field)}!r}}"
    return f'"{field.name}":{text.get(field.kind, value)}'


fix_json = writer(
    _json_part,
    {"rfc3339": rfc3339, "dumps": json.JSONEncoder(separators=(",", ":")).encode},
)
"""The fields of a fix as JSON, in the order of the table and without the braces."""


def fix_fields(fix: Fix) -> dict[str, Any]:
    """The same fields as a dict, ready for ``json.dumps``."""
    fields: dict[str, Any] = json.loads(f"{{{fix_json(fix)}}}")
    return fields


def fix_of(fields: Mapping[str, Any]) -> Fix:
    """The fix of ``fix_fields``; what is unknown is left out.

    Raises:
        ValueError, TypeError: they are not those of a fix.
    """
    values: dict[str, Any] = {}
    for field in FIELDS:
        value = fields.get(field.name)
        if value is None:
            continue
        if field.kind == "time":
            value = round(datetime.fromisoformat(value).timestamp() * 1000)
        elif field.kind in {"number", "count"}:
            value = round(value * field.per_unit)
        elif field.kind == "flags":
            value = tuple(value)
        elif field.kind == "object":
            value = json.dumps(value, separators=(",", ":"))
        values[field.stored] = value
    return Fix(**values)
