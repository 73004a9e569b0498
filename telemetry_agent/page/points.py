"""The track as points, packed as the browser reads them: 24 bytes each, by ascending row.

The state of a row is sent separately, as ranges of rows. So a delivered batch of a thousand fixes
changes one number and moves no position.
"""

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import NamedTuple

from telemetry_agent.export.trips import is_glitch
from telemetry_agent.model import Record

SHOWN = 6_000
"""A browser gets at most this many points of the whole track."""
_OVERVIEW = 20_000
_FINEST_E7 = 50  # about half a metre
_TURN_E7 = 3_600_000_000

POINT = struct.Struct("<diiII")
"""Row, as a double, because it can be beyond 32 bits; latitude and longitude in 1e-7 degrees,
seconds since 1970, and the sum of ``BEGINS`` and ``GLITCH``."""
BEGINS = 1
"""A segment of the track begins."""
GLITCH = 2
"""The device was not there: a jump, or 0, 0. It is drawn, and does not decide what is seen."""
_FLAGS_AT = POINT.size - struct.calcsize("<I")

Point = tuple[int, int, int, int, int]


class Box(NamedTuple):
    """A part of the world in 1e-7 degrees; the west may be beyond -180 degrees."""

    south: int
    west: int
    north: int
    east: int

    def holds(self, point: Point) -> bool:
        """Whether it is inside, whichever turn round the world the box is on."""
        if not self.south <= point[1] <= self.north:
            return False
        turns = (point[2] - self.west) // _TURN_E7
        return point[2] - turns * _TURN_E7 <= self.east


class Overview:
    """The whole track, thinned evenly when the points become too many."""

    def __init__(self, limit: int = _OVERVIEW) -> None:
        self.tolerance_e7 = _FINEST_E7
        self.packed = bytearray()
        self._limit = limit

    def extend(self, points: Iterable[Point]) -> None:
        """Add the next points."""
        # Thinning continues at the last point that was kept. The one behind it may be there only
        # because the track ended with it, so it is judged again.
        end = max(0, len(self.packed) - 2 * POINT.size)
        again = POINT.iter_unpack(bytes(self.packed[end:]))
        del self.packed[end:]
        self.packed += pack(thinned(chain(again, points), self.tolerance_e7))
        if len(every := self.packed) > self._limit * POINT.size:
            coarser_e7 = min(2 * self.tolerance_e7, _TURN_E7)
            self.packed, self.tolerance_e7 = fitting(
                lambda: POINT.iter_unpack(every), coarser_e7, self._limit
            )

    def forget(self, gone: Iterable[tuple[int, int]]) -> None:
        """Drop the points of these rows, given as first and last, ascending.

        If a segment began among them, it begins with the next point.
        """
        kept, done = bytearray(), 0
        for lo, hi in gone:
            start, end = _offset_of(self.packed, lo), _offset_of(self.packed, hi + 1)
            kept += self.packed[done:start]
            done = end
            begins = any(flags & BEGINS for *_, flags in POINT.iter_unpack(self.packed[start:end]))
            if begins and end < len(self.packed):
                self.packed[end + _FLAGS_AT] |= BEGINS
        self.packed = kept + self.packed[done:]


def _offset_of(packed: bytearray, row: int) -> int:
    """Where the first point of that row or a later one begins, in bytes."""
    offsets = range(0, len(packed), POINT.size)
    return POINT.size * bisect_left(offsets, row, key=lambda at: POINT.unpack_from(packed, at)[0])


def points_of(
    found: Iterable[tuple[int, Record]],
    breaks: Callable[[Record, Record], bool],
    before: Record | None = None,
) -> Iterator[Point]:
    """Stored fixes as points; ``before`` is the record before the first of them."""
    for row, record in found:
        fix = record.fix
        begins = before is not None and breaks(before, record)
        flags = BEGINS * begins + GLITCH * is_glitch(fix)
        yield row, round(fix.lat_e9 / 100), round(fix.lon_e9 / 100), fix.time_ms // 1000, flags
        before = record


def pack(points: Iterable[Point]) -> bytearray:
    """Points as the browser reads them."""
    packed = bytearray()
    for point in points:
        packed += POINT.pack(*point)
    return packed


def thinned(points: Iterable[Point], tolerance_e7: float) -> Iterator[Point]:
    """The points that can be seen apart, with both ends of each segment and every glitch."""
    kept: Point | None = None
    last: Point | None = None
    for point in points:
        # Away from the equator this keeps more than is needed.
        if (
            kept is None
            or point[4]
            or abs(kept[1] - point[1]) >= tolerance_e7
            or abs(kept[2] - point[2]) >= tolerance_e7
        ):
            if point[4] & BEGINS and last is not None:
                yield last
            yield point
            kept, last = point, None
        else:
            last = point
    if last is not None:
        yield last


def fitting(
    points: Callable[[], Iterator[Point]], tolerance_e7: float, most: int = SHOWN
) -> tuple[bytearray, int]:
    """At most ``most`` of the points, packed, and the tolerance that this needed; 0: all."""
    total = sum(1 for _ in points())
    if total <= most // 8:
        return pack(points()), 0
    tolerance = max(1, round(tolerance_e7))
    while len(shown := pack(islice(thinned(points(), tolerance), most + 1))) > most * POINT.size:
        tolerance *= 2
        if tolerance > _TURN_E7:  # all are glitches and ends of segments, which thinning keeps
            return pack(_each(total // most + 1, points())), _TURN_E7
    return shown, tolerance if len(shown) < total * POINT.size else 0


def _each(step: int, points: Iterable[Point]) -> Iterator[Point]:
    """Each ``step``-th point; a segment that began with a dropped one begins with the next."""
    begins = 0
    for i, (row, lat, lon, time_s, flags) in enumerate(points):
        begins |= flags & BEGINS
        if i % step == 0:
            yield row, lat, lon, time_s, flags | begins
            begins = 0


def merged(between: Iterable[Point], points: Iterable[Point]) -> Iterator[Point]:
    """Both by row. Of two points with one row the second counts: its segment flag is right."""
    row = itemgetter(0)
    for _, same in groupby(merge(between, points, key=row), row):
        *_, point = same
        yield point


def extent_e7(points: Iterable[Point]) -> float:
    """The extent of the track; glitches count only if there is nothing else."""
    boxes: dict[int, tuple[int, int, int, int]] = {}
    for _, lat, lon, _, flags in points:
        south, north, west, east = boxes.get(flags & GLITCH, (lat, lat, lon, lon))
        boxes[flags & GLITCH] = min(south, lat), max(north, lat), min(west, lon), max(east, lon)
    south, north, west, east = boxes.get(0) or boxes.get(GLITCH) or (0, 0, 0, 0)
    return max(north - south, east - west, 1)
