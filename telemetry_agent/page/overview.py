"""The whole track, thinned so that it fits into memory and onto a screen.

``Overview`` holds at most 20,000 points, whatever the queue holds. ``thinned`` drops points that
are nearer to the one before than a tolerance: on a map of that scale nobody would see them.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from telemetry_agent.page.trail import BEGINS, POINT, Point, place_of

LIMIT = 20_000
_FINEST_E7 = 50  # about half a metre
SHOWN = 6_000
"""So many points are sent to a browser at most."""


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
        turns = (point[2] - self.west) // 3_600_000_000
        return point[2] - turns * 3_600_000_000 <= self.east


class Overview:
    """Points by ascending row, thinned evenly as they become many."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.tolerance_e7 = _FINEST_E7
        self._limit = limit
        self._packed = bytearray()
        self._kept: Point | None = None
        self._newest: Point | None = None  # kept only if a segment ends with it

    def __len__(self) -> int:
        return len(self._packed) // POINT.size

    def packed(self) -> bytes:
        """All of them."""
        return bytes(self._packed) + (POINT.pack(*self._newest) if self._newest else b"")

    @property
    def first(self) -> int | None:
        """The row of the oldest point."""
        return int(POINT.unpack_from(self._packed)[0]) if self._packed else None

    def add(self, point: Point) -> None:
        """The next point."""
        if point[4] & BEGINS and self._newest is not None:
            self._keep(self._newest)
        if self._kept is None or point[4] or not near(self._kept, point, self.tolerance_e7):
            self._keep(point)
        else:
            self._newest = point
        if len(self) > self._limit:
            self.tolerance_e7 *= 2
            points, self._packed = POINT.iter_unpack(bytes(self._packed)), bytearray()
            for kept in thinned(points, self.tolerance_e7):
                self._packed += POINT.pack(*kept)

    def forget_before(self, row: int) -> None:
        """The rows before this one are gone."""
        del self._packed[: place_of(self._packed, row)]

    def _keep(self, point: Point) -> None:
        self._packed += POINT.pack(*point)
        self._kept, self._newest = point, None


def near(one: Point, other: Point, tolerance_e7: float) -> bool:
    """Whether nobody sees them apart at this scale; on the safe side, away from the equator."""
    return abs(one[1] - other[1]) < tolerance_e7 and abs(one[2] - other[2]) < tolerance_e7


def thinned(points: Iterable[Point], tolerance_e7: float) -> Iterator[Point]:
    """The points that can be seen apart, with both ends of each segment and every glitch."""
    kept: Point | None = None
    last: Point | None = None
    for point in points:
        if kept is None or point[4] or not near(kept, point, tolerance_e7):
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
) -> tuple[list[Point], int]:
    """At most so many of the points, and the tolerance that it took; 0: all are there."""
    total = sum(1 for _ in points())
    if total <= most // 8:
        return list(points()), 0
    tolerance = max(1, round(tolerance_e7))
    while len(shown := list(islice(thinned(points(), tolerance), most + 1))) > most:
        tolerance *= 2
        if tolerance > 3_600_000_000:  # it is all segments of a point each
            return list(islice(points(), 0, None, total // most + 1)), tolerance
    return shown, tolerance if len(shown) < total else 0
