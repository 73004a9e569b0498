"""Where each row of the queue is. Pure bookkeeping: no disk, no lock, no clock.

Each row is in exactly one of four places:

- ``marks``: what became of it (delivered, refused, no answer, gone). The disk follows: what
  differs from it is in ``take_changes`` and goes with the next transaction.
- ``ready_rows.free``: it may be handed out.
- ``leases``: it is in a batch that is out, and in no other batch until that one comes back. A
  lease is in memory only: after a crash its rows are sent again.
- on its way to the disk: ``admit`` frees it when it is there.

Two exceptions. The rows of a batch that got no answer, once they are ready again, are free or
leased and keep a READY mark that holds them together, so that even after a crash they travel as
the batch that they were. And the rows that are ``away``, in a file that was set aside, are never
free.

Memory grows with the number of ranges. So thinning leaves no holes among the rows that it keeps: it
gives them new numbers next to each other.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import NamedTuple

from telemetry_agent.ackqueue.away_rows import Arrival, AwayRows
from telemetry_agent.ackqueue.ranges import Span, first_rows, runs
from telemetry_agent.ackqueue.ready_rows import NO_BATCH, Plan, ReadyRows
from telemetry_agent.ackqueue.row_states import (
    ACKED,
    DAMAGED,
    PURGED,
    REASONS_IN_MEMORY,
    THINNED,
    UNCOUNTED,
    UNUSED,
    Loaded,
    RowState,
    State,
    dead_letter,
    without_reason,
)
from telemetry_agent.ackqueue.streams import Streams
from telemetry_agent.model import Batch

SPANS_PER_HOLD = 500
"""Marks that are looked at under one hold of the memory lock, which takes some milliseconds."""
_RUNS_AT_ONCE = 250


class Window(NamedTuple):
    """Free rows ``lo`` to ``hi`` that may be thinned, and numbers up to ``top`` that are unused."""

    lo: int
    hi: int
    top: int


class Ledger:
    """The places of all rows, and every way to move one."""

    def __init__(self, loaded: Loaded) -> None:
        """Take over what was loaded: its rows are backlog."""
        self.marks = loaded.marks
        self.streams = Streams(loaded.streams, loaded.marks)
        self.ready_rows = ReadyRows(newest=loaded.last)
        self.leases: dict[int, Plan] = {}
        self._changed: set[int] = set()
        self.away = AwayRows(self.marks, self._mark)
        self._leased = 0
        self.moves = 0
        """How often thinning gave rows other numbers."""
        self._admit_run(1, loaded.last)

    # The disk

    def take_changes(self) -> dict[int, Span[RowState] | None]:
        """Take some marks that the disk does not know, by first row. ``None``: there is none."""
        changes: dict[int, Span[RowState] | None] = {}
        while self._changed and len(changes) < SPANS_PER_HOLD:
            lo = self._changed.pop()
            changes[lo] = self.marks.starting_at(lo)
        return changes

    def give_back_changes(self, marks: Iterable[int]) -> None:
        """Note that these changes did not reach the disk: they are taken again."""
        self._changed.update(marks)

    def forget_reasons(self, marks: Iterable[Span[RowState] | None]) -> None:
        """Drop most reasons of these marks from memory: they are in the file now."""
        reasoned = [span for span in marks if span is not None and _has_reason(span.value)]
        if not reasoned:
            return
        known = [mark for mark, _ in self.marks.totals() if _has_reason(mark)]
        excess = set(known[REASONS_IN_MEMORY:])
        for span in reasoned:
            if span.value in excess and self.marks.starting_at(span.lo) == span:
                neighbours = map(self.marks.value_at, (span.lo - 1, span.hi + 1))
                self.marks.paint(span.lo, span.hi, without_reason(*neighbours))

    # Rows that are in no batch

    def admit(self, rows: Iterable[int]) -> None:
        """Note that these rows are on disk. Those that are ready may be handed out."""
        for lo, hi in runs(rows):
            self._admit_run(lo, hi)

    def lose(self, ranges: Collection[tuple[int, int]], mark: RowState) -> None:
        """Mark these rows as gone; the mark has the reason."""
        with self._within_reach(ranges):
            for lo, hi in ranges:
                self.ready_rows.free.paint(lo, hi, None)
                self._mark(lo, hi, mark)

    def lose_oldest(self, mark: RowState, limit: int, upto: int) -> None:
        """Give up the oldest free rows: at most this many, and none after that row."""
        spans = self.ready_rows.free.within(1, upto)
        self.lose(first_rows((span[:2] for span in spans), limit), mark)

    def renumber(self, lo: int, hi: int) -> None:
        """Leave these numbers: rows that wait in memory get others. Lost ones stay counted."""
        for gap in list(self.marks.gaps(lo, hi)):
            self._mark(*gap, UNUSED)

    def resume(self) -> int:
        """Make ready what got no answer. Returns how many rows."""
        spans = list(self._in_state(State.UNACK))
        for span in spans:
            self._mark(span.lo, span.hi, span.value._replace(state=State.READY))
            self._free(span.lo, span.hi, span.value.batch or NO_BATCH)
        return sum(span.size for span in spans)

    def make_ready(self, ranges: Collection[tuple[int, int]]) -> None:
        """Make these ready, in no batch: dead letters, delivered ones, a batch to be dissolved."""
        with self._within_reach(ranges):
            for lo, hi in ranges:
                # A row that has not arrived has its state in a damaged file: the mark overrules it.
                if self.away.any:
                    self._mark(lo, hi, RowState(State.READY))
                for first, last in self.away.parts_here(lo, hi):
                    self._mark(first, last, None)
                    self._free(first, last)

    # Thinning

    def thinnable(self, below: int, limit: int) -> Window | None:
        """The last free rows before ``below``, at most ``limit``, that lie next to each other."""
        newest = self.ready_rows.newest
        for span in self.ready_rows.free.descending(below - 1):
            hi = min(span.hi, below - 1)
            # Rows stay within the run of their stream, which derives their seq from their number.
            first, end = self.streams.bounds(hi)
            lo = max(span.lo, hi - limit + 1, first)
            # The last window left unused numbers below its rows. The rows that stay of this one
            # move to the upper end of that hole, so that all unused numbers remain one range.
            hole = self.marks.span_at(hi + 1)
            top = min(hole.hi, end - 1) if hole is not None and hole.value == THINNED else hi
            if hi <= newest:  # none may cross the line between backlog and live
                return Window(lo, hi, min(top, newest))
            return Window(max(lo, newest + 1), hi, top)
        return None

    def thin(self, window: Window, kept: int) -> range:
        """Keep this many of the rows. Returns their new numbers, to ``admit`` when on disk."""
        self.ready_rows.free.paint(window.lo, window.hi, None)
        # First remove all marks, also that of the hole behind the window. Then one mark covers the
        # numbers that come free. The rows that stay have none: they are free once they are written.
        self._mark(window.lo, window.top, None)
        first = window.top - kept + 1
        self._mark(window.lo, first - 1, THINNED)
        self.moves += 1
        return range(first, window.top + 1)

    # Rows that are away

    def mark_known(self, first: int, last: int) -> int:
        """Give the next rows from ``first`` to ``last`` a mark, before ``send_away``.

        The file may still have an old mark for a row that memory knows to be ready, and in no
        batch: to have no mark would not overrule it. Rows that are away get no READY mark, since
        their state is not known.

        Returns:
            The last row that it came to.
        """
        spans = list(islice(self.marks.within(first, last), SPANS_PER_HOLD))
        upto = spans[-1].hi if len(spans) == SPANS_PER_HOLD else last
        # The new file is empty: it gets every mark.
        self._changed.update(span.lo for span in spans)
        parts = self.away.parts_here(first, upto)
        for gap in [gap for part in parts for gap in self.marks.gaps(*part)]:
            self._mark(*gap, RowState(State.READY))
        return upto

    def send_away(self, last: int, border: int) -> None:
        """Set aside the rows up to ``last`` with their file; new ones follow ``border``."""
        self.away.begin(last, border)
        # The leases stay: the answers to them count, although the rows are in the old file.
        self.ready_rows = ReadyRows(newest=border)
        self._changed.update(span.lo for span in self.marks.within(last + 1))
        self.streams.all_changed()

    def arrive(self, found: Arrival, there: Sequence[int]) -> set[int]:
        """Take over rows that were away, to store and then ``admit``; see ``AwayRows.take``."""
        wanted = self.away.take(found, there, self.leased())
        self.admit(there)
        return wanted

    # Batches

    def choose(self, limit: int, *, live_first: bool, row: int = 1) -> Plan | None:
        """The rows for the next batch; see ``ReadyRows.choose``. They are still free."""
        plan = self.ready_rows.choose(limit, live_first=live_first, row=row)
        # A batch without an answer comes whole, so that the endpoint recognises the repeat. If that
        # is more than fits now, the batch is dissolved.
        if plan is not None and plan.batch != NO_BATCH and plan.size > limit:
            self.make_ready(plan.ranges)
            plan = self.ready_rows.choose(limit, live_first=live_first, row=row)
        return plan

    def lease(self, rows: Iterable[int], plan: Plan) -> int:
        """Hand out rows of the plan as a batch. Returns the number of the lease."""
        lease = Plan(runs(rows), plan.live, plan.batch)
        with self._within_reach(lease.ranges):
            self.ready_rows.hand_out(lease.ranges)
        self._leased += 1
        self.leases[self._leased] = lease
        return self._leased

    def split(self, batch: Batch, at: int) -> tuple[int, int]:
        """Make one lease two. Returns their numbers."""
        lease = self._end_lease(batch)
        rows = list(lease.rows())
        if lease.batch != NO_BATCH:  # it is never sent again as it was
            self.make_ready(lease.ranges)
            lease = lease._replace(batch=NO_BATCH)
        return self.lease(rows[:at], lease), self.lease(rows[at:], lease)

    def ack(self, batch: Batch, rejected: Mapping[int, str], retry: Collection[int]) -> None:
        """Mark the batch as delivered, except for the seqs given."""
        lease = self._end_lease(batch)
        self._mark_all(lease.ranges, ACKED)
        if not rejected and not retry:
            return
        with self._within_reach(lease.ranges):
            for row, record in zip(lease.rows(), batch.records, strict=True):
                if record.seq in rejected:
                    self._mark(row, row, dead_letter(rejected[record.seq]))
                elif record.seq in retry:
                    self.make_ready([(row, row)])

    def fail(self, batch: Batch, reason: str) -> None:
        """Make dead letters of the batch."""
        self._mark_all(self._end_lease(batch).ranges, dead_letter(reason))

    def give_back(self, batch: Batch) -> None:
        """Make the batch ready, as it was before."""
        lease = self._end_lease(batch)
        with self._within_reach(lease.ranges):
            for lo, hi in lease.ranges:
                self._free(lo, hi, lease.batch)

    def suspend(self, batch: Batch) -> None:
        """Mark the batch as unanswered."""
        lease = self._end_lease(batch)
        # Its name is the first row that it has now: the rows before it may have been found damaged
        # since the batch was last sent.
        self._mark_all(lease.ranges, RowState(State.UNACK, batch=lease.ranges[0][0]))

    # Questions

    def in_state(self, state: State, limit: int, row: int = 1) -> list[tuple[int, int]]:
        """The first rows in one state from that row on, at most ``limit``, in not too many runs."""
        spans = islice(self._in_state(state, row), _RUNS_AT_ONCE)
        return first_rows((span[:2] for span in spans), limit)

    def first_here(self, state: State, limit: int) -> list[tuple[int, int]]:
        """The first rows in one state that are not away, at most ``limit``."""
        spans = self._in_state(state)
        here = chain.from_iterable(self.away.parts_here(span.lo, span.hi) for span in spans)
        return first_rows(here, limit)

    def on_disk(self, lo: int, hi: int) -> int:
        """How many of these rows should be there."""
        count = 0
        for first, last in self.away.parts_here(lo, hi):
            spans = self.marks.within(first, last)
            # Up to GONE are the states without a row: AWAY, UNUSED, GONE.
            gone = sum(span.size for span in spans if span.value.state <= State.GONE)
            count += last - first + 1 - gone
        return count

    def lost(self) -> Counter[str]:
        """How many rows were lost, by reason."""
        return Counter(
            {
                mark.reason: rows
                for mark, rows in self.marks.totals()
                if mark.state is State.GONE and mark.reason is not None
            }
        )

    def lost_or_refused(self) -> int:
        """How many rows are dead letters, or were lost to damage."""
        return sum(
            rows
            for mark, rows in self.marks.totals()
            if mark.state is State.ACK_FAILED or mark in {DAMAGED, UNCOUNTED}
        )

    def leased(self) -> list[tuple[int, int]]:
        """The rows in batches that are out."""
        return [rows for lease in self.leases.values() for rows in lease.ranges]

    def in_flight(self) -> int:
        """How many rows are in batches that are out."""
        return sum(hi - lo + 1 for lo, hi in self.leased())

    def state_of(self, row: int) -> RowState:
        """What became of a committed row."""
        return self.marks.value_at(row) or RowState(State.READY)

    def pending(self, last: int) -> int:
        """How many of the rows up to ``last`` are neither delivered, nor refused, nor gone."""
        ranges = [*self.leased(), *(span[:2] for span in self._in_state(State.UNACK))]
        free = self.ready_rows.free
        above = sum(span.size for span in free.within(last + 1))
        return free.total - above + sum(min(hi, last) - lo + 1 for lo, hi in ranges if lo <= last)

    def oldest_pending(self, after: int = 0) -> int | None:
        """The first row after that one that is neither delivered, nor refused, nor gone."""
        rows = [max(lo, after + 1) for lo, hi in self.leased() if hi > after]
        if (free := self.ready_rows.free.first_row(after + 1)) is not None:
            rows.append(free)
        if (unack := next(self._in_state(State.UNACK, after + 1), None)) is not None:
            rows.append(unack.lo)
        return min(rows, default=None)

    def _in_state(self, state: State, row: int = 1) -> Iterator[Span[RowState]]:
        return self.marks.where(lambda mark: mark.state is state, row)

    def _admit_run(self, lo: int, hi: int) -> None:
        row = lo
        for first, last, mark in self.marks.within(lo, hi):
            if row < first:  # a row without a mark is ready
                self._free(row, first - 1)
            if mark.state is State.READY:
                self._free(first, last, mark.batch or NO_BATCH)
            row = last + 1
        if row <= hi:
            self._free(row, hi)
        # A row of a batch that is out can be admitted again: it was away and arrived now, or its
        # write was repeated. It stays in its batch.
        for first, last in self.leased():
            if first <= hi and lo <= last:
                self.ready_rows.free.paint(first, last, None)

    def _free(self, lo: int, hi: int, batch: int = NO_BATCH) -> None:
        """Let these be handed out, except those that are away: they cannot be read yet."""
        for first, last in self.away.parts_here(lo, hi):
            self.ready_rows.free.paint(first, last, batch)

    @contextmanager
    def _within_reach(self, ranges: Collection[tuple[int, int]]) -> Iterator[None]:
        with self.marks.within_reach(ranges), self.ready_rows.free.within_reach(ranges):
            yield

    def _mark_all(self, ranges: Collection[tuple[int, int]], mark: RowState) -> None:
        with self._within_reach(ranges):
            for lo, hi in ranges:
                self._mark(lo, hi, mark)

    def _mark(self, lo: int, hi: int, mark: RowState | None) -> None:
        if lo <= hi:
            self._changed |= self.marks.paint(lo, hi, mark)
            if mark != PURGED:  # a delivered row counts as delivered also when it is deleted
                self.streams.reopen(lo, hi)

    def _end_lease(self, batch: Batch) -> Plan:
        lease = self.leases.pop(batch.lease, None)
        if lease is None:
            raise ValueError(
                f"batch {batch.lease} is not out: it was acknowledged, failed, released or split"
            )
        return lease


def _has_reason(mark: RowState) -> bool:
    return mark.state is State.ACK_FAILED and mark.reason is not None
