"""The rows that are still in files that were set aside. Pure, a part of the ledger.

A file that takes the place of another begins with a mark: the numbers up to the end of a generation
are AWAY. While that mark is there, the files that were set aside are the only record of the rows
below it. They are read from the first row on, in portions; what this file holds already, as a row
or in a mark, stays as it is. So no progress is stored, and after a kill everything is read again.
Meanwhile marks and leases mean what they always do, also for a row that has not arrived: its lease
can end, and it can be a dead letter that is discarded.

No fix is sent twice by this: an away row cannot be leased before it arrives, and what the new file
says of it counts more than what the old one says. Only if the old file has lost the mark of a
delivered fix is that fix sent again, under its own name.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from telemetry_agent.ackqueue.ranges import RangeMap, Span, runs
from telemetry_agent.ackqueue.row_states import DAMAGED, PURGED, UNCOUNTED, UNUSED, RowState, State

_GENERATION_BITS = 32
_READY = RowState(State.READY)


def generation_before(row: int) -> int:
    """The last number before the generation of this row.

    A file that takes the place of another begins a generation: its new rows get numbers above all
    that the other can have used, and what is carried over keeps its own.
    """
    return (row - 1) >> _GENERATION_BITS << _GENERATION_BITS


def generation_after(row: int) -> int:
    """The last number of the generation of this row."""
    return generation_before(max(row, 1)) + (1 << _GENERATION_BITS)


class Arrival(NamedTuple):
    """What the files that were set aside hold of the rows up to one number."""

    upto: int
    rows: Collection[int]
    """The sound ones, ascending."""
    marks: Iterable[Span[RowState]]
    first: int
    """The first row of all if no mark was found: what was before it is unknown. Otherwise 0."""


class AwayRows:
    """Which rows are away, and what becomes of them as they arrive."""

    def __init__(
        self, marks: RangeMap[RowState], mark: Callable[[int, int, RowState | None], None]
    ) -> None:
        """Find out by the marks.

        Args:
            marks: Of the ledger.
            mark: Changes the mark of some rows, and has it written.
        """
        self._marks = marks
        self._mark = mark
        self.first, self.last = 1, 0
        self._oldest: int | None = None  # with an AWAY mark: below it all was delivered
        self._uncounted = False  # rows may be missing, and their number is not known
        self._find()

    @property
    def any(self) -> bool:
        """Whether rows can still come out of files that were set aside."""
        return self.first <= self.last

    def begin(self, last: int, hi: int) -> None:
        """All rows up to ``last`` are in a file that was set aside; new ones come after ``hi``."""
        # Before the old marks end, because they define what is away. Rows that are still away from
        # an earlier file get no READY mark, since their state is not known.
        known = self.other_parts(1, last)
        self._end_marks()
        # That file may still have an old mark for a row that memory knows to be ready, and in no
        # batch. To have no mark would not overrule it.
        for gap in [gap for part in known for gap in self._marks.gaps(*part)]:
            self._mark(*gap, _READY)
        # If that file had no rows of its own, this generation ends where that one did: then ``hi``
        # has a mark already.
        for gap in [*self._marks.gaps(last + 1, hi - 1), (hi, hi)]:
            self._mark(*gap, RowState(State.AWAY, batch=1))
        self._find()

    def take(
        self, found: Arrival, there: Sequence[int], leased: Iterable[tuple[int, int]]
    ) -> set[int]:
        """Take over what was found of the next rows. To repeat it changes nothing.

        Args:
            found: What the files that were set aside hold of them.
            there: Those that this file holds, ascending.
            leased: Those that are in a batch.

        Returns:
            The rows that are to be stored.
        """
        lo, upto = self.first, min(found.upto, self.last - 1)
        if upto < lo:
            return set()
        present: RangeMap[bool] = RangeMap()
        for first, last in chain(runs(there), leased):
            present.paint(first, last, value=True)
        self._adopt(found.marks, lo, upto, present)
        known = set(there)
        wanted = [
            row
            for row in found.rows
            if lo <= row <= upto and row not in known and self._may_arrive(row)
        ]
        for first, last in runs(wanted):
            present.paint(first, last, value=True)
            for span in list(self._marks.within(first, last)):
                # A row that is here needs no mark to be ready. One with the mark AWAY was recorded
                # after the last number that was known when this file began.
                if span.value == _READY or span.value.state is State.AWAY:
                    self._mark(span.lo, span.hi, None)
        # 0: the files have marks, so each number speaks for itself. Otherwise what is below the
        # oldest pending row, by the summary beside the lock, was delivered. Without a summary it is
        # not known what was before the first row that was found.
        oldest = found.first and (self._oldest or found.first)
        self._uncounted |= found.first > 1 and self._oldest is None
        for gap in present.gaps(lo, upto):
            self._miss(*gap, oldest)
        self.first = upto + 1
        return set(wanted)

    def end(self) -> None:
        """Take note that no more can arrive: the numbers that were not found are unused."""
        self._end_marks()
        if self._uncounted:  # this number is free: no file holds that many rows
            self._mark(self.last - 1, self.last - 1, UNCOUNTED)
        self._find()

    def parts(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """The part of these rows that is away."""
        part = max(lo, self.first), min(hi, self.last)
        return [part] if part[0] <= part[1] else []

    def other_parts(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """The parts that are not."""
        if not self.any:
            return [(lo, hi)]
        parts = [(lo, min(hi, self.first - 1)), (max(lo, self.last + 1), hi)]
        return [part for part in parts if part[0] <= part[1]]

    def _may_arrive(self, row: int) -> bool:
        mark = self._marks.value_at(row)
        return mark is None or mark.state not in {State.GONE, State.UNUSED}

    def _end_marks(self) -> None:
        for span in list(self._marks.where(_is_away)):
            self._mark(span.lo, span.hi, UNUSED)

    def _find(self) -> None:
        """Begin with the first row: every start reads again all that is away."""
        spans = list(self._marks.where(_is_away))
        self.first, self.last = 1, spans[-1].hi if spans else 0
        self._oldest = spans[-1].value.batch if spans else None
        self._uncounted = False

    def _adopt(
        self, marks: Iterable[Span[RowState]], lo: int, hi: int, present: RangeMap[bool]
    ) -> None:
        """Take over the marks of a damaged file, except where this one has a mark or the row.

        A row that is here, without a mark, was carried over before: it is ready, whatever it was.
        """
        for first, last, mark in marks:
            if mark.state is State.UNACK:  # as at every start
                mark = mark._replace(state=State.READY)  # noqa: PLW2901
            for absent in list(present.gaps(max(lo, first), min(hi, last))):
                undecided = list(self._marks.gaps(*absent))
                undecided += [
                    span[:2]
                    for span in self._marks.within(*absent)
                    # The mark of a dead letter can be here without its reason, which is there.
                    if span.value.state is State.AWAY
                    or (
                        span.value.state is mark.state is State.ACK_FAILED and not span.value.reason
                    )
                ]
                for gap in undecided:
                    self._mark(*gap, mark)

    def _miss(self, lo: int, hi: int, oldest: int) -> None:
        """Mark rows that were not found: those that should have been there are lost."""
        for span in list(self._marks.within(lo, hi)):
            if span.value.state in {State.ACKED, State.AWAY}:
                self._mark(*span[:2], PURGED if span.value.state is State.ACKED else UNUSED)
            elif span.value.state not in {State.GONE, State.UNUSED}:
                self._mark(span.lo, span.hi, DAMAGED)
        for first, last in list(self._marks.gaps(lo, hi)):
            # Three parts. Below ``oldest`` all were delivered. From there up to ``before``, the
            # last border that is known, a number may never have been used. Above it, in a closed
            # generation, each was used, so a missing one is damage. A generation ends with a mark
            # where the next begins (no file holds that many rows): without it, its end is unknown.
            is_open = generation_before(last + 2) > last
            before = last if is_open else generation_before(last + 1)
            self._uncounted |= max(first, oldest) <= before
            self._mark(first, min(last, oldest - 1), PURGED)
            self._mark(max(first, oldest), min(last, before), UNUSED)
            self._mark(max(first, oldest, before + 1), last, DAMAGED)


def _is_away(mark: RowState) -> bool:
    return mark.state is State.AWAY
