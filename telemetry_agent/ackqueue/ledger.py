"""Where each row of the queue is. Pure bookkeeping: no disk, no lock, no clock.

Each committed row is in exactly one of four places:

- ``marks``: what became of it (delivered, refused, no answer, gone). The disk follows: what
  differs from it is in ``take_changes`` and goes with the next transaction.
- ``ready_rows.free``: it may be handed out.
- ``leases``: it is in a batch that is out, and in nobody else's reach until the batch comes back.
  Nothing of a lease is on disk: to lose it is to send again.
- on its way to the disk: ``settle`` frees it when it is there.

Two exceptions. The rows of a batch that got no answer, once they are ready again, are free or
leased and keep a READY mark that holds them together, so that even after a crash they travel as
the batch that they were. And the rows that are ``away``, in a file that was set aside, are never
free; their marks and leases mean what they always do, also for the row that comes back.

Memory follows the number of ranges. So thinning leaves no holes among the rows that it keeps: it
gives them new numbers next to each other.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from telemetry_agent.ackqueue.ranges import RangeMap, Span, runs
from telemetry_agent.ackqueue.ready_rows import LOOSE, Plan, ReadyRows
from telemetry_agent.ackqueue.row_states import (
    ACKED,
    DAMAGED,
    PURGED,
    THINNED,
    Away,
    Loaded,
    RowState,
    State,
    dead_letter,
)
from telemetry_agent.model import Batch

_GENERATION_BITS = 32


def generation_before(row: int) -> int:
    """The last number before the generation of this row.

    A file that takes the place of another begins a generation: its new rows get numbers above all
    that the other can have used, and what is carried over keeps its own.
    """
    return (row - 1) >> _GENERATION_BITS << _GENERATION_BITS


def generation_after(row: int) -> int:
    """The last number of the generation of this row."""
    return generation_before(max(row, 1)) + (1 << _GENERATION_BITS)


@dataclass(frozen=True, slots=True)
class Lease:
    """The rows of a batch that is out."""

    ranges: list[tuple[int, int]]
    batch: int
    """The batch without an answer that these were before, or ``LOOSE``."""

    def rows(self) -> Iterator[int]:
        """In the order of the batch's records."""
        return chain.from_iterable(range(lo, hi + 1) for lo, hi in self.ranges)


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
        self.away = loaded.away
        self.ready_rows = ReadyRows(newest=loaded.last)
        self.leases: dict[int, Lease] = {}
        self._changed: set[int] = set()
        self._away_changed = False
        self._leased = 0
        self.moves = 0
        """How often thinning gave rows other numbers."""
        self._settle_all(1, loaded.last)

    # The disk

    def take_changes(self) -> tuple[dict[int, Span[RowState] | None], Away | None]:
        """What the disk does not know: marks, by first row, ``None``: there is none; and away."""
        changed, self._changed = self._changed, set()
        away = self.away if self._away_changed else None
        self._away_changed = False
        return {lo: self.marks.starting_at(lo) for lo in changed}, away

    def give_back_changes(self, marks: Iterable[int], away: Away | None) -> None:
        """They did not reach the disk."""
        self._changed.update(marks)
        self._away_changed |= away is not None

    @property
    def has_changes(self) -> bool:
        """Whether any wait for the disk."""
        return bool(self._changed) or self._away_changed

    # Rows that are in no batch

    def settle(self, rows: Iterable[int]) -> None:
        """These are on disk now. Those that are ready may be handed out."""
        for lo, hi in runs(rows):
            self._settle_all(lo, hi)

    def lose(self, lo: int, hi: int, mark: RowState) -> None:
        """These are gone, for the reason that the mark tells."""
        self.ready_rows.free.paint(lo, hi, None)
        self._mark(lo, hi, mark)

    def renumber(self, lo: int, hi: int) -> None:
        """These wait in memory, and get other numbers. None of them counts, gone ones still do."""
        for gap in list(self.marks.gaps(lo, hi)):
            self._mark(*gap, PURGED)

    def damage(self, rows: Iterable[int]) -> None:
        """These are not as they were stored."""
        for lo, hi in runs(rows):
            self.lose(lo, hi, DAMAGED)

    def resume(self) -> int:
        """Make ready what got no answer. Returns how many rows."""
        spans = self.in_state(State.UNACK)
        for span in spans:
            self._mark(span.lo, span.hi, span.value._replace(state=State.READY))
            self._free(span.lo, span.hi, span.value.batch or LOOSE)
        return sum(span.size for span in spans)

    def make_ready(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Make these ready, and loose: dead letters, delivered ones, a batch that fell apart."""
        for lo, hi in ranges:
            self._mark(lo, hi, None)
            self._free(lo, hi)

    # Thinning

    def thinnable(self, below: int, limit: int) -> Window | None:
        """The last free rows before ``below``, at most ``limit``, that lie next to each other."""
        newest = self.ready_rows.newest
        for span in reversed(self.ready_rows.free):
            if span.lo >= below or span.value != LOOSE:
                continue
            hi = min(span.hi, below - 1)
            lo = max(span.lo, hi - limit + 1)
            hole = self.marks.span_at(hi + 1)
            top = hole.hi if hole is not None and hole.value == THINNED else hi
            if hi <= newest:  # none may cross the line between backlog and live
                return Window(lo, hi, min(top, newest))
            return Window(max(lo, newest + 1), hi, top)
        return None

    def thin(self, window: Window, kept: int) -> range:
        """Of these rows so many stay. Returns their new numbers, to ``settle`` when on disk."""
        self.ready_rows.free.paint(window.lo, window.hi, None)
        self._mark(window.lo, window.top, None)
        first = window.top - kept + 1
        self._mark(window.lo, first - 1, THINNED)
        self.moves += 1
        return range(first, window.top + 1)

    def oldest_free(self, limit: int) -> Span[int] | None:
        """The first free rows, at most ``limit``. A batch that got no answer falls apart for it."""
        oldest = next(iter(self.ready_rows.free), None)
        if oldest is not None and oldest.value != LOOSE:
            whole = [span for span in self.ready_rows.free if span.value == oldest.value]
            self.make_ready(span[:2] for span in whole)
            oldest = next(iter(self.ready_rows.free), None)
        return oldest and oldest._replace(hi=min(oldest.hi, oldest.lo + limit - 1))

    # Rows that are away

    @property
    def carrying(self) -> bool:
        """Whether there are any."""
        return self.away is not None and self.away.lo <= self.away.hi

    def send_away(self, last: int, hi: int) -> None:
        """All rows up to ``last`` are in a file that was set aside; new ones come after ``hi``."""
        marked = self.away.marked if self.away is not None and self.carrying else 1
        self.away = Away(1, hi, oldest=0, last=last, marked=marked)
        self._away_changed = True
        self.ready_rows = ReadyRows(newest=hi)
        self._changed = {span.lo for span in self.marks}

    def adopt(self, marks: Iterable[Span[RowState]], first: int) -> None:
        """Take over the marks of what is away.

        Args:
            marks: As they were found; of two for one row the earlier counts.
            first: The first row that is there. Without a mark nobody knows what was before it.
        """
        away = self._away()
        known = False
        for lo, hi, mark in marks:
            if mark.state is State.UNACK:  # as at every start
                mark = mark._replace(state=State.READY)  # noqa: PLW2901
            for gap in list(self.marks.gaps(max(lo, away.lo), min(hi, away.hi))):
                self._mark(*gap, mark)
            known |= max(lo, away.lo) <= min(hi, away.hi)
        oldest = 0 if known else away.oldest or first
        self.away = away._replace(marked=1, oldest=oldest)
        self._away_changed = True

    def arrive(self, upto: int, rows: Collection[int]) -> set[int]:
        """Of the rows up to ``upto`` these, ascending, are all that there is.

        Returns:
            Those of them that are to be stored, and then to ``settle``.
        """
        away = self._away()
        upto = max(upto, away.lo - 1)
        rows = [row for row in rows if away.lo <= row <= upto]
        there: RangeMap[bool] = RangeMap()
        leased = chain.from_iterable(lease.ranges for lease in self.leases.values())
        for lo, hi in chain(runs(rows), leased):  # what is out, its end will tell
            there.paint(lo, hi, value=True)
        for lo, hi in there.gaps(away.lo, upto):
            self._miss(lo, hi)
        self.away = away._replace(lo=upto + 1)
        self._away_changed = True
        return {row for row in rows if self.state_of(row).state is not State.GONE}

    def arrive_no_more(self) -> None:
        """That was all."""
        away = self._away()
        if away.lo <= away.last:
            self.arrive(away.last, ())
        self._miss(max(away.lo, away.last + 1), away.hi)
        self.away = away._replace(lo=away.hi + 1)
        self._away_changed = True

    def _away(self) -> Away:
        if self.away is None:
            raise ValueError("no rows are away")
        return self.away

    def _miss(self, lo: int, hi: int) -> None:
        """There are no such rows. Those of which that is not as it should be are lost."""
        # Up to here nobody knows which numbers were ever used, or were still. (The last one of a
        # generation is where the next begins: no file holds so many rows.)
        unused = max(generation_before(hi + 1), self._away().oldest - 1)
        missing = list(self.marks.gaps(lo, hi))
        for span in list(self.marks.within(lo, hi)):
            if span.value == ACKED:
                self._mark(span.lo, span.hi, PURGED)
            elif span.value.state is not State.GONE:
                missing.append(span[:2])
        for first, last in missing:
            self._mark(first, min(last, unused), PURGED)
            self._mark(max(first, unused + 1), last, DAMAGED)

    # Batches

    def choose(self, limit: int, *, live_first: bool) -> Plan | None:
        """The rows for the next batch; see ``ReadyRows.choose``. They are still free."""
        plan = self.ready_rows.choose(limit, live_first=live_first)
        if plan is not None and plan.size > limit:
            self.make_ready(plan.ranges)
            plan = self.ready_rows.choose(limit, live_first=live_first)
        return plan

    def begin(self, rows: Iterable[int], batch: int) -> int:
        """Rows leave in a batch. Returns the lease's number."""
        lease = Lease(runs(rows), batch)
        self.ready_rows.hand_out(lease.ranges)
        self._leased += 1
        self.leases[self._leased] = lease
        return self._leased

    def split(self, batch: Batch, at: int) -> tuple[int, int]:
        """One lease becomes two. Returns their numbers."""
        lease = self._end(batch)
        rows = list(lease.rows())
        if lease.batch != LOOSE:
            for lo, hi in lease.ranges:
                self._mark(lo, hi, None)
        return self.begin(rows[:at], LOOSE), self.begin(rows[at:], LOOSE)

    def ack(self, batch: Batch, rejected: Mapping[int, str], retry: Collection[int]) -> None:
        """Delivered, but for the seqs given."""
        lease = self._end(batch)
        for lo, hi in lease.ranges:
            self._mark(lo, hi, ACKED)
        if not rejected and not retry:
            return
        for row, record in zip(lease.rows(), batch.records, strict=True):
            if record.seq in rejected:
                self._mark(row, row, dead_letter(rejected[record.seq]))
            elif record.seq in retry:
                self._mark(row, row, None)
                self._free(row, row)

    def fail(self, batch: Batch, reason: str) -> None:
        """Refused as a whole."""
        for lo, hi in self._end(batch).ranges:
            self._mark(lo, hi, dead_letter(reason))

    def give_back(self, batch: Batch) -> None:
        """Ready, as before."""
        lease = self._end(batch)
        for lo, hi in lease.ranges:
            self._free(lo, hi, lease.batch)

    def suspend(self, batch: Batch) -> None:
        """No answer came."""
        lease = self._end(batch)
        mark = RowState(State.UNACK, batch=lease.ranges[0][0])
        for lo, hi in lease.ranges:
            self._mark(lo, hi, mark)

    # Questions

    def in_state(self, state: State) -> list[Span[RowState]]:
        """The marks of one state, ascending."""
        return [span for span in self.marks if span.value.state is state]

    def first_here(self, state: State, limit: int) -> list[tuple[int, int]]:
        """The first rows in one state that are not away, at most ``limit``."""
        found: list[tuple[int, int]] = []
        if all(mark.state is not state for mark in self.marks.total_by_value()):
            return found
        away = self.away
        for lo, hi, mark in self.marks:
            is_away = away is not None and lo <= away.hi and hi >= away.lo
            if mark.state is state and not is_away:
                found.append((lo, min(hi, lo + limit - 1)))
                limit -= found[-1][1] - lo + 1
                if not limit:
                    break
        return found

    def on_disk(self, lo: int, hi: int) -> int:
        """How many of these rows should be there."""
        parts = [(lo, hi)]
        if self.away is not None:
            parts = [(lo, min(hi, self.away.lo - 1)), (max(lo, self.away.hi + 1), hi)]
        gone = (
            span.size
            for first, last in parts
            for span in self.marks.within(first, last)
            if span.value.state is State.GONE
        )
        return sum(max(0, last - first + 1) for first, last in parts) - sum(gone)

    def lost(self) -> Counter[str]:
        """How many rows were lost, by reason."""
        return Counter(
            {
                mark.reason: rows
                for mark, rows in self.marks.total_by_value().items()
                if mark.state is State.GONE and mark.reason is not None
            }
        )

    def in_flight(self) -> int:
        """How many rows are in batches that are out."""
        return sum(hi - lo + 1 for lease in self.leases.values() for lo, hi in lease.ranges)

    def state_of(self, row: int) -> RowState:
        """What became of a committed row."""
        return self.marks.value_at(row) or RowState(State.READY)

    def pending(self, last: int) -> int:
        """How many of the rows up to ``last`` are neither delivered, nor refused, nor gone."""
        ranges = [span[:2] for span in chain(self.ready_rows.free, self.in_state(State.UNACK))]
        ranges += chain.from_iterable(lease.ranges for lease in self.leases.values())
        return sum(min(hi, last) - lo + 1 for lo, hi in ranges if lo <= last)

    def oldest_pending(self) -> int | None:
        """The first row that is neither delivered, nor refused, nor gone."""
        rows = [lease.ranges[0][0] for lease in self.leases.values()]
        rows += [span.lo for span in self.ready_rows.free.first()]
        if any(mark.state is State.UNACK for mark in self.marks.total_by_value()):
            rows.append(self.in_state(State.UNACK)[0].lo)
        return min(rows, default=None)

    def _settle_all(self, lo: int, hi: int) -> None:
        for first, last in self.marks.gaps(lo, hi):
            self._free(first, last)
        for span in self.marks.within(lo, hi):
            if span.value.state is State.READY:
                self._free(span.lo, span.hi, span.value.batch or LOOSE)
        for first, last in chain.from_iterable(lease.ranges for lease in self.leases.values()):
            if max(lo, first) <= min(hi, last):
                self.ready_rows.free.paint(max(lo, first), min(hi, last), None)

    def _free(self, lo: int, hi: int, batch: int = LOOSE) -> None:
        """These may be handed out, but for those that are away."""
        if self.away is None or hi < self.away.lo or lo > self.away.hi:
            parts = [(lo, hi)]
        else:
            parts = [(lo, self.away.lo - 1), (self.away.hi + 1, hi)]
        for first, last in parts:
            if first <= last:
                self.ready_rows.free.paint(first, last, batch)

    def _mark(self, lo: int, hi: int, mark: RowState | None) -> None:
        if lo <= hi:
            self._changed |= self.marks.paint(lo, hi, mark)

    def _end(self, batch: Batch) -> Lease:
        lease = self.leases.pop(batch.lease, None)
        if lease is None:
            raise ValueError(
                f"batch {batch.lease} is not out: it was acknowledged, failed, released or split"
            )
        return lease
