"""GeoJSON by RFC 7946: a feature for each unbroken piece of track.

A feature is a LineString; a Point if it has one fix. At the antimeridian, where a line must be cut,
the next feature begins. The third number of a position is the height above the ellipsoid, as the
RFC demands, so it is present only if the separation of the geoid is known. ``coordTimes`` gives
the time of each position, in the shape of the coordinates.
"""

import json
from collections.abc import Iterator

from telemetry_agent.export.track import HALF_TURN_E9, Chunks, Gaps, by_pieces
from telemetry_agent.fields import degrees, rfc3339
from telemetry_agent.model import Fix, Record

_HEAD = '{"type":"FeatureCollection","features":[\n'
_END = "\n]}\n"


def geojson(chunks: Chunks, gaps: Gaps) -> Iterator[str]:
    """See ``Format.pieces``."""
    yield _HEAD
    first = True
    for text in by_pieces(chunks, gaps, _features):
        yield text[2:] if first else text  # the first feature has no comma before it
        first = first and not text
    yield _END


def _features(piece: list[Record]) -> str:
    """The features of a piece, with a comma before each."""
    parts = [piece[:1]]
    for record in piece[1:]:
        if abs(record.fix.lon_e9 - parts[-1][-1].fix.lon_e9) > HALF_TURN_E9:
            parts.append([])
        parts[-1].append(record)
    return "".join(f",\n{_feature(part)}" for part in parts)


def _feature(part: list[Record]) -> str:
    first, last = part[0], part[-1]
    kind, coordinates = "Point", ",".join(_position(record.fix) for record in part)
    times = ",".join(f'"{rfc3339(record.fix.time_ms)}"' for record in part)
    if len(part) > 1:
        kind, coordinates, times = "LineString", f"[{coordinates}]", f"[{times}]"
    return (
        f'{{"type":"Feature","geometry":{{"type":"{kind}","coordinates":{coordinates}}},'
        f'"properties":{{"device":{json.dumps(last.device)},"stream":"{last.stream}",'
        f'"start":"{rfc3339(first.fix.time_ms)}","end":"{rfc3339(last.fix.time_ms)}",'
        f'"coordTimes":{times}}}}}'
    )


def _position(fix: Fix) -> str:
    height = ""
    if fix.alt_mm is not None and fix.geoid_sep_mm is not None:
        height = f",{(fix.alt_mm + fix.geoid_sep_mm) / 1e3}"
    return f"[{degrees(fix.lon_e9)},{degrees(fix.lat_e9)}{height}]"
