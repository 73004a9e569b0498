"""The whole track: an overview, and the trips.

The queue is read once, a thousand rows at a time, while there is a viewer, and then its new rows.
What is kept is limited: the overview is thinned to fit into memory. If a viewer zooms in further,
the rows of that part are read from the disk again, unless they are too many.
"""

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import NamedTuple

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.export.trips import ParkingRule, Trip, Trips
from telemetry_agent.model import Record
from telemetry_agent.page.points import BEGINS, GLITCH, POINT, Point, pack, place_of, points_of

SHOWN = 6_000
"""A browser gets at most this many points of the whole track."""
_OVERVIEW = 20_000
_FINEST_E7 = 50  # about half a metre
_TURN_E7 = 3_600_000_000
_ROWS_FROM_DISK = 10_000
_COARSER_OUTSIDE = 8


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


class Wanted(NamedTuple):
    """The part of the track that a viewer wants to see."""

    since_s: float = float("-inf")
    until_s: float = float("inf")
    across_px: float = 1000.0
    """The pixels that the whole of it fills. It counts if there is no ``tolerance_e7``."""
    tolerance_e7: float | None = None
    """Points nearer than this look like one."""
    box: Box | None = None
    """The part that must be that exact."""

    def in_time(self, point: Point) -> bool:
        """Whether the point is within the wanted time."""
        return self.since_s <= point[3] <= self.until_s


class Overview:
    """The whole track, thinned evenly when the points become too many."""

    def __init__(self, limit: int = _OVERVIEW) -> None:
        self.tolerance_e7 = _FINEST_E7
        self._limit = limit
        self.packed = bytearray()  # points, by ascending row

    def __len__(self) -> int:
        return len(self.packed) // POINT.size

    @property
    def first(self) -> int | None:
        """The row of the oldest point."""
        return int(POINT.unpack_from(self.packed)[0]) if self.packed else None

    def extend(self, points: Iterable[Point]) -> None:
        """Add the next points."""
        # Thinning continues at the last point that was kept. The one behind it may be there only
        # because the track ended with it, so it is judged again.
        end = max(0, len(self) - 2) * POINT.size
        again = POINT.iter_unpack(bytes(self.packed[end:]))
        del self.packed[end:]
        self.packed += pack(thinned(chain(again, points), self.tolerance_e7))
        while len(self) > self._limit:
            every = POINT.iter_unpack(self.packed)
            if self.tolerance_e7 < _TURN_E7:
                self.tolerance_e7 *= 2
                self.packed = pack(thinned(every, self.tolerance_e7))
            else:  # all are glitches and ends of segments, which thinning keeps
                self.packed = pack(_each(2, every))

    def forget_before(self, row: int) -> None:
        """Drop the points of the rows before this one."""
        del self.packed[: place_of(self.packed, row)]


