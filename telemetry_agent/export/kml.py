"""KML 2.2 for Google Earth and GIS: a ``gx:Track`` with times for each unbroken piece of track.

Its schema wants all times of a track before all places, so a piece is held in memory.
"""

from collections.abc import Iterator

from telemetry_agent.export.track import Chunks, Gaps, by_pieces, escape
from telemetry_agent.fields import degrees, rfc3339
from telemetry_agent.model import Record

_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<kml xmlns="http://www.opengis.net/kml/2.2" xmlns:gx="http://www.google.com/kml/ext/2.2">
<Document>
"""
_END = "</Document>\n</kml>\n"


def kml(chunks: Chunks, gaps: Gaps) -> Iterator[str]:
    """See ``Format.pieces``."""
    yield _HEAD
    yield from by_pieces(chunks, gaps, _track)
    yield _END


def _track(piece: list[Record]) -> str:
    device, fixes = piece[-1].device, [record.fix for record in piece]
    # Without a mode the track lies on the ground; "absolute" means above sea level.
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
