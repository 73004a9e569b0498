"""Where each row of the queue is. Pure bookkeeping: no disk, no lock, no clock.

Each committed row is in exactly one of three places:

- ``marks``: what became of it (delivered, refused, no answer, gone). The disk follows: what
  differs from it is in ``take_changes`` and goes with the next transaction.
- ``handout.free``: it may be handed out.
- ``leases``: it is in a batch that is out, and in nobody else's reach until the batch comes back.
  Nothing of a lease is on disk: to lose it is to send again.

One exception: the rows of a batch that got no answer, once they are ready again, are free or
leased and keep a READY mark that holds them together, so that even after a crash they travel as
the batch that they were.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from telemetry_agent.ackqueue.handout import LOOSE, Handout, Plan
from telemetry_agent.ackqueue.ranges import RangeMap, Span, runs
from telemetry_agent.ackqueue.schema import State
from telemetry_agent.ackqueue.store import Mark
from telemetry_agent.model import Batch

ACKED = Mark(State.ACKED)
_PURGED = Mark(State.GONE)
_LOST_IN_MEMORY = Mark(State.GONE, "memory")
_DISCARDED = Mark(State.GONE, "discarded")
_DAMAGED = Mark(State.DAMAGED, "damaged")

_REASON_LENGTH = 500  # an endpoint's text is not ours to store without end


@dataclass(frozen=True, slots=True)
class Lease:
    """The rows of a batch that is out."""

    ranges: list[tuple[int, int]]
    batch: int
    """The batch without an answer that these were before, or ``LOOSE``."""

    def rows(self) -> Iterator[int]:
        """In the order of the batch's records."""
        return chain.from_iterable(range(lo, hi + 1) for lo, hi in self.ranges)


