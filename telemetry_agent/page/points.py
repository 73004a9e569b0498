"""The track as points, packed as the browser reads them: 24 bytes each, by ascending row.

The state of a row is sent separately, as ranges of rows. So a delivered batch of a thousand fixes
changes one number and moves no position.
"""

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence

from telemetry_agent.export.trips import is_glitch
from telemetry_agent.model import Record

NEWEST = 20_000
"""``Trail`` keeps this many positions: at one per second the last 5 hours."""

POINT = struct.Struct("<diiII")
"""Row, as a double, because it can be beyond 32 bits; latitude and longitude in 1e-7 degrees,
seconds since 1970, and the sum of ``BEGINS`` and ``GLITCH``."""
BEGINS = 1
"""A segment of the track begins."""
GLITCH = 2
"""The device was not there: a jump, or 0, 0. It is drawn, and does not decide what is seen."""
_FLAGS_AT = POINT.size - struct.calcsize("<I")
_SLACK = 1000  # to move everything for each new position would cost too much

Point = tuple[int, int, int, int, int]


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


def place_of(packed: bytes | bytearray, row: float) -> int:
    """The place of the first point of that row or a later one among packed points, in bytes."""
    rows = range(len(packed) // POINT.size)
    return POINT.size * bisect_left(
        rows, row, key=lambda i: POINT.unpack_from(packed, i * POINT.size)[0]
    )
