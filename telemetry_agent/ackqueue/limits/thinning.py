"""Thins what waits: which fixes of a track can go so that its shape stays.

A fix goes if the straight way between its neighbours that stay, driven at constant speed, passes
its place at its time within a tolerance. So a turn stays, and so do a stop and every change of
speed: the position at any time can be computed within the tolerance. The ends of a stretch stay
too: where the stream, the device or the direction of time changes, and where nothing was recorded
for a while.

Both limits double with each level, so that any track becomes as short as need be, evenly: what is
left of a month is a month, seen from further away.

The method is Douglas and Peucker's, with the distance of Meratnia and de By (2004), which takes
time into account.

It is done a window at a time, pass by pass over the older half of what waits. A pass goes from the
middle towards the oldest, so that what stays of each window can move up next to what stays of the
one before, and the numbers that come free are one range. A pass that finds little to take is the
last at its level.
"""

import math
from collections.abc import Sequence

from telemetry_agent.ackqueue.file.rows import (
    LAT_E9,
    LON_E9,
    SEQ,
    STREAM,
    TIME_MS,
    Row,
    at_place,
    is_sound,
)
from telemetry_agent.ackqueue.ledger import Window
from telemetry_agent.ackqueue.shared_state import SharedState

COARSEST = 22
"""At this level only the ends of stretches are left, anywhere on Earth."""

_FINEST_M = 1.0  # less than the error of a receiver
_FINEST_PAUSE_MS = 60_000
_M_PER_E9 = 40_008_000 / 360e9
_TURN_E9 = 360 * 10**9
_DEVICE = 1
_ROWS_PER_WINDOW = 1000
_WINDOWS_PER_STEP = 8
_FEW_ROWS = 100

_Point = tuple[int, int, int, float]
"""Time, latitude, longitude, and how much shorter than one of latitude a degree of longitude is."""


class Thinner:
    """For the holder of the disk lock."""

    def __init__(self, shared: SharedState) -> None:
        self._shared = shared
        self.begin()

    def begin(self) -> None:
        """Begin again, with the finest level."""
        self._level = 0
        self._begin_pass()

    def step(self) -> bool:
        """Take some fixes out of one window; they are gone with the next write.

        Returns:
            False: There is nothing left that can be thinned.

        Raises:
            StorageError: The file cannot be read.
        """
        with self._shared.lock:
            if self._shared.ledger.ready_rows.free.total < _FEW_ROWS:
                return False
        for _ in range(_WINDOWS_PER_STEP):
            window = self._next_window()
            if window is None:
                if not self._end_pass():
                    return False
            elif self._thin(window):
                break
        return True

    def _begin_pass(self) -> None:
        self._below: int | None = None
        self._seen = self._gone = 0

    def _next_window(self) -> Window | None:
        ledger = self._shared.ledger
        with self._shared.lock:
            below = ledger.ready_rows.middle() if self._below is None else self._below
            window = ledger.thinnable(below, _ROWS_PER_WINDOW)
        if window is not None:
            self._below = window.lo
        return window

    def _end_pass(self) -> bool:
        """Returns whether another pass is to be made."""
        if self._gone * 8 <= self._seen:
            self._level += 1
        self._begin_pass()
        if self._level <= COARSEST:
            return True
        self._level = COARSEST
        return False

    def _thin(self, window: Window) -> bool:
        """Returns whether it was worth it."""
        shared = self._shared
        stored = shared.read((window.lo, window.hi))
        if missing := window.hi - window.lo + 1 - len(stored):
            shared.miss(missing)
        rows = [row for row in stored if is_sound(row)]
        if len(rows) < len(stored):
            shared.damage([row[0] for row in stored if not is_sound(row)])
            return True
        kept = thin(rows, self._level)
        gone = len(rows) - len(kept)
        self._seen += len(rows)
        self._gone += gone
        if gone * 16 < len(rows):
            return False
        with shared.lock:
            numbers = shared.ledger.thin(window, len(kept))
            shared.writer.move(
                [at_place(row, number) for number, row in zip(numbers, kept, strict=True)]
            )
        return True


def thin(rows: Sequence[Row], level: int) -> list[Row]:
    """Those that stay; ``rows`` are sound ones, in the order of recording."""
    pause_ms = _FINEST_PAUSE_MS << level
    tolerance = _FINEST_M * 2**level / _M_PER_E9
    points = _points(rows)
    kept: list[Row] = []
    first = 0
    for place in range(1, len(rows) + 1):
        if place == len(rows) or _breaks_off(rows[place - 1], rows[place], pause_ms):
            stay = _simplify(points[first:place], tolerance**2)
            kept += [rows[first + at] for at in stay]
            first = place
    return kept


def _breaks_off(before: Row, after: Row, pause_ms: int) -> bool:
    if before[_DEVICE] != after[_DEVICE] or before[STREAM] != after[STREAM]:
        return True
    took_ms: int = after[TIME_MS] - before[TIME_MS]
    # A long time between two that do not follow each other is a thinned stretch.
    follows: bool = after[SEQ] == before[SEQ] + 1
    return took_ms <= 0 or (took_ms > pause_ms and follows)


def _points(rows: Sequence[Row]) -> list[_Point]:
    turn = 0
    lon_before = rows[0][LON_E9] if rows else 0
    points = []
    for row in rows:
        lat, lon = row[LAT_E9], row[LON_E9]
        turn += _TURN_E9 * round((lon_before - lon) / _TURN_E9)  # across the date line
        lon_before = lon
        points.append((row[TIME_MS], lat, lon + turn, math.cos(math.radians(lat / 1e9))))
    return points


def _simplify(points: Sequence[_Point], tolerance_squared: float) -> list[int]:
    """The places of those that stay."""
    stay = {0, len(points) - 1}
    spans = [(0, len(points) - 1)]
    while spans:
        first, last = spans.pop()
        farthest, place = _farthest(points, first, last)
        if farthest > tolerance_squared:
            stay.add(place)
            spans += [(first, place), (place, last)]
    return sorted(stay)


def _farthest(points: Sequence[_Point], first: int, last: int) -> tuple[float, int]:
    """The square of the largest distance between the two, in 1e-9 degrees, and its place."""
    time_ms, lat, lon, _ = points[first]
    took_ms = points[last][0] - time_ms
    lat_per_ms = (points[last][1] - lat) / max(1, took_ms)
    lon_per_ms = (points[last][2] - lon) / max(1, took_ms)
    farthest, place = 0.0, first
    for at in range(first + 1, last):
        at_ms, at_lat, at_lon, shorter = points[at]
        north = lat + (at_ms - time_ms) * lat_per_ms - at_lat
        east = (lon + (at_ms - time_ms) * lon_per_ms - at_lon) * shorter
        distance = north * north + east * east
        if distance > farthest:
            farthest, place = distance, at
    return farthest, place
