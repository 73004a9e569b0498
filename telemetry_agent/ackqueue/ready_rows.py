"""Chooses the rows of the next batch. Pure: it knows row numbers only, not fixes.

Rows above ``newest``, the newest that was ever handed out in this run, are live. All others are
backlog. A batch is taken from one side of that line only. Handing out moves the line, so what a
batch of the newest live rows leaves behind is backlog from then on.
"""

from collections.abc import Iterator
from itertools import chain, takewhile
from typing import NamedTuple

from telemetry_agent.ackqueue.ranges import ABOVE_ALL, RangeMap, first_rows

NO_BATCH = 0
"""The value of a row that any batch may hold. Other values are the number of a batch that got no
answer: its rows are sent together again, so that the endpoint recognises the repeat."""


class Plan(NamedTuple):
    """The rows of one batch, in order: before it leaves, and while it is out."""

    ranges: list[tuple[int, int]]
    live: bool
    batch: int = NO_BATCH
    """The batch that these were before, or ``NO_BATCH``."""

    @property
    def size(self) -> int:
        """How many rows."""
        return sum([hi - lo + 1 for lo, hi in self.ranges])

    def rows(self) -> Iterator[int]:
        """In the order of the batch's records."""
        return chain.from_iterable(range(lo, hi + 1) for lo, hi in self.ranges)


class ReadyRows:
    """The rows that wait to be handed out."""

    def __init__(self, newest: int) -> None:
        self.free: RangeMap[int] = RangeMap()
        self.newest = newest

    def hand_out(self, ranges: list[tuple[int, int]]) -> None:
        """Remove these: they leave in a batch."""
        for lo, hi in ranges:
            self.free.paint(lo, hi, None)
        self.newest = max(self.newest, ranges[-1][1])

    @property
    def any_live(self) -> bool:
        """Whether one of them is live."""
        return self.free.end - 1 > self.newest

    def live(self) -> int:
        """How many of them are live."""
        spans = takewhile(lambda span: span.hi > self.newest, self.free.descending())
        return sum(span.hi - max(span.lo - 1, self.newest) for span in spans)

    def middle(self) -> int:
        """The row that has as many of them before it as behind it."""
        left = self.free.total // 2
        for span in self.free:
            if left < span.size:
                return span.lo + left
            left -= span.size
        return 0

    def choose(self, limit: int, *, live_first: bool, row: int = 1) -> Plan | None:
        """The newest live rows if there are any and they go first, else the oldest from ``row`` on.

        At most ``limit``, except for the rows of an earlier batch, which come whole.
        """
        if live_first and self.any_live:
            return Plan(self._newest(limit), live=True)
        oldest = next(self.free.within(row), None)
        if oldest is None:
            return None
        if oldest.value != NO_BATCH:
            spans = self.free.where(lambda batch: batch == oldest.value)
            return Plan([span[:2] for span in spans], live=False, batch=oldest.value)
        live = oldest.lo > self.newest
        end = ABOVE_ALL if live else self.newest
        spans = self.free.within(oldest.lo)
        loose = takewhile(lambda span: span.value == NO_BATCH and span.lo <= end, spans)
        return Plan(first_rows(((s.lo, min(s.hi, end)) for s in loose), limit), live)

    def _newest(self, limit: int) -> list[tuple[int, int]]:
        ranges: list[tuple[int, int]] = []
        for span in self.free.descending():
            if span.hi <= self.newest or not limit:
                break
            lo = max(span.lo, self.newest + 1, span.hi - limit + 1)
            ranges.append((lo, span.hi))
            limit -= span.hi - lo + 1
        return ranges[::-1]
