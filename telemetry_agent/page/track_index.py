"""The whole track: as points for the browser, as an overview in memory, and its trips.

Points are packed as the browser reads them: 24 bytes each, by ascending row. The state of a row is
sent separately, as ranges of rows. So a delivered batch of a thousand fixes changes one number and
moves no position.

The queue is read once, a thousand rows at a time, while there is a viewer, and then its new rows.
What is kept is limited: the overview is thinned to fit into memory. Rows that were not read yet,
and those of a part that a viewer sees closely, are read from the disk when they are asked for.
"""

import struct
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import NamedTuple

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.export.trips import ParkingRule, Trip, Trips, is_glitch
from telemetry_agent.model import Record

SHOWN = 6_000
"""A browser gets at most this many points of the whole track."""
_OVERVIEW = 20_000  # points in memory
NEWEST = 20_000
"""So many rows a viewer may have missed: at one per second the last 5 hours."""
_ROWS_FROM_DISK = 10_000  # for one request
_COARSER_OUTSIDE = 8  # than in the box
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

    def holds(self, point: Point) -> bool:
        """Whether the point is within the wanted time and the box."""
        return self.in_time(point) and (self.box is None or self.box.holds(point))


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


class TrackIndex:
    """Reads one queue. One thread at a time scans; any may look.

    ``breaks``: whether the second of two neighbours begins a segment.
    """

    def __init__(
        self, queue: AckQueue, breaks: Callable[[Record, Record], bool], park: ParkingRule
    ) -> None:
        self.last = 0
        """The row up to which all were read."""
        self.read = 0
        """How many rows were read. Row numbers have gaps, so they do not show it."""
        self.is_complete = False
        """Whether all rows were read once; new ones come all the time."""
        self._queue = queue
        self._breaks = breaks
        self._overview = Overview()
        self._trips = Trips(breaks, park)
        self._newest: Record | None = None
        self._lock = threading.Lock()

    def scan(self) -> bool:
        """Read a little more. Returns whether there may be more.

        Raises:
            StorageError: the disk cannot be read.
        """
        last, found = self._queue.after(self.last)
        points = list(points_of(found, self._breaks, self._newest))
        with self._lock:
            self._overview.extend(points)
            for row, record in found:
                self._trips.feed(row, record)
                self._newest = record
            self.read += len(found)
            more = last != self.last
            self.last = last
            self.is_complete |= not more
        return more

    def forget(self, first: int, gone: list[tuple[int, int]]) -> None:
        """Drop the rows before ``first``, and those from first to last of each pair, ascending."""
        with self._lock:
            self._overview.forget([(0, first - 1), *gone])
            self._trips.forget_before(first)

    def trips(self) -> tuple[list[Trip], bool]:
        """All trips, the oldest first, and whether the last one has not ended."""
        with self._lock:
            return self._trips.all(), self._trips.current is not None

    def behind(self, row: int, before: Record | None = None) -> tuple[int, bytes]:
        """The row up to which was read, and the points behind ``row``, of the newest rows, packed.

        Raises:
            StorageError: the disk cannot be read.
        """
        begin = max(row, self._queue.last_row() - NEWEST)
        row, packed = max(0, begin - 1), bytearray()  # that one shows whether the next is apart
        while (read := self._queue.after(row))[0] != row:
            row, found = read
            points = points_of(found, self._breaks, before)
            packed += pack(point for point in points if point[0] > begin)
            before = found[-1][1] if found else before
        return row, bytes(packed)

    def shown(self, wanted: Wanted) -> tuple[int, bytes, int]:
        """The row up to which was read, the points to draw, packed, and how exact they are.

        In 1e-7 degrees; 0: all points are there.

        Raises:
            StorageError: the disk cannot be read.
        """
        with self._lock:
            coarse_e7, packed = self._overview.tolerance_e7, bytes(self._overview.packed)
            scanned, newest = self.last, self._newest
        last, rest = self.behind(scanned, newest)
        packed += rest  # as objects they would take megabytes for each viewer

        def in_time() -> Iterator[Point]:
            return filter(wanted.in_time, POINT.iter_unpack(packed))

        tolerance_e7 = wanted.tolerance_e7
        if tolerance_e7 is None:
            tolerance_e7 = _extent_e7(in_time()) / wanted.across_px
        close = bytearray()
        lacks = False
        if tolerance_e7 < coarse_e7:
            rows = list(_close(POINT.iter_unpack(packed), scanned, wanted))
            newest_rows = _newest(rows, _ROWS_FROM_DISK)
            lacks = newest_rows != rows
            for lo, hi in newest_rows:
                close += pack(filter(wanted.in_time, points_of(self._stored(lo, hi), self._breaks)))

        def points() -> Iterator[Point]:
            found = _merged(POINT.iter_unpack(close), in_time())
            if wanted.box is None:
                yield from found
                return
            for here, run in groupby(found, wanted.box.holds):
                yield from run if here else thinned(run, tolerance_e7 * _COARSER_OUTSIDE)  # noqa: B031

        shown, exact = fitting(points, tolerance_e7)
        return last, bytes(shown), coarse_e7 if lacks and exact == 0 else exact

    def _stored(self, lo: int, hi: int) -> Iterator[tuple[int, Record]]:
        row = lo - 1
        while row < hi and (read := self._queue.after(row))[0] != row:
            row, found = read
            yield from (one for one in found if one[0] <= hi)


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
        # As a browser draws it: a track over the antimeridian continues beyond 180 degrees.
        x = lon + _TURN_E7 * round(((west + east) / 2 - lon) / _TURN_E7)
        boxes[flags & GLITCH] = min(south, lat), max(north, lat), min(west, x), max(east, x)
    south, north, west, east = boxes.get(0) or boxes.get(GLITCH) or (0, 0, 0, 0)
    return max(north - south, east - west, 1)


def _close(points: Iterable[Point], last: int, wanted: Wanted) -> Iterator[tuple[int, int]]:
    """The first and last rows, up to ``last``, of those parts that the viewer sees closely."""
    # From the point before such a part to the one behind it: the edge is between two points.
    before, begin = 0, None
    for point in points:
        row = point[0]
        here = wanted.holds(point)
        if here and begin is None and row <= last:
            begin = before + 1 if before else row
        elif not here and begin is not None:
            yield begin, min(row - 1, last)
            begin = None
        before = row
    if begin is not None:
        yield begin, last


def _newest(ranges: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """At most so many rows of these ranges: the last ones."""
    chosen: list[tuple[int, int]] = []
    for lo, hi in reversed(ranges):
        if most > 0:
            chosen.insert(0, (max(lo, hi - most + 1), hi))
        most -= hi - lo + 1
    return chosen
