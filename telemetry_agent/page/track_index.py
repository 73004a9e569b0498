"""What the page knows of the whole track: an overview, and the trips.

It reads the queue once, a thousand rows at a time, while somebody looks, and goes on with what is
new. What it keeps is bounded. Where a viewer looks closer than the overview is, the rows of that
part are read from the disk again, if they are not too many.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.export.trips import ParkingRule, Trip, Trips
from telemetry_agent.model import Record
from telemetry_agent.page.overview import Box, Overview, fitting, thinned
from telemetry_agent.page.trail import POINT, Point, point_of

_ROWS_FROM_DISK = 10_000
_COARSER_OUTSIDE = 8


class Wanted(NamedTuple):
    """What a viewer wants to see of the track."""

    since_s: float = float("-inf")
    until_s: float = float("inf")
    across_px: float = 1000.0
    """So many pixels show the whole of it; without ``tolerance_e7``."""
    tolerance_e7: float | None = None
    """What is nearer than this cannot be seen apart."""
    box: Box | None = None
    """Where it is to be that exact."""

    def in_time(self, point: Point) -> bool:
        """Whether it is of the time that is wanted."""
        return self.since_s <= point[3] <= self.until_s


class TrackIndex:
    """Of one queue. One thread at a time scans; any may look."""

    def __init__(
        self, queue: AckQueue, breaks: Callable[[Record, Record], bool], park: ParkingRule
    ) -> None:
        self.last = 0
        """How far the rows were read."""
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
        """Read on, a little. Returns whether there is more.

        Raises:
            StorageError: the disk does not give it.
        """
        last, found = self._queue.after(self.last)
        with self._lock:
            for row, record in found:
                begins = self._newest is not None and self._breaks(self._newest, record)
                self._newest = record
                self._overview.add(point_of(row, record.fix, begins=begins))
                self.trips.feed(row, record.fix, breaks=begins)
            more = last != self.last
            self.last = last
        return more

    def forget_before(self, row: int) -> None:
        """The rows before this one are gone."""
        with self._lock:
            self._overview.forget_before(row)
            self.trips.forget_before(row)

    def known_trips(self) -> tuple[list[Trip], Trip | None]:
        """Those that have ended, and the one that has not."""
        with self._lock:
            return list(self.trips.done), self.trips.current

    def shown(self, wanted: Wanted, recent: list[Point]) -> tuple[bytes, int]:
        """The points to draw, packed, and how exact they are in 1e-7 degrees; 0: all are there.

        Args:
            wanted: by the viewer.
            recent: the newest points, all of them; they take the place of the overview's.

        Raises:
            StorageError: the disk does not give them.
        """
        with self._lock:
            coarse_e7 = self._overview.tolerance_e7
            old = [point for point in self._overview if not recent or point[0] < recent[0][0]]
        points = [*old, *recent]
        tolerance_e7 = wanted.tolerance_e7
        if tolerance_e7 is None:
            tolerance_e7 = _extent_e7(list(filter(wanted.in_time, points))) / wanted.across_px
        finer = None
        if old and tolerance_e7 < coarse_e7:
            finer = self._finer(points, old[-1][0], wanted)
        points = [point for point in finer or points if wanted.in_time(point)]
        if wanted.box is not None:
            points = [
                point
                for here, run in _runs(points, wanted.box.holds)
                for point in (run if here else thinned(run, tolerance_e7 * _COARSER_OUTSIDE))
            ]
        shown, exact = fitting(points, tolerance_e7)
        if exact == 0 and old and finer is None and coarse_e7 > tolerance_e7:
            exact = coarse_e7
        return b"".join([POINT.pack(*point) for point in shown]), exact

    def _finer(self, points: list[Point], last_old: int, wanted: Wanted) -> list[Point] | None:
        """The points with those parts read from the disk that the viewer looks at closely.

        ``None``: that would be too many.
        """
        box = wanted.box
        ranges = []
        runs = _runs(points, lambda p: wanted.in_time(p) and (box is None or box.holds(p)))
        for i, (here, run) in enumerate(runs):
            if here and run[0][0] <= last_old:
                # From the point before it to the one behind, for the edge lies between.
                lo = runs[i - 1][1][-1][0] + 1 if i else run[0][0]
                hi = runs[i + 1][1][0][0] - 1 if i + 1 < len(runs) else run[-1][0]
                ranges.append((lo, min(hi, last_old)))
        if sum(hi - lo for lo, hi in ranges) > _ROWS_FROM_DISK:
            return None
        found = {point[0]: point for lo, hi in ranges for point in self._from_disk(lo, hi)}
        found |= {point[0]: point for point in points}  # which know where segments begin
        return [found[row] for row in sorted(found)]

    def _from_disk(self, lo: int, hi: int) -> Iterator[Point]:
        row, before = lo - 1, None
        while row < hi:
            last, records = self._queue.after(row)
            if last == row:
                return
            for at, record in records:
                if at > hi:
                    return
                begins = before is not None and self._breaks(before, record)
                before = record
                yield point_of(at, record.fix, begins=begins)
            row = last


def _runs(
    points: Iterable[Point], inside: Callable[[Point], bool]
) -> list[tuple[bool, list[Point]]]:
    """The points in runs that are inside or outside."""
    return [(here, list(run)) for here, run in groupby(points, inside)]


def _extent_e7(points: list[Point]) -> float:
    places = [point for point in points if not point[4] & 2] or points
    if not places:
        return 1.0
    lats, lons = [point[1] for point in places], [point[2] for point in places]
    return max(max(lats) - min(lats), max(lons) - min(lons), 1)
