"""GeoJSON by RFC 7946: a feature for each unbroken piece of track.

A feature is a LineString; a MultiLineString if it crosses the antimeridian, where it must be cut; a
Point if it has one fix. The third number of a position is the height above the ellipsoid, as the
RFC demands, so it is present only if the separation of the geoid is known. ``coordTimes`` gives
the time of each position, in the shape of the coordinates.
"""

import json
from collections.abc import Iterator
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
    features = by_pieces(chunks, gaps, lambda piece: f",\n{_Line(piece).feature()}")
    first = True
    for text in features:
        yield text[2:] if first else text  # the first feature has no comma before it
        first = first and not text
    yield _END


class _Line:
    """A piece of track, cut into parts at the antimeridian."""

    def __init__(self, piece: list[Record]) -> None:
        self._piece = piece
        self._parts: list[tuple[list[str], list[str]]] = [([], [])]  # positions, times
        last: _Position | None = None
        for record in piece:
            position = _position(record.fix)
            if last is not None and abs(position.lon_e9 - last.lon_e9) > HALF_TURN_E9:
                if abs(position.lon_e9) == HALF_TURN_E9:  # it lies on both sides
                    position = position._replace(lon_e9=-position.lon_e9)
                else:
                    self._cross(last, position)
            self._append(position)
            last = position

    def feature(self) -> str:
        first, last = self._piece[0], self._piece[-1]
        # A line that begins on the antimeridian and crosses it has one position on that side.
        parts = [part for part in self._parts if len(part[0]) > 1] or self._parts
        lines = [f"[{','.join(positions)}]" for positions, _ in parts]
        times = [f"[{','.join(times)}]" for _, times in parts]
        if len(parts) > 1:
            kind, coordinates, coord_times = "MultiLineString", _list(lines), _list(times)
        else:
            kind, coordinates, coord_times = "LineString", lines[0], times[0]
        if len(self._piece) == 1:
            kind, coordinates, coord_times = "Point", parts[0][0][0], parts[0][1][0]
        return (
            f'{{"type":"Feature","geometry":{{"type":"{kind}","coordinates":{coordinates}}},'
            f'"properties":{{"device":{json.dumps(last.device)},"stream":"{last.stream}",'
            f'"start":"{rfc3339(first.fix.time_ms)}","end":"{rfc3339(last.fix.time_ms)}",'
            f'"coordTimes":{coord_times}}}}}'
        )

    def _append(self, position: _Position) -> None:
        positions, times = self._parts[-1]
        positions.append(position.text())
        times.append(f'"{rfc3339(position.time_ms)}"')

    def _cross(self, start: _Position, end: _Position) -> None:
        """End this part on the antimeridian, and begin the next on its other side."""
        side_e9 = HALF_TURN_E9 if start.lon_e9 > 0 else -HALF_TURN_E9
        there = start
        if start.lon_e9 != side_e9:
            there = _on_the_way(start, end, side_e9)
            self._append(there)
        self._parts.append(([], []))
        self._append(there._replace(lon_e9=-side_e9))


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


def _list(items: list[str]) -> str:
    return f"[{','.join(items)}]"
