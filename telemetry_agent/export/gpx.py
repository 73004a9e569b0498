"""GPX 1.1: a track for each device, a segment for each unbroken piece of it.

GPX 1.1 itself has no speed and course; they are written as Garmin's TrackPointExtension, which most
programs read. The name, state, errors and odometer of a fix are in the other formats only.
"""

from collections.abc import Iterator
from typing import Any

from telemetry_agent import __version__
from telemetry_agent.export.track import HALF_TURN_E9, Chunks, Gaps, escape
from telemetry_agent.fields import degrees, rfc3339
from telemetry_agent.model import Fix, Record

_HEAD = f"""<?xml version="1.0" encoding="UTF-8"?>
<gpx version="1.1" creator="telemetry-agent {__version__}" \
xmlns="http://www.topografix.com/GPX/1/1" \
xmlns:gpxtpx="http://www.garmin.com/xmlschemas/TrackPointExtension/v2">
"""
_END_OF_SEGMENT = "</trkseg>\n"
_END_OF_TRACK = "</trk>\n"
_DIFFERENTIAL = {"dgps", "rtk", "float-rtk"}


def gpx(chunks: Chunks, gaps: Gaps) -> Iterator[str]:
    """See ``Format.pieces``."""
    yield _HEAD
    before: Record | None = None
    for chunk in chunks:
        parts = []
        for record, _, _ in chunk:
            if before is None or gaps.between(before, record):
                parts.append(_turn(before, record))
            parts.append(_point(record.fix))
            before = record
        yield "".join(parts)
    yield f"{_END_OF_SEGMENT + _END_OF_TRACK if before else ''}</gpx>\n"


def _turn(before: Record | None, after: Record) -> str:
    """The text between two points of different segments."""
    end = _END_OF_SEGMENT if before else ""
    if before and before.device == after.device:
        return f"{end}<trkseg>\n"
    end += _END_OF_TRACK if before else ""
    return f"{end}<trk><name>{escape(after.device)}</name>\n<trkseg>\n"


def _point(fix: Fix) -> str:
    """One track point; the schema prescribes the order."""
    # The schema does not allow 180: it is -180 there.
    lon_e9 = -HALF_TURN_E9 if fix.lon_e9 == HALF_TURN_E9 else fix.lon_e9
    return "".join(
        [
            f'<trkpt lat="{degrees(fix.lat_e9)}" lon="{degrees(lon_e9)}">',
            _tag("ele", fix.alt_mm, 1e3),
            f"<time>{rfc3339(fix.time_ms)}</time>",
            _tag("geoidheight", fix.geoid_sep_mm, 1e3),
            _tag("cmt", " ".join(fix.flags) or None),
            _tag("fix", _kind(fix)),
            _tag("sat", fix.sats),
            _tag("hdop", fix.hdop_e2, 1e2),
            _tag("vdop", fix.vdop_e2, 1e2),
            _tag("pdop", fix.pdop_e2, 1e2),
            _motion(fix),
            "</trkpt>\n",
        ]
    )


def _tag(name: str, value: Any, per_unit: float | None = None) -> str:
    """An element with this value; empty if it is unknown."""
    if value is None:
        return ""
    return f"<{name}>{value if per_unit is None else value / per_unit}</{name}>"


def _kind(fix: Fix) -> str:
    if fix.quality in _DIFFERENTIAL:
        return "dgps"
    return "pps" if fix.quality == "pps" else f"{fix.mode}d"


def _motion(fix: Fix) -> str:
    speed = _tag("gpxtpx:speed", fix.speed_mm_s, 1e3)
    both = speed + _tag("gpxtpx:course", fix.course_mdeg, 1e3)
    return _tag("extensions", _tag("gpxtpx:TrackPointExtension", both)) if both else ""
