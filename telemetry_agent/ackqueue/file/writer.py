"""Writes to disk what only memory knows so far.

The disk refuses at times: it is full, or it fails. Then everything waits here, in order and under
the same row numbers, and the next write tries all of it again. That is safe even if the transaction
is on disk in spite of the refusal: to repeat a write changes nothing.

Rows that get a place of their own (thinned, carried over) go the same way. They are not handed out
before they are on disk.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from itertools import chain, takewhile

from telemetry_agent.ackqueue.file.rows import SEQ, STREAM, Row, at_place
from telemetry_agent.ackqueue.file.store import Changes, Store
from telemetry_agent.ackqueue.ledger import SPANS_PER_HOLD, Ledger
from telemetry_agent.ackqueue.ranges import Span, runs
from telemetry_agent.ackqueue.row_states import LOST_IN_MEMORY, RowState
from telemetry_agent.clock import Clock
from telemetry_agent.errors import StorageError, counted
from telemetry_agent.tasks import give_way
from telemetry_agent.trouble import Trouble

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_ROWS_PER_WRITE = 1000
"""A transaction that a full file cannot take is tried again when this many rows have room."""
_SHARE_FOR_PATIENT = 20
"""A source that can wait fills this part of memory; the rest is for those that cannot."""

Waiting = tuple[float, Row]
"""When it was put, and the row."""


class Writer:
    """Collects rows, and writes them together with the ledger's changes.

    ``write`` and ``report`` are for the holder of the disk lock. Any thread may ask for
    ``disk_error``, ``refused`` and ``disk_error_now``, and the holder of the disk lock for
    ``placed``; everything else is for the holder of ``lock``.
    """

    def __init__(
        self,
        ledger: Ledger,
        lock: threading.Lock,
        clock: Clock,
        *,
        written: int,
        max_uncommitted: int,
        on_change: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._lock = lock
        self._clock = clock
        self._max_uncommitted = max_uncommitted
        self._on_change = on_change
        self.written = written
        """The highest number that is known to be on disk, of a row or in a mark."""
        self._pending: list[Waiting] = []  # in the order of their numbers
        self._moved: list[Row] = []
        self._arrived: list[Row] = []
        self._writing: list[Waiting] = []  # in the transaction that runs now
        self._moving = 0  # how many rows that are moved it holds
        self._trouble = Trouble(log, clock)
        self._lost_in_memory = 0  # since memory was full
        self.disk_error: StorageError | None = None
        """Why the disk refused the last write."""
        self._retry_at_s = 0.0

    def add(self, put_s: float, row: Row) -> None:
        """Take a row with a number above the last one's."""
        assert self._lock.locked()
        self._pending.append((put_s, row))
        self._bound_memory()

    def move(self, rows: Sequence[Row]) -> None:
        """Take rows that get the places of others."""
        assert self._lock.locked()
        self._moved += rows

    def arrive(self, rows: Sequence[Row]) -> None:
        """Take rows that were away."""
        assert self._lock.locked()
        self._arrived += rows

    def renumber(self, last: int) -> int:
        """Give what waits the numbers after ``last``. Returns the last of them.

        It goes into an empty file, which is known to come after the one with ``last``.
        """
        assert self._lock.locked()
        self.written = last
        self._pending = [
            (put_s, at_place(row, last + place))
            for place, (put_s, row) in enumerate(self._pending, start=1)
        ]
        return last + len(self._pending)

    @property
    def rows(self) -> list[Row]:
        """The rows that are not known to be on disk, in their order."""
        return [row for _, row in (*self._writing, *self._pending)]

    def give_up(self) -> list[Row]:
        """Take ``rows`` out; a write that is under way may still store some."""
        assert self._lock.locked()
        rows, self._pending = self.rows, []
        return rows

    @property
    def uncommitted(self) -> int:
        """How many rows are not known to be on disk."""
        return len(self._pending) + len(self._writing)

    @property
    def has_room(self) -> bool:
        """Whether memory takes rows of a source that can wait."""
        return self.uncommitted * _SHARE_FOR_PATIENT < self._max_uncommitted

    def pending(self, last_row: int) -> int:
        """How many rows are to be delivered and not known to be on disk.

        Of those that no transaction writes yet, only rows up to this one.
        """
        waiting = sum(bool(row[0] <= last_row) for _, row in self._pending)
        return waiting + len(self._writing) + self.placed

    @property
    def placed(self) -> int:
        """How many rows, ready ones, wait for the place that they were given."""
        return len(self._moved) + self._moving

    @property
    def oldest(self) -> Waiting | None:
        """The oldest row that waits."""
        return self._pending[0] if self._pending else None

    @property
    def refused(self) -> bool:
        """Whether the disk refused the last write."""
        return self.disk_error is not None

    def disk_error_now(self) -> StorageError | None:
        """Why the disk refused, until it is time to try again."""
        if self.disk_error is None or self._clock.monotonic_s() >= self._retry_at_s:
            return None
        return self.disk_error

    def due_s(self, commit_every_s: float) -> float | None:
        """When to write next, by the monotonic clock; ``None``: nothing waits."""
        if self.disk_error is not None:
            return self._retry_at_s
        return self._pending[0][0] + commit_every_s if self._pending else None

    def write(self, store: Store, *, with_new: bool = True) -> StorageError | None:
        """Write all that is there now, or all but the new rows. Returns why the disk refused."""
        left = len(self._pending) if with_new else 0
        while (changes := self._take(left)) is not None:
            left -= len(changes.rows)
            written = False
            try:
                store.write(changes)
                written = True
            except StorageError as error:
                return error
            finally:
                with self._lock:
                    if written:
                        placed = chain(changes.moved, changes.arrived, changes.rows)
                        self._ledger.admit(row[0] for row in placed)
                        self._ledger.forget_reasons(changes.marks.values())
                        marked = (span.hi for span in changes.marks.values() if span)
                        rows = (row[0] for row in changes.rows[-1:])
                        self.written = max([self.written, *marked, *rows])
                    else:
                        self._give_back(changes)
                    self._writing.clear()
                    self._moving = 0
            if not left:  # the rest of what was there went with the first transaction
                break
        return None

    def report(self, disk_error: StorageError | None) -> None:
        """Log and ring for the first refusal, and when the disk writes again.

        It does not ring for the others: a watcher may try at once, and cause the next.
        """
        with self._lock:
            changes = self.refused is not (disk_error is not None)
            self.disk_error = disk_error
            if disk_error is not None:
                self._retry_at_s = self._clock.monotonic_s() + _RETRY_S
        if disk_error is not None:
            self._trouble.failed(
                f"{disk_error}. Fixes wait in memory; it is tried again each second",
                kind="refused",
                level=logging.ERROR,
                fields={"STATE": "refused"},
            )
        else:
            self._trouble.over("the queue can be written again", fields={"STATE": "ok"})
            with self._lock:
                lost, self._lost_in_memory = self._lost_in_memory, 0
            if lost:
                log.warning(
                    "memory has room again: %s lost",
                    counted(lost, "fix was", "fixes were"),
                    extra={"fields": {"STATE": "ok", "COUNT": lost}},
                )
        if changes:
            self._on_change()

    def _take(self, limit: int) -> Changes | None:
        """Take what goes into one transaction; ``None``: there is nothing left.

        The rows of a transaction are of one stream, as far apart by number as by name: so one
        query afterwards shows that none of their numbers was taken by another row.
        """
        marks: dict[int, Span[RowState] | None] = {}
        with self._lock:
            while len(some := self._ledger.take_changes()) == SPANS_PER_HOLD:
                marks |= some
                give_way(self._lock)
            marks |= some
            pending = self._pending[: min(limit, _ROWS_PER_WRITE)]
            if pending and _kind(pending[0]) != _kind(pending[-1]):
                kind = _kind(pending[0])
                pending = list(takewhile(lambda waiting: _kind(waiting) == kind, pending))
            del self._pending[: len(pending)]
            self._writing = pending
            moved, self._moved = self._moved, []
            self._moving = len(moved)
            arrived, self._arrived = self._arrived, []
            streams = self._ledger.streams.take_changes()
        changes = Changes([row for _, row in pending], marks, moved, arrived, streams)
        return changes if any(changes) else None

    def _give_back(self, changes: Changes) -> None:
        """Put it back where it was, before what came meanwhile."""
        self._pending[:0] = self._writing
        self._moved[:0] = changes.moved
        self._arrived[:0] = changes.arrived
        self._ledger.give_back_changes(changes.marks)
        self._ledger.streams.give_back_changes(changes.streams)
        self._bound_memory()

    def _bound_memory(self) -> None:
        # The oldest go: the newest positions are worth more.
        excess = len(self._pending) - self._max_uncommitted
        if excess > 0:
            self._ledger.lose(runs(row[0] for _, row in self._pending[:excess]), LOST_IN_MEMORY)
            del self._pending[:excess]
            if not self._lost_in_memory:
                why = "nothing was committed: the disk is slow, or no Committer runs"
                if self.refused:
                    why = "the disk refuses"
                log.error(
                    "the oldest fixes are lost: memory is full (%s) because %s",
                    counted(self._max_uncommitted, "fix"),
                    why,
                    extra={"fields": {"STATE": "memory"}},
                )
            self._lost_in_memory += excess


def _kind(waiting: Waiting) -> tuple[int, int]:
    """Equal for all rows between two, if it is for these: one stream, and no name left out."""
    _, row = waiting
    return row[STREAM], row[SEQ] - row[0]
