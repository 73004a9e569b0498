"""Which value each row number holds, kept as ranges.

Most of ten million rows have the value of their neighbours: these were acknowledged, those wait.
So memory and time grow with the number of ranges, not with the number of rows. A range takes only
10 to 20 bytes, because an endpoint can refuse every other row.

The boundaries are stored, ascending: the rows at which another value begins, or none. Invariant:
two boundaries next to each other differ in their code, the first begins a value, the last ends
one. Every change goes through ``paint``, which restores it.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

V = TypeVar("V")

_NO_VALUE = 0
ABOVE_ALL = 2**63 - 1
"""Above all row numbers; the highest that SQLite can compare one with."""


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
    """A map from row numbers to values (hashable), for long runs of equal values.

    It must not change while one of its iterators is in use.
    """

    def __init__(self) -> None:
        self._rows = array("Q")  # of the boundaries
        self._codes = array("H")  # of the values that begin there
        self._code_of: dict[V, int] = {}
        self._values: dict[int, V] = {}
        self._totals: dict[int, int] = {}
        self._last_code = _NO_VALUE

    def paint(self, lo: int, hi: int, value: V | None) -> set[int]:
        """Give the rows ``lo`` to ``hi`` this value; ``None`` removes theirs.

        Returns:
            The first row of each span that came, went or changed.
        """
        code = _NO_VALUE if value is None else self._code_of.get(value) or self._new_code(value)
        if code and lo >= self.end:
            return {self._append(lo, hi + 1, code)}
        return self._replace(lo, hi + 1, code)

    def _replace(self, lo: int, stop: int, code: int) -> set[int]:
        rows, codes = self._rows, self._codes
        begin, end = bisect_left(rows, lo), bisect_right(rows, stop)
        before = codes[begin - 1] if begin else _NO_VALUE
        after = codes[end - 1] if end else _NO_VALUE
        changed: set[int] = set()
        if before and (code == before or rows[begin] != lo):
            changed.add(rows[begin - 1])  # that span grows, or loses its end
        if code:  # before what goes, so that no code in use is given up
            self._totals[code] += stop - lo
        start, old = lo, before
        for at in range(begin, end):
            row = rows[at]
            if old:
                self._uncount(old, row - start)
            start, old = row, codes[at]
            if old:
                changed.add(row)
        if old:
            self._uncount(old, stop - start)
        new_rows, new_codes = array("Q"), array(codes.typecode)
        for row, until_then, then in ((lo, before, code), (stop, code, after)):
            if until_then != then:
                new_rows.append(row)
                new_codes.append(then)
                if then:
                    changed.add(row)
        # In one piece: where as many come as go, nothing moves.
        rows[begin:end], codes[begin:end] = new_rows, new_codes
        return changed

    def _append(self, lo: int, stop: int, code: int) -> int:
        """Paint behind all boundaries, as each put and each start does; the span's first row."""
        rows, codes = self._rows, self._codes
        self._totals[code] += stop - lo
        if rows and rows[-1] == lo:
            if codes[-2] == code:  # the span before goes on
                rows[-1] = stop
                return rows[-2]
            codes[-1] = code
        else:
            rows.append(lo)
            codes.append(code)
        rows.append(stop)
        codes.append(_NO_VALUE)
        return lo

    @contextmanager
    def within_reach(self, ranges: Collection[tuple[int, int]]) -> Iterator[None]:
        """Many changes follow, all of these rows. What lies behind them moves once, not for each.

        Meanwhile the map may be asked nothing about other rows.
        """
        first = min((lo for lo, _ in ranges), default=0)
        last = max((hi for _, hi in ranges), default=0)
        rows, codes = self._rows, self._codes
        part = slice(max(0, bisect_left(rows, first) - 1), bisect_right(rows, last + 1) + 1)
        self._rows, self._codes = rows[part], codes[part]
        try:
            yield
        finally:
            if codes.typecode != self._codes.typecode:
                codes = array("I", codes)
            rows[part], codes[part] = self._rows, self._codes
            self._rows, self._codes = rows, codes

    def starting_at(self, lo: int) -> Span[V] | None:
        """The span whose first row is ``lo``."""
        span = self.span_at(lo)
        return span if span is not None and span.lo == lo else None

    def value_at(self, row: int) -> V | None:
        """The value of one row."""
        span = self.span_at(row)
        return span.value if span is not None else None

    def span_at(self, row: int) -> Span[V] | None:
        """The span that one row is in."""
        at = bisect_right(self._rows, row) - 1
        code = self._codes[at] if at >= 0 else _NO_VALUE
        return Span(self._rows[at], self._rows[at + 1] - 1, self._values[code]) if code else None

    def within(self, lo: int, hi: int = ABOVE_ALL) -> Iterator[Span[V]]:
        """The spans, or parts of them, from row ``lo`` to ``hi``."""
        return self._ascending(lo, hi, self._values)

    def gaps(self, lo: int, hi: int) -> Iterator[tuple[int, int]]:
        """The ranges of rows without a value from row ``lo`` to ``hi``."""
        for first, last, _ in self.within(lo, hi):
            if lo < first:
                yield lo, first - 1
            lo = last + 1
        if lo <= hi:
            yield lo, hi

    def where(self, holds: Callable[[V], bool], row: int = 0) -> Iterator[Span[V]]:
        """The spans with such values, or parts of them, from that row on."""
        codes = {code for value, code in self._code_of.items() if holds(value)}
        return self._ascending(row, ABOVE_ALL, codes) if codes else iter(())

    def first_row(self, least: int) -> int | None:
        """The first row from that one on that has a value."""
        if least >= self.end:
            return None
        at = bisect_right(self._rows, least) - 1
        return least if at >= 0 and self._codes[at] else self._rows[at + 1]

    @property
    def end(self) -> int:
        """The row behind the last one that has a value; 0: none has one."""
        return self._rows[-1] if self._rows else 0

    def __iter__(self) -> Iterator[Span[V]]:
        return self.within(0)

    def descending(self, row: int = ABOVE_ALL) -> Iterator[Span[V]]:
        """The spans that begin at this row or before, the last one first."""
        for at in range(bisect_right(self._rows, row) - 1, -1, -1):
            if (code := self._codes[at]) != _NO_VALUE:
                yield Span(self._rows[at], self._rows[at + 1] - 1, self._values[code])

    def totals(self) -> Iterator[tuple[V, int]]:
        """How many rows hold each value, in the order in which the values came."""
        return zip(self._code_of, self._totals.values(), strict=True)

    @property
    def total(self) -> int:
        """How many rows hold any value."""
        return sum(self._totals.values())

    def _new_code(self, value: V) -> int:
        code = self._last_code = self._last_code + 1
        self._code_of[value], self._values[code], self._totals[code] = code, value, 0
        if code >> 16 and self._codes.typecode == "H":
            self._codes = array("I", self._codes)
        return code

    def _uncount(self, code: int, rows: int) -> None:
        self._totals[code] -= rows
        if not self._totals[code]:
            del self._totals[code], self._code_of[self._values.pop(code)]

    def _ascending(self, lo: int, hi: int, codes: Container[int]) -> Iterator[Span[V]]:
        for at in range(max(0, bisect_right(self._rows, lo) - 1), len(self._rows)):
            if (code := self._codes[at]) in codes:  # there can be 100,000 before the first
                if (first := self._rows[at]) > hi:
                    return
                last = self._rows[at + 1] - 1
                # A named tuple's own constructor takes twice as long.
                yield tuple.__new__(Span, (max(lo, first), min(hi, last), self._values[code]))


def runs(rows: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending row numbers as ranges, both ends included."""
    found: list[tuple[int, int]] = []
    first = last = None
    for row in rows:
        if first is None or last is None:
            first = row
        elif row != last + 1:
            found.append((first, last))
            first = row
        last = row
    return found if first is None or last is None else [*found, (first, last)]


def first_rows(ranges: Iterable[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    """The first rows of these ranges, at most ``limit``."""
    found: list[tuple[int, int]] = []
    for lo, hi in ranges:
        found.append((lo, min(hi, lo + limit - 1)))
        limit -= found[-1][1] - lo + 1
        if not limit:
            break
    return found