class TrackIndex:
    """Reads one queue. One thread at a time scans; any may look."""

    def __init__(
        self, queue: AckQueue, breaks: Callable[[Record, Record], bool], park: ParkingRule
    ) -> None:
        self.last = 0
        """The row up to which all were read."""
        self.is_complete = False
        """Whether all rows were read once; new ones come all the time."""
        self.trips = Trips(park)
        self._queue = queue
        self._breaks = breaks
        self._overview = Overview()
        self._newest: Record | None = None
        self._lock = threading.Lock()

    @property
    def first(self) -> int | None:
        """The row of the oldest point; ``None``: none was read yet."""
        with self._lock:
            return self._overview.first

    def scan(self) -> bool:
        """Read a little more. Returns whether there may be more.

        Raises:
            StorageError: the disk cannot be read.
        """
        last, found = self._queue.after(self.last)
        points = list(points_of(found, self._breaks, self._newest))
        with self._lock:
            self._overview.extend(points)
            for (row, record), (*_, flags) in zip(found, points, strict=True):
                self.trips.feed(row, record.fix, breaks=bool(flags & BEGINS))
                self._newest = record
            more = last != self.last
            self.last = last
            self.is_complete |= not more
        return more

    def forget_before(self, row: int) -> None:
        """Drop what is known of the rows before this one: they are gone."""
        with self._lock:
            self._overview.forget_before(row)
            self.trips.forget_before(row)

    def known_trips(self) -> tuple[list[Trip], Trip | None]:
        """Those that have ended, and the one that has not."""
        with self._lock:
            return list(self.trips.done), self.trips.current

    def shown(self, wanted: Wanted, recent: bytes) -> tuple[bytes, int]:
        """The points to draw, packed, and how exact they are in 1e-7 degrees; 0: all are there.

        Args:
            wanted: by the viewer.
            recent: the newest points, not thinned; they replace those of the overview.

        Raises:
            StorageError: the disk cannot be read.
        """
        with self._lock:
            coarse_e7, overview = self._overview.tolerance_e7, bytes(self._overview.packed)
        # Packed, and one at a time: as objects they would take megabytes for each viewer.
        first_recent = POINT.unpack_from(recent)[0] if recent else math.inf
        old = overview[: place_of(overview, first_recent)]
        packed = old + recent

        def in_time() -> Iterator[Point]:
            return filter(wanted.in_time, POINT.iter_unpack(packed))

        tolerance_e7 = wanted.tolerance_e7
        if tolerance_e7 is None:
            tolerance_e7 = _extent_e7(in_time()) / wanted.across_px
        between: list[Point] | None = None
        if old and tolerance_e7 < coarse_e7:
            last_old = int(POINT.unpack_from(old, len(old) - POINT.size)[0])
            between = self._between(POINT.iter_unpack(packed), last_old, wanted)

        def points() -> Iterator[Point]:
            found = in_time() if between is None else _merged(between, in_time())
            if wanted.box is None:
                yield from found
                return
            for here, run in groupby(found, wanted.box.holds):
                yield from run if here else thinned(run, tolerance_e7 * _COARSER_OUTSIDE)  # noqa: B031

        shown, exact = fitting(points, tolerance_e7)
        if exact == 0 and old and between is None and coarse_e7 > tolerance_e7:
            exact = coarse_e7
        return bytes(pack(shown)), exact

    def _between(
        self, points: Iterable[Point], last_old: int, wanted: Wanted
    ) -> list[Point] | None:
        """The rows on the disk of those parts that the viewer sees closely; ``None``: too many."""
        box = wanted.box
        ranges: list[tuple[int, int]] = []
        before, begin = 0, None
        # From the point before such a part to the one behind it: the edge is between two points.
        for point in points:
            row = point[0]
            here = wanted.in_time(point) and (box is None or box.holds(point))
            if here and begin is None and row <= last_old:
                begin = before + 1 if before else row
            elif not here and begin is not None:
                ranges.append((begin, min(row - 1, last_old)))
                begin = None
            before = row
        if begin is not None:
            ranges.append((begin, last_old))
        if sum(hi - lo for lo, hi in ranges) > _ROWS_FROM_DISK:
            return None
        return [
            point
            for lo, hi in ranges
            for point in points_of(self._stored(lo, hi), self._breaks)
            if wanted.in_time(point)
        ]

    def _stored(self, lo: int, hi: int) -> Iterator[tuple[int, Record]]:
        row = lo - 1
        while row < hi:
            last, found = self._queue.after(row)
            if last == row:
                return
            yield from (one for one in found if one[0] <= hi)
            row = last


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
    """Whether they look like one at this scale; away from the equator it keeps more than needed."""
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
        if tolerance > _TURN_E7:  # all are glitches and ends of segments
            return list(_each(total // most + 1, points())), tolerance
    return shown, tolerance if len(shown) < total else 0


def _each(step: int, points: Iterable[Point]) -> Iterator[Point]:
    """Each ``step``-th point; a segment that began with a dropped one begins with the next."""
    begins = 0
    for i, (row, lat, lon, time_s, flags) in enumerate(points):
        begins |= flags & BEGINS
        if i % step == 0:
            yield row, lat, lon, time_s, flags | begins
            begins = 0


def _merged(between: Iterable[Point], points: Iterable[Point]) -> Iterator[Point]:
    """Both by row. Of two points with one row the second counts: its segment flag is right."""
    row = itemgetter(0)
    for _, same in groupby(merge(between, points, key=row), row):
        *_, point = same
        yield point


def _extent_e7(points: Iterable[Point]) -> float:
    """The extent of the track; glitches count only if there is nothing else."""
    boxes: dict[int, tuple[int, int, int, int]] = {}
    for _, lat, lon, _, flags in points:
        south, north, west, east = boxes.get(flags & GLITCH, (lat, lat, lon, lon))
        boxes[flags & GLITCH] = min(south, lat), max(north, lat), min(west, lon), max(east, lon)
    south, north, west, east = boxes.get(0) or boxes.get(GLITCH) or (0, 0, 0, 0)
    return max(north - south, east - west, 1)
