"""Which value each row number holds, kept as ranges.

Most of ten million rows have the value of their neighbours: these were acknowledged, those wait.
So memory and time grow with the number of ranges, not with the number of rows. A range takes only 8
to 16 bytes, because an endpoint can refuse every other row.

The boundaries are stored: the rows at which another value begins, or none. Row numbers are divided
into pages. Each page that has boundaries has them in an ascending array, as the place in the page
and the code of the value. So a change in the middle moves one page and not all of them.

Invariant: two boundaries next to each other differ in their code, the first begins a value, the
last ends one. Every change goes through ``paint``, which restores it.
"""

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

V = TypeVar("V")

_PAGE_BITS, _CODE_BITS = 13, 32
_PLACES, _CODES = (1 << _PAGE_BITS) - 1, (1 << _CODE_BITS) - 1
_NO_VALUE = 0
ABOVE_ALL = 1 << 64
"""A row number above all others."""


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
        self._pages: list[array[int]] = []
        self._numbers: list[int] = []  # of the pages
        self._codes: dict[V, int] = {}
        self._values: dict[int, V] = {}
        self._totals: dict[int, int] = {}
        self._spare_codes: list[int] = []

    def paint(self, lo: int, hi: int, value: V | None) -> set[int]:
        """Give the rows ``lo`` to ``hi`` this value; ``None`` removes theirs.

        Returns:
            The first row of each span that came, went or changed.
        """
        code = self._code(value)
        if code != _NO_VALUE and (first := self._append(lo, hi, code)) is not None:
            return {first}
        old = list(self._touching(lo - 1, hi + 1))
        left = [(first, min(last, lo - 1), other) for first, last, other in old if first < lo]
        right = [(max(first, hi + 1), last, other) for first, last, other in old if last > hi]
        before = left[0][2] if left else _NO_VALUE
        after = right[0][2] if right else _NO_VALUE
        new = [*left, *right]
        if code != _NO_VALUE:
            start = left.pop()[0] if code == before else lo
            end = right.pop()[1] if code == after else hi
            new = [*left, (start, end, code), *right]
        for first, last, other in new:  # before what goes, so that no code in use is given up
            self._count(other, last - first + 1)
        for first, last, other in old:
            self._count(other, first - last - 1)
        self._erase(lo, hi + 1)
        if code != before:
            self._insert(lo, code)
        if code != after:
            self._insert(hi + 1, after)
        return {first for first, _, _ in {*old} ^ {*new}}

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
        for first, last, code in self._touching(row, row):
            return Span(first, last, self._values[code])
        return None

    def within(self, lo: int, hi: int = ABOVE_ALL) -> Iterator[Span[V]]:
        """The spans, or parts of them, from row ``lo`` to ``hi``."""
        for first, last, code in self._touching(lo, hi):
            yield Span(max(lo, first), min(hi, last), self._values[code])

    def gaps(self, lo: int, hi: int) -> Iterator[tuple[int, int]]:
        """The ranges of rows without a value from row ``lo`` to ``hi``."""
        for first, last, _ in self._touching(lo, hi):
            if lo < first:
                yield lo, first - 1
            lo = last + 1
        if lo <= hi:
            yield lo, hi

    def where(self, holds: Callable[[V], bool], row: int = 0) -> Iterator[Span[V]]:
        """The spans with such values, or parts of them, from that row on."""
        codes = {code for value, code in self._codes.items() if holds(value)}
        if not codes or row >= self.end:
            return
        at, place = self._find(row)
        for index in range(max(0, at), len(self._pages)):
            keys = self._pages[index]
            for key in range(place, len(keys)):  # there can be 100,000 of them before the first
                if (code := keys[key] & _CODES) in codes:
                    is_last = key + 1 == len(keys)
                    hi = self._row(index + is_last, 0 if is_last else key + 1) - 1
                    yield Span(max(row, self._row(index, key)), hi, self._values[code])
            place = 0

    @property
    def first_row(self) -> int | None:
        """The first row that has a value."""
        return self._row(0, 0) if self._pages else None

    @property
    def end(self) -> int:
        """The row behind the last one that has a value; 0: none has one."""
        return self._row(-1, -1) if self._pages else 0

    def __iter__(self) -> Iterator[Span[V]]:
        return self.within(0)

    def __reversed__(self) -> Iterator[Span[V]]:
        return self.descending(ABOVE_ALL)

    def descending(self, row: int) -> Iterator[Span[V]]:
        """The spans that begin at this row or before, the last one first."""
        at, place = self._find(row)
        hi = row
        if row < self.end:
            hi = next((last for _, last, _ in self._touching(row, row)), row)
        while at >= 0:
            keys, page = self._pages[at], self._numbers[at] << _PAGE_BITS
            for index in range(place, -1, -1):
                lo, code = page + (keys[index] >> _CODE_BITS), keys[index] & _CODES
                if code != _NO_VALUE:
                    yield Span(lo, hi, self._values[code])
                hi = lo - 1
            at -= 1
            place = len(self._pages[at]) - 1

    def totals(self) -> Iterator[tuple[V, int]]:
        """How many rows hold each value, in the order in which the values came."""
        return zip(self._codes, self._totals.values(), strict=True)

    @property
    def total(self) -> int:
        """How many rows hold any value."""
        return sum(self._totals.values())

    # Values and their codes

    def _code(self, value: V | None) -> int:
        if value is None:
            return _NO_VALUE
        if value not in self._codes:
            code = self._spare_codes.pop() if self._spare_codes else len(self._codes) + 1
            self._codes[value], self._values[code], self._totals[code] = code, value, 0
        return self._codes[value]

    def _count(self, code: int, rows: int) -> None:
        if code == _NO_VALUE:
            return
        self._totals[code] += rows
        if not self._totals[code]:
            del self._totals[code], self._codes[self._values.pop(code)]
            self._spare_codes.append(code)

    # Boundaries

    def _touching(self, lo: int, hi: int) -> Iterator[tuple[int, int, int]]:
        """The spans that hold a row from ``lo`` to ``hi``, whole: first row, last row, code."""
        if lo >= self.end:  # most questions are about rows behind all others
            return
        at, place = self._find(lo)
        first, code = lo, _NO_VALUE
        for index in range(max(0, at), len(self._pages)):
            keys, page = self._pages[index], self._numbers[index] << _PAGE_BITS
            for turn in range(place, len(keys)):
                key = keys[turn]
                row = page + (key >> _CODE_BITS)
                if code != _NO_VALUE:
                    yield first, row - 1, code
                if row > hi:
                    return
                first, code = row, key & _CODES
            place = 0

    def _row(self, at: int, place: int) -> int:
        """The row of a boundary."""
        return (self._numbers[at] << _PAGE_BITS) + (self._pages[at][place] >> _CODE_BITS)

    def _find(self, row: int) -> tuple[int, int]:
        """Page and place of the last one up to this row; (-1, 0): there is none."""
        at = bisect_right(self._numbers, row >> _PAGE_BITS) - 1
        if at < 0:
            return -1, 0
        place = len(self._pages[at]) - 1
        if self._numbers[at] == row >> _PAGE_BITS:
            place = bisect_right(self._pages[at], _least_key(row) + _CODES) - 1
            if place < 0:
                at -= 1
                place = len(self._pages[at]) - 1 if at >= 0 else 0
        return at, place

    def _append(self, lo: int, hi: int, code: int) -> int | None:
        """Add rows behind all others, as each commit does. Without a search, so that it is cheap.

        Returns:
            The first row of the span that they are in; ``None``: they are not behind all others.
        """
        first = lo
        if not self._pages:
            self._insert(lo, code)
        else:
            keys, end = self._pages[-1], self.end
            if lo < end:
                return None
            if lo > end:
                self._insert(lo, code)
            else:
                at, place = (-1, -2) if len(keys) > 1 else (-2, -1)
                if self._pages[at][place] & _CODES == code:  # it joins the last span
                    first = self._row(at, place)
                    keys.pop()
                    if not keys:
                        del self._pages[-1], self._numbers[-1]
                else:
                    keys[-1] |= code
        self._insert(hi + 1, _NO_VALUE)
        self._totals[code] += hi - lo + 1
        return first

    def _insert(self, row: int, code: int) -> None:
        page, key = row >> _PAGE_BITS, (row & _PLACES) << _CODE_BITS | code
        at = len(self._numbers) - 1
        if at < 0 or self._numbers[at] != page:
            at = bisect_left(self._numbers, page)
            if self._numbers[at : at + 1] != [page]:
                self._numbers.insert(at, page)
                self._pages.insert(at, array("Q"))
        keys = self._pages[at]
        if keys and key > keys[-1]:
            keys.append(key)
        else:
            insort(keys, key)

    def _erase(self, lo: int, hi: int) -> None:
        """Remove those from row ``lo`` to ``hi``."""
        at = bisect_left(self._numbers, lo >> _PAGE_BITS)
        while at < len(self._numbers) and self._numbers[at] <= hi >> _PAGE_BITS:
            keys, page = self._pages[at], self._numbers[at]
            begin = bisect_left(keys, _least_key(lo)) if page == lo >> _PAGE_BITS else 0
            end = (
                bisect_left(keys, _least_key(hi) + _CODES)
                if page == hi >> _PAGE_BITS
                else len(keys)
            )
            del keys[begin:end]
            if keys:
                at += 1
            else:
                del self._pages[at], self._numbers[at]


def _least_key(row: int) -> int:
    return (row & _PLACES) << _CODE_BITS


def runs(rows: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending row numbers as ranges, both ends included."""
    found: list[tuple[int, int]] = []
    for row in rows:
        if found and found[-1][1] == row - 1:
            found[-1] = (found[-1][0], row)
        else:
            found.append((row, row))
    return found


def first_rows(ranges: Iterable[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    """The first rows of these ranges, at most ``limit``."""
    found: list[tuple[int, int]] = []
    for lo, hi in ranges:
        found.append((lo, min(hi, lo + limit - 1)))
        limit -= found[-1][1] - lo + 1
        if not limit:
            break
    return found
