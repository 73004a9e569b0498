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

from telemetry_agent.ackqueue.generations import border_up_to, spare_below
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
    first_without_marks: int | None
    """``None``: the files have marks. Otherwise the first row of all; 1 without any row."""


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
        self.first, self._border = 1, 0  # these numbers are away, or none
        self._oldest_pending: int | None = None  # see ``RowState``
        self._uncounted = False  # rows may be missing, and their number is not known
        self._find()

    @property
    def any(self) -> bool:
        """Whether rows can still come out of files that were set aside."""
        return self.first <= self._border

    @property
    def last(self) -> int:
        """The last number below the border; see ``first``."""
        return self._border - 1

    def begin(self, last: int, border: int) -> None:
        """All rows up to ``last`` are in a file that was set aside; new ones follow the border."""
        # Before the old marks end, because they define what is away. Rows that are still away from
        # an earlier file get no READY mark, since their state is not known.
        known = self.parts_here(1, last)
        self._end_marks()
        # That file may still have an old mark for a row that memory knows to be ready, and in no
        # batch. To have no mark would not overrule it.
        for gap in [gap for part in known for gap in self._marks.gaps(*part)]:
            self._mark(*gap, _READY)
        # If that file had no rows of its own, this generation ends where that one did: then the
        # border has a mark already. 1: no row counts as delivered only because it has no mark.
        for gap in [*self._marks.gaps(last + 1, border - 1), (border, border)]:
            self._mark(*gap, RowState(State.AWAY, oldest_pending=1))
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
        lo, upto = self.first, min(found.upto, self.last)
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
        oldest_pending = self._oldest_pending_of(found)
        for gap in present.gaps(lo, upto):
            self._miss(*gap, oldest_pending)
        self.first = upto + 1
        return set(wanted)

    def end(self) -> None:
        """Take note that no more can arrive: the numbers that were not found are unused."""
        self._end_marks()
        if self._uncounted:
            spare = spare_below(self._border)
            self._mark(spare, spare, UNCOUNTED)
        self._find()

    def parts_away(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """The part of these rows that is away."""
        part = max(lo, self.first), min(hi, self._border)
        return [part] if part[0] <= part[1] else []

    def parts_here(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """The parts of these rows that are not away."""
        if not self.any:
            return [(lo, hi)]
        parts = [(lo, min(hi, self.first - 1)), (max(lo, self._border + 1), hi)]
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
        self.first, self._border = 1, spans[-1].hi if spans else 0
        self._oldest_pending = spans[-1].value.oldest_pending if spans else None
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

    def _oldest_pending_of(self, found: Arrival) -> int:
        """The row below which a number without a row and without a mark was delivered."""
        if found.first_without_marks is None:
            return 0  # a delivered row has a mark there
        if self._oldest_pending is not None:
            return self._oldest_pending
        # Nothing shows what was before the first row that was found. It counts as delivered; if it
        # was not, the loss cannot be counted.
        self._uncounted |= found.first_without_marks > 1
        return found.first_without_marks

    def _miss(self, lo: int, hi: int, oldest_pending: int) -> None:
        """Mark rows that are in no file."""
        for span in list(self._marks.within(lo, hi)):
            mark = _IF_MISSED.get(span.value.state)
            if mark is not None:
                self._mark(span.lo, span.hi, mark)
        for gap in list(self._marks.gaps(lo, hi)):
            self._miss_unmarked(*gap, oldest_pending)

    def _miss_unmarked(self, lo: int, hi: int, oldest_pending: int) -> None:
        """Mark numbers without a row and without a mark in any file. Two values divide them.

        ::

            lo           oldest_pending           open_upto            hi
            |-- delivered --|-- perhaps never used --|-- used and lost --|
                PURGED               UNUSED                 DAMAGED

        Delivered: every row below the oldest one that was pending.

        Perhaps never used: no row has the spare number of a generation. If that is one of these,
        the mark that should follow the last row of the generation is lost. Then nothing shows where
        its rows ended, and what is missing cannot be counted.

        Used and lost: a file uses its numbers one by one, and a row or a mark follows these.
        """
        # Up to the last border whose spare number is not above ``hi``.
        open_upto = min(hi, border_up_to(hi + 1))
        self._mark(lo, min(hi, oldest_pending - 1), PURGED)
        from_pending = max(lo, oldest_pending)
        if from_pending <= open_upto:
            self._uncounted = True
            self._mark(from_pending, open_upto, UNUSED)
        self._mark(max(from_pending, open_upto + 1), hi, DAMAGED)


def _is_away(mark: RowState) -> bool:
    return mark.state is State.AWAY
