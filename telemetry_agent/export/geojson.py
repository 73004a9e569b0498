"""GeoJSON by RFC 7946: a feature for each unbroken piece of track.

A feature is a LineString; a MultiLineString if it crosses the antimeridian, where it must be cut; a
Point if it has one fix. The third number of a position is the height above the ellipsoid, as the
RFC demands, so it is present only if the separation of the geoid is known. ``coordTimes`` gives
the time of each position, in the shape of the coordinates.
"""

import json
from collections.abc import Iterable, Iterator

from telemetry_agent.export.track import HALF_TURN_E9, Chunks, Gaps, by_pieces
from telemetry_agent.fields import degrees, rfc3339
from telemetry_agent.model import Fix, Record

_HEAD = '{"type":"FeatureCollection","features":[\n'
_END = "\n]}\n"


def geojson(chunks: Chunks, gaps: Gaps) -> Iterator[str]:
    """See ``Format.pieces``."""
    yield _HEAD
    first = True
    for text in by_pieces(chunks, gaps, lambda piece: f",\n{_feature(piece)}"):
        yield text[2:] if first else text  # the first feature has no comma before it
        first = first and not text
    yield _END


def _feature(piece: list[Record]) -> str:
    first, last = piece[0], piece[-1]
    parts = _parts([record.fix for record in piece])
    lines = [_list(map(_position, part)) for part in parts]
    times = [_list(f'"{rfc3339(fix.time_ms)}"' for fix in part) for part in parts]
    if len(parts) > 1:
        kind, coordinates, coord_times = "MultiLineString", _list(lines), _list(times)
    elif len(piece) > 1:
        kind, coordinates, coord_times = "LineString", lines[0], times[0]
    else:
        kind, coordinates, coord_times = "Point", lines[0][1:-1], times[0][1:-1]
    return (
        f'{{"type":"Feature","geometry":{{"type":"{kind}","coordinates":{coordinates}}},'
        f'"properties":{{"device":{json.dumps(last.device)},"stream":"{last.stream}",'
        f'"start":"{rfc3339(first.fix.time_ms)}","end":"{rfc3339(last.fix.time_ms)}",'
        f'"coordTimes":{coord_times}}}}}'
    )


def _parts(fixes: list[Fix]) -> list[list[Fix]]:
    """A piece of track, cut into parts at the antimeridian."""
    parts: list[list[Fix]] = [[]]
    for fix in fixes:
        start = parts[-1][-1] if parts[-1] else fix
        if abs(fix.lon_e9 - start.lon_e9) <= HALF_TURN_E9:
            parts[-1].append(fix)
        elif abs(fix.lon_e9) == HALF_TURN_E9:  # it lies on both sides
            parts[-1].append(fix._replace(lon_e9=-fix.lon_e9))
        else:
            side_e9 = HALF_TURN_E9 if start.lon_e9 > 0 else -HALF_TURN_E9
            edge = start
            if start.lon_e9 != side_e9:
                edge = _on_the_way(start, fix, side_e9)
                parts[-1].append(edge)
            parts.append([edge._replace(lon_e9=-side_e9), fix])
    # A line that begins on the antimeridian and crosses it has one position on that side.
    return [part for part in parts if len(part) > 1] or parts


def _on_the_way(start: Fix, end: Fix, side_e9: int) -> Fix:
    """Where the straight way from one to the other reaches the antimeridian."""
    to_side = abs(side_e9 - start.lon_e9)
    share = to_side / (to_side + abs(end.lon_e9 + side_e9))

    def between(first: int, last: int) -> int:
        return first + round(share * (last - first))

    low_mm, high_mm = _height_mm(start), _height_mm(end)
    return start._replace(
        time_ms=between(start.time_ms, end.time_ms),
        lat_e9=between(start.lat_e9, end.lat_e9),
        lon_e9=side_e9,
        alt_mm=None if low_mm is None or high_mm is None else between(low_mm, high_mm),
        geoid_sep_mm=0,
    )


def _position(fix: Fix) -> str:
    height_mm = _height_mm(fix)
    height = "" if height_mm is None else f",{height_mm / 1e3}"
    return f"[{degrees(fix.lon_e9)},{degrees(fix.lat_e9)}{height}]"


def _height_mm(fix: Fix) -> int | None:
    if fix.alt_mm is None or fix.geoid_sep_mm is None:
        return None
    return fix.alt_mm + fix.geoid_sep_mm


def _list(items: Iterable[str]) -> str:
    return f"[{','.join(items)}]"
