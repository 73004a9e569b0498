"""The track as points, packed as the browser reads them: 24 bytes each, by ascending row.

``Trail`` holds the newest positions. ``Overview`` holds the whole track, thinned to fit into memory.
``thinned`` drops points that are nearer to the one before than a tolerance: on a map of that scale
nobody would see them.

The state of a row is sent separately, as ranges of rows. So a delivered batch of a thousand fixes
changes one number and moves no position.
"""

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from telemetry_agent.export.trips import is_glitch
from telemetry_agent.model import Fix, Record

NEWEST = 20_000
"""``Trail`` keeps this many positions: at one per second the last 5 hours."""
SHOWN = 6_000
"""A browser gets at most this many points of the whole track."""

POINT = struct.Struct("<diiII")
"""Row, as a double, because it can be beyond 32 bits; latitude and longitude in 1e-7 degrees,
seconds since 1970, and the sum of ``BEGINS`` and ``GLITCH``."""
BEGINS = 1
"""A segment of the track begins."""
GLITCH = 2
"""The device was not there: a jump, or 0, 0. It is drawn, and does not decide what is seen."""
_FLAGS_AT = POINT.size - struct.calcsize("<I")
_SLACK = 1000  # to move everything for each new position would cost too much
_OVERVIEW = 20_000
_FINEST_E7 = 50  # about half a metre
_TURN_E7 = 3_600_000_000

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


class Trail:
    """The newest positions.

    Args:
        breaks: whether the second of two neighbours begins a segment.
        limit: how many are kept.
    """

    def __init__(self, breaks: Callable[[Record, Record], bool], limit: int = NEWEST) -> None:
        self.last = 0
        """All rows up to this one were read."""
        self._breaks = breaks
        self._limit = limit
        self._packed = bytearray()
        self._newest: Record | None = None

    def __len__(self) -> int:
        return len(self._packed) // POINT.size

    @property
    def first(self) -> int:
        """The row of the oldest position; past the last row if there is none."""
        return int(POINT.unpack_from(self._packed)[0]) if self._packed else self.last + 1

    def extend(self, last: int, found: Sequence[tuple[int, Record]]) -> list[Point]:
        """Add the positions of newer rows, which were read up to ``last``. Returns them."""
        points = list(points_of(found, self._breaks, self._newest))
        if found:
            self._newest = found[-1][1]
        self._packed += pack(points)
        self.last = last
        if len(self) > self._limit + _SLACK:
            del self._packed[: (len(self) - self._limit) * POINT.size]
        return points

    def forget(self, gone: Iterable[tuple[int, int]]) -> None:
        """Drop the positions of these rows, given as first and last, ascending.

        If a segment began among them, it begins with the next position.
        """
        kept, done = bytearray(), 0
        for lo, hi in gone:
            start, end = place_of(self._packed, lo), place_of(self._packed, hi + 1)
            kept += self._packed[done:start]
            done = end
            begins = any(flags & BEGINS for *_, flags in POINT.iter_unpack(self._packed[start:end]))
            if begins and end < len(self._packed):
                self._packed[end + _FLAGS_AT] |= BEGINS
        self._packed = kept + self._packed[done:]

    def after(self, row: int) -> bytes:
        """The positions behind that row."""
        return bytes(self._packed[place_of(self._packed, row + 1) :])


class Overview:
    """The whole track, thinned evenly when the points become too many."""

    def __init__(self, limit: int = _OVERVIEW) -> None:
        self.tolerance_e7 = _FINEST_E7
        self._limit = limit
        self._packed = bytearray()

    def __len__(self) -> int:
        return len(self._packed) // POINT.size

    @property
    def first(self) -> int | None:
        """The row of the oldest point."""
        return int(POINT.unpack_from(self._packed)[0]) if self._packed else None

    def packed(self) -> bytes:
        """All of them."""
        return bytes(self._packed)

    def extend(self, points: Iterable[Point]) -> None:
        """Add the next points."""
        # Thinning continues at the last point that was kept. The one behind it may be there only
        # because the track ended with it, so it is judged again.
        end = max(0, len(self) - 2) * POINT.size
        again = POINT.iter_unpack(bytes(self._packed[end:]))
        del self._packed[end:]
        self._packed += pack(thinned(chain(again, points), self.tolerance_e7))
        while len(self) > self._limit:
            self.tolerance_e7 *= 2
            every = POINT.iter_unpack(bytes(self._packed))
            if self.tolerance_e7 < _TURN_E7:
                self._packed = pack(thinned(every, self.tolerance_e7))
            else:  # it is all glitches and segments of a point each, which are never dropped
                self._packed = pack(islice(every, 0, None, 2))

    def forget_before(self, row: int) -> None:
        """Drop the points of the rows before this one."""
        del self._packed[: place_of(self._packed, row)]


def points_of(
    found: Iterable[tuple[int, Record]],
    breaks: Callable[[Record, Record], bool],
    before: Record | None = None,
) -> Iterator[Point]:
    """Stored fixes as points.

    Args:
        found: rows with their records, ascending.
        breaks: whether the second of two neighbours begins a segment.
        before: the record before the first of them.
    """
    for row, record in found:
        begins = before is not None and breaks(before, record)
        yield point_of(row, record.fix, begins=begins)
        before = record


def point_of(row: int, fix: Fix, *, begins: bool) -> Point:
    """A fix as a point."""
    flags = BEGINS * begins + GLITCH * is_glitch(fix)
    return row, round(fix.lat_e9 / 100), round(fix.lon_e9 / 100), fix.time_ms // 1000, flags


def pack(points: Iterable[Point]) -> bytearray:
    """Points as the browser reads them."""
    packed = bytearray()
    for point in points:
        packed += POINT.pack(*point)
    return packed


def place_of(packed: bytes | bytearray, row: float) -> int:
    """The place of the first point of that row or a later one among packed points, in bytes."""
    rows = range(len(packed) // POINT.size)
    return POINT.size * bisect_left(
        rows, row, key=lambda i: POINT.unpack_from(packed, i * POINT.size)[0]
    )


def thinned(points: Iterable[Point], tolerance_e7: float) -> Iterator[Point]:
    """The points that can be seen apart, with both ends of each segment and every glitch."""
    kept: Point | None = None
    last: Point | None = None
    for point in points:
        if kept is None or point[4] or not _near(kept, point, tolerance_e7):
            if point[4] & BEGINS and last is not None:
                yield last
            yield point
            kept, last = point, None
        else:
            last = point
    if last is not None:
        yield last


def _near(one: Point, other: Point, tolerance_e7: float) -> bool:
    """Whether they look like one at this scale; on the safe side, away from the equator."""
    return abs(one[1] - other[1]) < tolerance_e7 and abs(one[2] - other[2]) < tolerance_e7


def fitting(
    points: Callable[[], Iterator[Point]], tolerance_e7: float, most: int = SHOWN
) -> tuple[list[Point], int]:
    """At most ``most`` of the points, and the tolerance that this needed; 0: all of them."""
    total = sum(1 for _ in points())
    if total <= most // 8:
        return list(points()), 0
    tolerance = max(1, round(tolerance_e7))
    while len(shown := list(islice(thinned(points(), tolerance), most + 1))) > most:
        tolerance *= 2
        if tolerance > _TURN_E7:  # it is all segments of a point each
            return list(islice(points(), 0, None, total // most + 1)), tolerance
    return shown, tolerance if len(shown) < total else 0
