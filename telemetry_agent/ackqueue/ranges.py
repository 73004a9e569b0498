"""Which value each row number holds, kept as ranges.

A queue of ten million rows has few stories to tell: these were acknowledged, those wait, one in
between was refused. So memory and time follow the number of ranges, not the number of rows.

Invariant: the spans are sorted and disjoint, and two that touch differ in their value. Every
change goes through ``paint``, which restores it.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Generic, NamedTuple, TypeVar

V = TypeVar("V")

_LO = attrgetter("lo")
_HI = attrgetter("hi")


class Span(NamedTuple, Generic[V]):
    """The rows ``lo`` to ``hi``, both included, hold ``value``."""

    lo: int
    hi: int
    value: V

    @property
    def size(self) -> int:
        """How many rows it covers."""
        return self.hi - self.lo + 1


class RangeMap(Generic[V]):
    """A map from row numbers to values (hashable), for long runs of equal values."""

    def __init__(self) -> None:
        self._spans: list[Span[V]] = []
        self._totals: dict[V, int] = {}

    def paint(self, lo: int, hi: int, value: V | None) -> set[int]:
        """Give the rows ``lo`` to ``hi`` this value; ``None`` takes theirs away.

        Returns:
            The first row of each span that came, went or changed.
        """
        first = bisect_left(self._spans, lo - 1, key=_HI)
        stop = first
        new_lo, new_hi = lo, hi
        before: list[Span[V]] = []
        after: list[Span[V]] = []
        while stop < len(self._spans) and self._spans[stop].lo <= hi + 1:
            span = self._spans[stop]
            stop += 1
            if span.value == value:
                new_lo, new_hi = min(new_lo, span.lo), max(new_hi, span.hi)
                continue
            if span.lo < lo:
                before.append(Span(span.lo, min(span.hi, lo - 1), span.value))
            if span.hi > hi:
                after.append(Span(max(span.lo, hi + 1), span.hi, span.value))
        middle = [] if value is None else [Span(new_lo, new_hi, value)]
        old, new = self._spans[first:stop], before + middle + after
        self._spans[first:stop] = new
        self._count(old, -1)
        self._count(new, 1)
        return {span.lo for span in set(old) ^ set(new)}

    def starting_at(self, lo: int) -> Span[V] | None:
        """The span whose first row is ``lo``."""
        index = bisect_left(self._spans, lo, key=_LO)
        if index < len(self._spans) and self._spans[index].lo == lo:
            return self._spans[index]
        return None

    def value_at(self, row: int) -> V | None:
        """The value of one row."""
        span = self.span_at(row)
        return span.value if span is not None else None

    def span_at(self, row: int) -> Span[V] | None:
        """The span that one row is in."""
        index = bisect_left(self._spans, row, key=_HI)
        if index < len(self._spans) and self._spans[index].lo <= row:
            return self._spans[index]
        return None

    def within(self, lo: int, hi: int) -> Iterator[Span[V]]:
        """The spans, or parts of them, from row ``lo`` to ``hi``. It must not change meanwhile."""
        for index in range(bisect_left(self._spans, lo, key=_HI), len(self._spans)):
            span = self._spans[index]
            if span.lo > hi:
                return
            yield Span(max(lo, span.lo), min(hi, span.hi), span.value)

    def gaps(self, lo: int, hi: int) -> Iterator[tuple[int, int]]:
        """The ranges of rows without a value from row ``lo`` to ``hi``."""
        for span in self.within(lo, hi):
            if lo < span.lo:
                yield lo, span.lo - 1
            lo = span.hi + 1
        if lo <= hi:
            yield lo, hi

    def first(self) -> list[Span[V]]:
        """The first span, if there is one."""
        return self._spans[:1]

    def __iter__(self) -> Iterator[Span[V]]:
        """Ascending. The map must not change meanwhile."""
        return iter(self._spans)

    def __reversed__(self) -> Iterator[Span[V]]:
        """Descending. The map must not change meanwhile."""
        return reversed(self._spans)

    def total_by_value(self) -> dict[V, int]:
        """How many rows hold each value."""
        return dict(self._totals)

    @property
    def total(self) -> int:
        """How many rows hold any value."""
        return sum(self._totals.values())

    def _count(self, spans: list[Span[V]], sign: int) -> None:
        for span in spans:
            total = self._totals.get(span.value, 0) + sign * span.size
            if total:
                self._totals[span.value] = total
            else:
                del self._totals[span.value]


def runs(rows: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending row numbers as ranges, both ends included."""
    found: list[tuple[int, int]] = []
    for row in rows:
        if found and found[-1][1] == row - 1:
            found[-1] = (found[-1][0], row)
        else:
            found.append((row, row))
    return found
