"""The rows that are still in files that were set aside. Pure, a part of the ledger.

A file that takes the place of another begins with a mark: the numbers up to its border
(``generations``) are AWAY. While that mark is there, the files that were set aside are the only
record of the rows below it. They are read from the first row on, in portions. So no progress is
stored, and after a kill everything is read again: to take a portion a second time changes nothing.

Five places know something of an away row. The first one that does decides:

1. A mark in this file, other than AWAY: what became of the row since. A row that has not arrived
   can be delivered (its batch was out), made ready, or discarded.
2. A lease: the row is in a batch that is out, and the answer will mark it.
3. The row in this file, without a mark: it arrived before and is ready.
4. The files that were set aside, the newest first: a mark, or the row without a mark, which is
   ready.
5. Its number. A number that is in no file is that of a delivered row, unused, or lost; see
   ``_miss_unmarked``.

No fix is sent twice by this: an away row is never free, so it cannot be leased before it arrives.
Only if the old file has lost the mark of a delivered fix is that fix sent again, under its own
name.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from telemetry_agent.ackqueue.generations import next_border, spare_below
from telemetry_agent.ackqueue.ranges import RangeMap, Span, runs
from telemetry_agent.ackqueue.row_states import DAMAGED, PURGED, UNCOUNTED, UNUSED, RowState, State

_READY = RowState(State.READY)

_IF_MISSED = {
    State.AWAY: UNUSED,  # no row had this number when the file began
    State.READY: DAMAGED,  # these three were stored and never deleted
    State.UNACK: DAMAGED,
    State.ACK_FAILED: DAMAGED,
    State.ACKED: PURGED,  # delivered, so nothing is lost
}
"""The mark of a row that was not found, by the mark that it had. UNUSED and GONE stay: they have no
row."""


class Arrival(NamedTuple):
    """What the files that were set aside hold of the rows up to one number."""

    upto: int
    rows: Collection[int]
    """The sound ones, ascending."""
    marks: Iterable[Span[RowState]]
    first_without_marks: Callable[[int], int | None]
    """Of the generation with a number. ``None``: its file has marks. Otherwise the first row that
    was found of it, or its first number."""
    oldest_pending: Callable[[int], int | None]
    """Of the generation with a number, as the AWAY marks of these files say."""


class AwayRows:
    """Which rows are away, and what becomes of them as they arrive."""

    def __init__(
        self, marks: RangeMap[RowState], mark: Callable[[int, int, RowState | None], None]
    ) -> None:
        """Find out by the marks.

        Args:
            marks: Of the ledger.
            mark: Changes the mark of a range of rows, which can be empty, and has it written.
        """
        self._marks = marks
        self._mark = mark
        spans = list(marks.where(lambda mark: mark.state is State.AWAY))
        # These numbers are away, or none. Every start begins again with the first.
        self.first, self._border = 1, spans[-1].hi if spans else 0
        self._oldest_pending = {span.hi: span.value.oldest_pending for span in spans}

    @property
    def any(self) -> bool:
        """Whether rows can still come out of files that were set aside."""
        return self.first <= self._border

    @property
    def last(self) -> int:
        """The last number below the border; see ``first``."""
        return self._border - 1

    def begin(self, last: int, border: int) -> None:
        """Set aside the rows up to ``last``; new ones follow ``border``. Known ones have a mark."""
        gaps = list(self._marks.gaps(last + 1, border - 1))
        # If that file had no rows of its own, this generation ends where that one did. If rows are
        # still away from an earlier file, the border has its mark then.
        if self._border != border:
            gaps.append((border, border))
        # 1: no row counts as delivered only because it has no mark.
        for gap in gaps:
            self._mark(*gap, RowState(State.AWAY, oldest_pending=1))
            self._oldest_pending[gap[1]] = 1
        self.first, self._border = 1, border  # they are read again from the first

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
        lo, upto = self.first, min(found.upto, self.last)
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
        for gap in present.gaps(lo, upto):
            self._miss(*gap, found)
        self.first = upto + 1
        return set(wanted)

    def end(self) -> None:
        """Note that no more can arrive: all numbers below the border have been looked for."""
        self._mark(self._border, self._border, UNUSED)
        self.first, self._border, self._oldest_pending = 1, 0, {}

    def parts_here(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """The parts of these rows that are not away."""
        parts = [(lo, min(hi, self.first - 1)), (max(lo, self._border + 1), hi)]
        return [part for part in parts if part[0] <= part[1]]

    def _may_arrive(self, row: int) -> bool:
        mark = self._marks.value_at(row)
        return mark is None or mark.state not in {State.GONE, State.UNUSED}

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

    def _miss(self, lo: int, hi: int, found: Arrival) -> None:
        """Mark rows that are in no file."""
        for span in list(self._marks.within(lo, hi)):
            mark = _IF_MISSED.get(span.value.state)
            if mark is not None:
                self._mark(span.lo, span.hi, mark)
        for first, last in list(self._marks.gaps(lo, hi)):
            while first <= last:
                end = min(last, next_border(first))
                self._miss_unmarked(first, end, found)
                first = end + 1  # noqa: PLW2901 - the rest is of the next generation

    def _miss_unmarked(self, lo: int, hi: int, found: Arrival) -> None:
        """Mark numbers of one generation without a row and without a mark in any file.

        ::

            lo           oldest_pending                                     hi
            |-- delivered --|-- perhaps never used, or used and lost --------|
                PURGED               UNUSED              DAMAGED

        Delivered: every row below the oldest one that was pending.

        Perhaps never used: no row has the spare number of a generation. If that is one of these, or
        if UNCOUNTED marks follow them up to it, the mark that should follow the last row of the
        generation is lost. Then nothing shows where its rows ended, and what is missing cannot be
        counted.

        Used and lost: a file uses its numbers one by one, and a row or a mark follows these.
        """
        pending = max(lo, self._oldest_pending_of(lo, found))
        self._mark(lo, min(hi, pending - 1), PURGED)
        spare = spare_below(next_border(lo))
        if hi < spare and self._marks.value_at(hi + 1) != UNCOUNTED:
            self._mark(pending, hi, DAMAGED)
        elif pending <= hi:
            self._mark(pending, hi, UNUSED)
            self._mark(spare, spare, UNCOUNTED)

    def _oldest_pending_of(self, row: int, found: Arrival) -> int:
        """The row below which a number of this generation without row and mark was delivered."""
        first = found.first_without_marks(row)
        if first is None:
            return 0  # a delivered row has a mark there
        oldest = self._oldest_pending[min(hi for hi in self._oldest_pending if hi >= row)]
        if oldest is None:
            oldest = found.oldest_pending(row)
        if oldest is not None:
            return oldest
        # Nothing shows what was before the first row that was found. It counts as delivered; if it
        # was not, the loss cannot be counted.
        if row < first:
            spare = spare_below(next_border(row))
            self._mark(spare, spare, UNCOUNTED)
        return first