class Ledger:
    """The places of all rows, and every way to move one."""

    def __init__(self, last: int, marks: RangeMap[Mark], changed: set[int]) -> None:
        """Take over what was loaded: rows 1 to ``last``, all of them backlog."""
        self.marks = marks
        self.handout = Handout(newest=last)
        self.leases: dict[int, Lease] = {}
        self._changed = changed
        self._leased = 0
        row = 1
        for span in marks:
            self.free(row, span.lo - 1)
            if span.value.state is State.READY:
                self.free(span.lo, span.hi, span.value.batch or LOOSE)
            row = span.hi + 1
        self.free(row, last)

    # The disk

    def take_changes(self) -> dict[int, Span[Mark] | None]:
        """The marks that the disk does not know, by first row; ``None``: there is none now."""
        changed, self._changed = self._changed, set()
        return {lo: self.marks.starting_at(lo) for lo in changed}

    def give_back_changes(self, changes: Iterable[int]) -> None:
        """They did not reach the disk."""
        self._changed.update(changes)

    @property
    def has_changes(self) -> bool:
        """Whether marks wait for the disk."""
        return bool(self._changed)

    # Rows that are in no batch

    def free(self, lo: int, hi: int, batch: int = LOOSE) -> None:
        """These may be handed out."""
        if lo <= hi:
            self.handout.free.paint(lo, hi, batch)

    def lose(self, lo: int, hi: int) -> None:
        """These never reached the disk."""
        self._mark(lo, hi, _LOST_IN_MEMORY)

    def damage(self, rows: Iterable[int]) -> None:
        """These are not as they were stored."""
        for lo, hi in runs(rows):
            self.handout.free.paint(lo, hi, None)
            self._mark(lo, hi, _DAMAGED)

    def purge(self, lo: int, hi: int) -> None:
        """These were delivered and kept long enough."""
        self._mark(lo, hi, _PURGED)

    def resume(self) -> int:
        """Make ready what got no answer. Returns how many rows."""
        spans = self.in_state(State.UNACK)
        for span in spans:
            self._mark(span.lo, span.hi, span.value._replace(state=State.READY))
            self.free(span.lo, span.hi, span.value.batch or LOOSE)
        return sum(span.size for span in spans)

    def make_ready(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Make these dead letters or delivered fixes ready."""
        for lo, hi in ranges:
            self._mark(lo, hi, None)
            self.free(lo, hi)

    def discard(self, ranges: Iterable[tuple[int, int]]) -> None:
        """The user gives these dead letters up."""
        for lo, hi in ranges:
            self._mark(lo, hi, _DISCARDED)

    # Batches

    def choose(self, limit: int, *, live_first: bool) -> Plan | None:
        """The rows for the next batch; see ``Handout.choose``. They are still free."""
        plan = self.handout.choose(limit, live_first=live_first)
        if plan is not None and plan.size > limit:
            for lo, hi in plan.ranges:
                self._mark(lo, hi, None)
                self.free(lo, hi)
            plan = self.handout.choose(limit, live_first=live_first)
        return plan

    def begin(self, rows: Iterable[int], batch: int) -> int:
        """Rows leave in a batch. Returns the lease's number."""
        lease = Lease(runs(rows), batch)
        for lo, hi in lease.ranges:
            self.handout.free.paint(lo, hi, None)
        self.handout.newest = max(self.handout.newest, lease.ranges[-1][1])
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
                self._mark(row, row, _dead_letter(rejected[record.seq]))
            elif record.seq in retry:
                self._mark(row, row, None)
                self.free(row, row)

    def fail(self, batch: Batch, reason: str) -> None:
        """Refused as a whole."""
        for lo, hi in self._end(batch).ranges:
            self._mark(lo, hi, _dead_letter(reason))

    def give_back(self, batch: Batch) -> None:
        """Ready, as before."""
        lease = self._end(batch)
        for lo, hi in lease.ranges:
            self.free(lo, hi, lease.batch)

    def suspend(self, batch: Batch) -> None:
        """No answer came."""
        lease = self._end(batch)
        mark = Mark(State.UNACK, batch=lease.ranges[0][0])
        for lo, hi in lease.ranges:
            self._mark(lo, hi, mark)

    # Questions

    def in_state(self, state: State) -> list[Span[Mark]]:
        """The marks of one state, ascending."""
        return [span for span in self.marks if span.value.state is state]

    def in_flight(self) -> int:
        """How many rows are in batches that are out."""
        return sum(hi - lo + 1 for lease in self.leases.values() for lo, hi in lease.ranges)

    def state_of(self, row: int) -> Mark:
        """What became of a committed row."""
        return self.marks.value_at(row) or Mark(State.READY)

    def pending(self, last: int) -> int:
        """How many of the rows up to ``last`` are neither delivered, nor refused, nor gone."""
        ranges = [span[:2] for span in chain(self.handout.free, self.in_state(State.UNACK))]
        ranges += chain.from_iterable(lease.ranges for lease in self.leases.values())
        return sum(min(hi, last) - lo + 1 for lo, hi in ranges if lo <= last)

    def oldest_pending(self) -> int | None:
        """The first row that is neither delivered, nor refused, nor gone."""
        rows = [lease.ranges[0][0] for lease in self.leases.values()]
        rows += [span.lo for span in self.handout.free.first()]
        if any(mark.state is State.UNACK for mark in self.marks.total_by_value()):
            rows.append(self.in_state(State.UNACK)[0].lo)
        return min(rows, default=None)

    def _mark(self, lo: int, hi: int, mark: Mark | None) -> None:
        self._changed |= self.marks.paint(lo, hi, mark)

    def _end(self, batch: Batch) -> Lease:
        lease = self.leases.pop(batch.lease, None)
        if lease is None:
            raise ValueError(
                f"batch {batch.lease} is not out: it was acknowledged, failed, released or split"
            )
        return lease


def _dead_letter(reason: str) -> Mark:
    """The endpoint's own words can hold what UTF-8 cannot."""
    return Mark(State.ACK_FAILED, reason[:_REASON_LENGTH].encode(errors="replace").decode())
