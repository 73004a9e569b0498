"""GeoJSON by RFC 7946: a feature for each unbroken piece of track.

A feature is a LineString; a MultiLineString if it crosses the antimeridian, where it must be cut; a
Point if it has one fix. The third number of a position is the height above the ellipsoid, as the
RFC demands, so it is present only if the separation of the geoid is known. ``coordTimes`` gives
the time of each position, in the shape of the coordinates.
"""

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from telemetry_agent.export.track import HALF_TURN_E9, Chunks, Gaps, by_pieces
from telemetry_agent.fields import degrees, rfc3339
from telemetry_agent.model import Fix, Record

_HEAD = '{"type":"FeatureCollection","features":[\n'
_END = "\n]}\n"


class _Position(NamedTuple):
    time_ms: int
    lat_e9: int
    lon_e9: int
    height_mm: int | None

    def text(self) -> str:
        height = "" if self.height_mm is None else f",{self.height_mm / 1e3}"
        return f"[{degrees(self.lon_e9)},{degrees(self.lat_e9)}{height}]"


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
    parts = _parts([_position(record.fix) for record in piece])
    lines = [_list(position.text() for position in part) for part in parts]
    times = [_list(f'"{rfc3339(position.time_ms)}"' for position in part) for part in parts]
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


def _parts(positions: list[_Position]) -> list[list[_Position]]:
    """A piece of track, cut into parts at the antimeridian."""
    parts: list[list[_Position]] = [[]]
    for position in positions:
        start = parts[-1][-1] if parts[-1] else position
        if abs(position.lon_e9 - start.lon_e9) <= HALF_TURN_E9:
            parts[-1].append(position)
        elif abs(position.lon_e9) == HALF_TURN_E9:  # it lies on both sides
            parts[-1].append(position._replace(lon_e9=-position.lon_e9))
        else:
            side_e9 = HALF_TURN_E9 if start.lon_e9 > 0 else -HALF_TURN_E9
            edge = start
            if start.lon_e9 != side_e9:
                edge = _on_the_way(start, position, side_e9)
                parts[-1].append(edge)
            parts.append([edge._replace(lon_e9=-side_e9), position])
    # A line that begins on the antimeridian and crosses it has one position on that side.
    return [part for part in parts if len(part) > 1] or parts


def _on_the_way(start: _Position, end: _Position, side_e9: int) -> _Position:
    """Where the straight way from one to the other reaches the antimeridian."""
    to_side = abs(side_e9 - start.lon_e9)
    share = to_side / (to_side + abs(end.lon_e9 + side_e9))
    return _Position(
        start.time_ms + round(share * (end.time_ms - start.time_ms)),
        start.lat_e9 + round(share * (end.lat_e9 - start.lat_e9)),
        side_e9,
        None
        if start.height_mm is None or end.height_mm is None
        else start.height_mm + round(share * (end.height_mm - start.height_mm)),
    )


def _position(fix: Fix) -> _Position:
    height_mm = (
        None if fix.alt_mm is None or fix.geoid_sep_mm is None else fix.alt_mm + fix.geoid_sep_mm
    )
    return _Position(fix.time_ms, fix.lat_e9, fix.lon_e9, height_mm)


def _list(items: Iterable[str]) -> str:
    return f"[{','.join(items)}]"
