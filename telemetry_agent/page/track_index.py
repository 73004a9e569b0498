"""The whole track: an overview, and the trips.

The queue is read once, a thousand rows at a time, while there is a viewer, and then its new rows.
What is kept is limited: the overview is thinned to fit into memory. Rows that were not read yet,
and those of a part that a viewer sees closely, are read from the disk when they are asked for.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.export.trips import ParkingRule, Trip, Trips
from telemetry_agent.model import Record
from telemetry_agent.page.points import (
    POINT,
    Box,
    Overview,
    Point,
    extent_e7,
    fitting,
    merged,
    pack,
    points_of,
    thinned,
)

NEWEST = 20_000
"""So many rows a viewer may have missed: at one per second the last 5 hours."""
_ROWS_FROM_DISK = 10_000
_COARSER_OUTSIDE = 8


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


class TrackIndex:
    """Reads one queue. One thread at a time scans; any may look.

    ``breaks``: whether the second of two neighbours begins a segment.
    """

    def __init__(
        self, queue: AckQueue, breaks: Callable[[Record, Record], bool], park: ParkingRule
    ) -> None:
        self.last = 0
        """The row up to which all were read."""
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
            tolerance_e7 = extent_e7(in_time()) / wanted.across_px
        close = bytearray()
        lacks = False
        if tolerance_e7 < coarse_e7:
            rows = list(_close(POINT.iter_unpack(packed), scanned, wanted))
            newest_rows = _newest(rows, _ROWS_FROM_DISK)
            lacks = newest_rows != rows
            for lo, hi in newest_rows:
                close += pack(filter(wanted.in_time, points_of(self._stored(lo, hi), self._breaks)))

        def points() -> Iterator[Point]:
            found = merged(POINT.iter_unpack(close), in_time())
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
