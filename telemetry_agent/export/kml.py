"""KML 2.2 for Google Earth and GIS: a ``gx:Track`` with times for each unbroken piece of track.

Its schema wants all times of a track before all places, so a piece is held in memory; one of more
than 10,000 positions goes on in the next, from the same position.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from telemetry_agent.export.track import Gaps
from telemetry_agent.fields import degrees, rfc3339
from telemetry_agent.model import Fix, Record

if TYPE_CHECKING:
    from telemetry_agent.ackqueue.stats import Stored

_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<kml xmlns="http://www.opengis.net/kml/2.2" xmlns:gx="http://www.google.com/kml/ext/2.2">
<Document>
"""
_END = "</Document>\n</kml>\n"
_POSITIONS_PER_TRACK = 10_000


def kml(chunks: Iterable[Sequence["Stored"]], gaps: Gaps) -> Iterator[str]:
    """See ``Format.pieces``."""
    yield _HEAD
    before: Record | None = None
    fixes: list[Fix] = []
    for chunk in chunks:
        parts = []
        for record, _, _ in chunk:
            if before:
                breaks = gaps.between(before, record)
                if breaks or len(fixes) == _POSITIONS_PER_TRACK:
                    parts.append(_track(before.device, fixes))
                    fixes = [] if breaks else [before.fix]
            fixes.append(record.fix)
            before = record
        yield "".join(parts)
    yield (_track(before.device, fixes) if before else "") + _END


def _track(device: str, fixes: list[Fix]) -> str:
    # Without an altitude the ground is meant; above sea level is what "absolute" means.
    has_altitude = all(fix.alt_mm is not None for fix in fixes)
    mode = "<altitudeMode>absolute</altitudeMode>\n" if has_altitude else ""
    times = "".join(f"<when>{rfc3339(fix.time_ms)}</when>\n" for fix in fixes)
    places = "".join(
        f"<gx:coord>{degrees(fix.lon_e9)} {degrees(fix.lat_e9)} "
        f"{(fix.alt_mm or 0) / 1e3 if has_altitude else 0}</gx:coord>\n"
        for fix in fixes
    )
    return (
        f"<Placemark><name>{escape(device)} {rfc3339(fixes[0].time_ms)}</name>\n"
        f"<gx:Track>\n{mode}{times}{places}</gx:Track>\n</Placemark>\n"
    )
