"""The ack-queue: fixes go to disk, batches come out, and only an acknowledgement ends a fix.

Theory of operation. Each fix gets a row number when it is put, one higher than the last. Rows are
written in that order and never change. What becomes of them is kept as ranges of row numbers, all
in memory (``Ledger``), and the disk follows memory: each transaction writes the new rows and
every mark that differs. So a disk that refuses to write costs nothing but patience, and after a
crash a row is ready again unless its end was written.

Two locks. ``_lock`` guards memory and is held for microseconds. ``_disk`` guards the connection
and is held across an fsync; whoever needs both takes ``_disk`` first. ``put``, ``backlog`` and
``stats`` take only the first, so a slow disk delays no recording. A lease reads its rows with
``_disk`` alone: they cannot move meanwhile, since whatever takes free rows holds ``_disk``.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from telemetry_agent.ackqueue.handout import Plan
from telemetry_agent.ackqueue.ledger import ACKED, Ledger
from telemetry_agent.ackqueue.lock import QueueLock
from telemetry_agent.ackqueue.places import Place, in_order, look
from telemetry_agent.ackqueue.ranges import Span, runs
from telemetry_agent.ackqueue.rows import Row, decode, encode, is_sound, stream_from_int
from telemetry_agent.ackqueue.schema import Connect, State, connect, make_directories
from telemetry_agent.ackqueue.stats import Backlog, QueueStats, Stored, count, size_on_disk
from telemetry_agent.ackqueue.store import ROWS_PER_READ, Store
from telemetry_agent.ackqueue.writer import Writer
from telemetry_agent.clock import Clock
from telemetry_agent.errors import StorageError
from telemetry_agent.model import Batch, Fix, Record

log = logging.getLogger(__name__)

_DOUBTFUL_TIME = {"time", "date"}


class AckQueue:
    """A durable queue of fixes for one process; any number of its threads may use it.

    ::

        with AckQueue(Path("queue.db")) as queue:
            queue.put(Fix(1764426119000, 48_117300000, 11_516667000), "van-07")
            while batch := queue.lease(1000):
                send(batch.records)
                queue.ack(batch)

    A batch is out until one of ``ack``, ``fail``, ``release`` and ``split`` ends it; to use it
    after that is a ValueError, and so is to use a closed queue. A fix that was not acknowledged
    when the process ends is handed out again by the next.

    When the disk refuses a write, what was to be written stays in memory and is tried again with
    the next call, or each second by a ``Committer``; the log tells the first failure and the
    recovery. Only ``commit`` and ``close`` raise for it.
    """

    def __init__(
        self,
        path: Path,
        *,
        commit_every_s: float = 1.0,
        keep_delivered_s: float = 86400.0,
        max_uncommitted: int = 100_000,
        clock: Clock | None = None,
        connect: Connect = connect,
    ) -> None:
        """Open the queue, made if it is not there. What got no answer is ready again.

        To open and close it without using it writes nothing but a new file.

        Args:
            path: The database file. ``PATH.lock`` beside it is held until ``close``.
            commit_every_s: How long a fix may wait in memory: what a power cut may cost. 0: ``put``
                commits before it returns. Above 0 a ``Committer`` or the caller must commit.
            keep_delivered_s: How long a delivered fix is kept; see ``purge_delivered``.
            max_uncommitted: How many fixes memory holds while the disk refuses to write. Past it
                the oldest are lost, and counted.
            clock: The machine's clocks.
            connect: Opens the database file.

        Raises:
            QueueLockedError: Another process holds the queue.
            StorageError: The file cannot be opened, is no queue, or is of a newer version.
        """
        self.path = path
        self._commit_every_s = commit_every_s
        self._keep_delivered_ms = keep_delivered_s * 1000
        self._clock = clock or Clock()
        make_directories(path)
        self._file_lock = QueueLock(path)
        try:
            self._store = Store(path, connect)
            last, marks, differing = self._store.load()
        except BaseException:
            self._file_lock.release()
            raise
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._waiters = 0
        self._disk = threading.Lock()
        self._watchers: list[Callable[[], None]] = []
        self._used = False
        self._closed = False

        stream = secrets.randbits(64) - 2**63
        self._stream, self._stream_hex = stream, stream_from_int(stream)
        self._base = last  # the row of a fix put in this run is this plus its seq
        self._seq = 0
        self._live_since_s: float | None = None
        self._latest_ms: int | None = None  # of the last fix whose time is not in doubt

        self._ledger = Ledger(last, marks, differing)
        self._ledger.resume()
        self._writer = Writer(
            self._store,
            self._ledger,
            self._lock,
            self._clock,
            max_uncommitted=max_uncommitted,
            on_refusal=self._ring,
        )
        self._oldest: tuple[int, int | None] | None = None  # the oldest pending row, its time
        self._find_oldest()

    def watch(self, ring: Callable[[], None]) -> None:
        """Have ``ring`` called, from any thread, when there is something new to do.

        That is the first fix since a commit, fixes that are ready again by ``retry`` or
        ``resend``, and a write that failed and is to be tried again. ``ring`` must return at once
        and not call the queue.
        """
        self._watchers.append(ring)

    @property
    def stream(self) -> str:
        """The stream of the fixes that are put in this run, 16 hex digits."""
        return self._stream_hex

    def put(self, fix: Fix, device: str) -> Record:
        """Name a fix and take it over. Waits for the disk only if ``commit_every_s`` is 0.

        Raises:
            ValueError: The fix holds what cannot be stored.
        """
        now_s = self._clock.monotonic_s()
        with self._lock:
            self._check_open()
            seq = self._seq + 1
            row = encode(self._base + seq, self._stream, seq, device, fix)
            self._seq = seq
            self._used = True
            first = self._writer.oldest is None
            self._writer.add(now_s, row)
            if self._live_since_s is None:
                self._live_since_s = now_s
            if _DOUBTFUL_TIME.isdisjoint(fix.flags):
                self._latest_ms = fix.time_ms
            self._wake_waiters()
        if self._commit_every_s == 0:
            with self._disk:
                self._write()
        if first:
            self._ring()
        return Record(self._stream_hex, seq, device, fix)

    def commit(self) -> None:
        """Bring everything to disk.

        Raises:
            StorageError: The disk refused. Nothing is lost by that; it is tried again.
        """
        with self._disk:
            self._check_open()
            refusal = self._write()
        if refusal is not None:
            raise refusal

    def commit_due_s(self) -> float | None:
        """The monotonic time by which ``commit`` should be called; ``None``: nothing waits."""
        with self._lock:
            return self._writer.due_s(self._commit_every_s)

    def lease(
        self, limit: int, *, live_first: bool = True, timeout_s: float | None = 0
    ) -> Batch | None:
        """Hand out fixes of one stream and one device, in the order of recording.

        Either live fixes or the oldest run of the backlog, never both. What was a batch that got
        no answer is the same batch again, unless ``limit`` is smaller. Only what is on disk is
        handed out; what waits for a commit is committed first.

        Args:
            limit: The most fixes that the batch may hold.
            live_first: If there are live fixes, the newest of them; else strictly the oldest.
            timeout_s: How long to wait for something that is ready; ``None``: until there is.
                To close the queue ends the wait, with the ValueError of a closed queue.

        Returns:
            ``None`` if nothing is ready.

        Raises:
            StorageError: The file cannot be read.
        """
        if limit < 1:
            raise ValueError(f"a batch holds at least one fix, not {limit}")
        until_s = None if timeout_s is None else self._clock.monotonic_s() + timeout_s
        while True:
            with self._disk:
                self._use()
                self._write()
                batch = self._lease(limit, live_first=live_first)
            if batch is not None or timeout_s == 0 or not self._wait_until_ready(until_s):
                return batch

    def split(self, batch: Batch, at: int) -> tuple[Batch, Batch]:
        """Make one batch two: its first ``at`` fixes, and the rest."""
        if not 0 < at < len(batch.records):
            raise ValueError(f"a batch of {len(batch.records)} fixes cannot be split at {at}")
        with self._disk:
            self._use()
            with self._lock:
                first, second = self._ledger.split(batch, at)
        return (
            replace(batch, lease=first, records=batch.records[:at]),
            replace(batch, lease=second, records=batch.records[at:]),
        )

    def ack(
        self,
        batch: Batch,
        *,
        rejected: Mapping[int, str] = MappingProxyType({}),
        retry: Collection[int] = (),
    ) -> None:
        """The endpoint took the batch. On disk in one transaction.

        Args:
            batch: As it was handed out.
            rejected: seq -> reason of those it refused: they become dead letters.
            retry: The seqs of those it wants again later: they are ready. A seq in both is
                rejected, one that the batch does not hold is ignored.
        """
        with self._disk:
            self._use()
            with self._lock:
                self._ledger.ack(batch, rejected, retry)
            self._write()

    def fail(self, batch: Batch, reason: str) -> None:
        """The endpoint refuses the batch for good: its fixes become dead letters."""
        with self._disk:
            self._use()
            with self._lock:
                self._ledger.fail(batch, reason)
            self._write()

    def release(self, batch: Batch, *, answered: bool = True) -> None:
        """Give the batch back undelivered.

        Args:
            batch: As it was handed out.
            answered: The endpoint said "later": the fixes are ready, as they were. False: nobody
                knows whether it has them; they are ``unack``, on disk, until ``resume_unack``.
        """
        with self._disk:
            self._use()
            with self._lock:
                if answered:
                    self._ledger.give_back(batch)
                else:
                    self._ledger.suspend(batch)
                self._wake_waiters()
            if not answered:
                self._write()

    def resume_unack(self) -> int:
        """Make ready what got no answer; each batch keeps together. Returns how many fixes."""
        with self._disk:
            self._use()
            with self._lock:
                count = self._ledger.resume()
            self._write()
        return count

    def retry(self, names: Collection[tuple[str, int]] | None = None) -> int:
        """Make dead letters ready: all of them, or those with these (stream, seq).

        Returns:
            How many fixes.

        Raises:
            StorageError: The file cannot be read.
        """
        count = self._end_dead_letters(names, self._ledger.make_ready)
        self._ring()
        return count

    def discard(self, names: Collection[tuple[str, int]] | None = None) -> int:
        """Delete dead letters, all or those named; they count as lost, ``discarded``.

        Returns:
            How many fixes.

        Raises:
            StorageError: The file cannot be read.
        """
        return self._end_dead_letters(names, self._ledger.discard)

    def resend(self, since_ms: int, until_ms: int) -> int:
        """Make delivered fixes ready again, under their own names.

        Args:
            since_ms: Their GNSS time is this or later.
            until_ms: And before this.

        Returns:
            How many fixes.

        Raises:
            StorageError: The file cannot be read.
        """
        count = 0
        with self._lock:
            spans = self._ledger.in_state(State.ACKED)
        for lo, hi in ((span.lo, span.hi) for span in spans):
            for first in range(lo, hi + 1, ROWS_PER_READ):
                with self._disk:
                    self._use()
                    rows = [
                        row[0]
                        for row in self._store.read(first, min(hi, first + ROWS_PER_READ - 1))
                        if is_sound(row) and since_ms <= row[4] < until_ms
                    ]
                    with self._lock:
                        # Since the look from above, some may have been resent by another.
                        ranges = runs(r for r in rows if self._ledger.state_of(r) == ACKED)
                        self._ledger.make_ready(ranges)
                    self._write()
                count += sum(hi - lo + 1 for lo, hi in ranges)
        self._ring()
        return count

    def newest_ms(self) -> int | None:
        """GNSS time of the newest fix whose time is not in doubt; ``None`` where none is known.

        Raises:
            StorageError: The file cannot be read.
        """
        with self._disk:
            self._check_open()
            with self._lock:
                if self._latest_ms is not None:
                    return self._latest_ms
            for row in reversed(
                list(self._store.read(max(1, self._base - ROWS_PER_READ), self._base))
            ):
                record = decode(row)
                if record is not None and _DOUBTFUL_TIME.isdisjoint(record.fix.flags):
                    return record.fix.time_ms
        return None

    def purge_delivered(self) -> bool:
        """Delete some of the delivered fixes that are older than ``keep_delivered_s``.

        Age is the distance in GNSS time, either way, from the last fix put in this run whose time
        is not in doubt: the system clock of a device may be wrong by years. So nothing is deleted
        before there is such a fix. Oldest recorded first, at most 1,000 in a transaction. The
        newest fix stays whatever its age: ``newest`` tells the next run how far this one came.

        Returns:
            Whether there may be more to delete now.

        Raises:
            StorageError: The file cannot be read.
        """
        with self._disk:
            self._check_open()
            with self._lock:
                latest_ms = self._latest_ms
                span = next((span for span in self._ledger.marks if span.value == ACKED), None)
                refused = self._writer.refused
            if latest_ms is None or span is None or refused:
                return False
            end = min(span.hi, span.lo + ROWS_PER_READ - 1, self._base + self._seq - 1)
            kept = (
                row[0]
                for row in self._store.read(span.lo, end)
                if is_sound(row) and abs(row[4] - latest_ms) <= self._keep_delivered_ms
            )
            last_old = next(kept, end + 1) - 1
            if last_old < span.lo:
                return False
            with self._lock:
                self._ledger.purge(span.lo, last_old)
            self._write()
            return last_old == end

    def backlog(self) -> Backlog:
        """What waits. Cheap, and never waits for the disk."""
        with self._lock:
            uncommitted = self._writer.uncommitted
            live = self._ledger.handout.live() + uncommitted
            return Backlog(
                ready=self._ledger.handout.free.total + uncommitted,
                live=live,
                live_since_s=self._live_since_s if live else None,
            )

    def stats(self) -> QueueStats:
        """Count everything. Never waits for a commit."""
        file_bytes = size_on_disk(self.path)
        with self._lock:
            oldest_ms = self._oldest[1] if self._oldest is not None else None
            waiting = self._writer.oldest
            if self._oldest is None and waiting is not None:
                oldest_ms = waiting[1][4]
            return count(self._ledger, self._writer.uncommitted, oldest_ms, file_bytes)

    def last_row(self) -> int:
        """The place of the newest fix, for ``pending``."""
        with self._lock:
            return self._base + self._seq

    def pending(self, last_row: int) -> int:
        """How many fixes up to that place are to be delivered. Never waits for the disk."""
        with self._lock:
            newest = self._base + self._seq
            committed = newest - self._writer.uncommitted
            return self._ledger.pending(last_row) + max(0, min(last_row, newest) - committed)

    def newest(self, limit: int) -> list[Record]:
        """The newest fixes on disk, whatever became of them, the newest first.

        Fewer than ``limit`` where some were deleted or are damaged.

        Raises:
            StorageError: The file cannot be read.
        """
        with self._disk:
            self._check_open()
            with self._lock:
                last = self._base + self._seq
            rows = list(self._store.read(last - limit + 1, last))
        return [record for row in reversed(rows) if (record := decode(row)) is not None]

    def places(self, first: int) -> list[Span[Place]]:
        """Where the fixes from that row on are. Cheap, and never waits for the disk."""
        with self._lock:
            seen = look(self._ledger, first)
        return in_order(seen, first)

    def after(self, row: int) -> tuple[int, list[tuple[int, Record]]]:
        """The next fixes on disk after that row, at most 1,000, with their rows.

        Returns:
            How far it looked, and what it found; that is the same row again at the end.

        Raises:
            StorageError: The file cannot be read.
        """
        with self._disk:
            self._check_open()
            with self._lock:
                committed = self._base + self._seq - self._writer.uncommitted
            last = max(row, min(row + ROWS_PER_READ, committed))
            rows = list(self._store.read(row + 1, last))
        found = ((stored[0], decode(stored)) for stored in rows)
        return last, [(row, record) for row, record in found if record is not None]

    def stored(self, state: State | None = None) -> Iterator[Stored]:
        """The sound fixes on disk in the order of recording: all, or those in one state.

        The queue may be used meanwhile; each fix is told as it is when it is read.

        Raises:
            StorageError: The file cannot be read.
        """
        with self._lock:
            last = self._base + self._seq
            ranges = [(1, last)]
            if state is State.READY:
                ranges = [(self._ledger.oldest_pending() or last + 1, last)]
            elif state is not None:
                ranges = [(span.lo, span.hi) for span in self._ledger.in_state(state)]
        for lo, hi in ranges:
            for first in range(lo, hi + 1, ROWS_PER_READ):
                with self._disk:
                    self._check_open()
                    rows = list(self._store.read(first, min(hi, first + ROWS_PER_READ - 1)))
                    with self._lock:
                        marks = [self._ledger.state_of(row[0]) for row in rows]
                for row, mark in zip(rows, marks, strict=True):
                    if mark.state <= 0 or state not in {None, mark.state}:
                        continue
                    record = decode(row)
                    if record is not None:
                        yield Stored(record, mark.state, mark.reason)

    def close(self) -> None:
        """Commit, and let the next process in. Batches that are out are ready for it. Idempotent.

        Raises:
            StorageError: The disk refused; the fixes that waited in memory are lost. The queue
                is closed all the same.
        """
        with self._disk:
            with self._lock:
                if self._closed:
                    return
                self._closed = True
                self._wake_waiters()
            refusal = self._write() if self._used else None
            self._store.close()
            self._file_lock.release()
        if refusal is not None:
            lost = self._writer.uncommitted
            raise StorageError(f"{refusal}; {lost} fixes that waited in memory are lost")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _end_dead_letters(
        self,
        names: Collection[tuple[str, int]] | None,
        end: Callable[[list[tuple[int, int]]], None],
    ) -> int:
        with self._disk:
            self._use()
            with self._lock:
                spans = self._ledger.in_state(State.ACK_FAILED)
            ranges = [(span.lo, span.hi) for span in spans]
            if names is not None:
                ranges = runs(
                    row[0]
                    for lo, hi in ranges
                    for row in self._store.read(lo, hi)
                    if is_sound(row) and (stream_from_int(row[2]), row[3]) in names
                )
            with self._lock:
                end(ranges)
            self._write()
        return sum(hi - lo + 1 for lo, hi in ranges)

    # The disk lock is held in all that follows, except where it says otherwise.

    def _write(self) -> StorageError | None:
        refusal = self._writer.write()
        self._find_oldest()
        with self._lock:
            self._wake_waiters()
        return refusal

    def _lease(self, limit: int, *, live_first: bool) -> Batch | None:
        while True:
            with self._lock:
                plan = self._ledger.choose(limit, live_first=live_first)
            if plan is None:
                return None
            batch = self._hand_out(plan)
            if batch is not None:
                return batch

    def _hand_out(self, plan: Plan) -> Batch | None:
        """Make a batch of planned rows. ``None`` if none was sound: plan again."""
        rows = [row for lo, hi in plan.ranges for row in self._store.read(lo, hi)]
        damaged: list[int] = []
        if len(rows) < plan.size:
            planned = {row for lo, hi in plan.ranges for row in range(lo, hi + 1)}
            damaged += planned.difference(row[0] for row in rows)
        step = -1 if plan.newest_first else 1
        taken = _first_run(rows[::step])[::step]
        found = [decode(row) for row in taken]
        records = tuple([record for record in found if record is not None])
        if len(records) < len(found):
            damaged += [row[0] for row, record in zip(taken, found, strict=True) if not record]
            taken = [row for row, record in zip(taken, found, strict=True) if record]
        if damaged:
            self._set_aside(sorted(damaged))
        if not records:
            return None
        with self._lock:
            lease = self._ledger.begin([row[0] for row in taken], plan.batch)
            if self._ledger.handout.live() == 0:
                waiting = self._writer.oldest
                self._live_since_s = waiting[0] if waiting is not None else None
        first = records[0]
        return Batch(lease, first.stream, first.device, records, plan.live)

    def _set_aside(self, damaged: list[int]) -> None:
        with self._lock:
            self._ledger.damage(damaged)
        log.error(
            "the queue %s: %d fixes are damaged and cannot be sent (rows %d to %d)",
            self.path,
            len(damaged),
            damaged[0],
            damaged[-1],
        )
        self._write()

    def _find_oldest(self) -> None:
        """So that ``stats`` can tell its time without the disk."""
        with self._lock:
            row = self._ledger.oldest_pending()
        if row is None:
            self._oldest = None
        elif self._oldest is None or self._oldest[0] != row:
            self._oldest = (row, self._store.time_ms(row))

    def _use(self) -> None:
        self._check_open()
        self._used = True

    # Without the disk lock

    def _wait_until_ready(self, until_s: float | None) -> bool:
        """Wait for what a lease may get; False: it is ``until_s``."""
        with self._ready:
            self._waiters += 1
            try:
                while not (self._closed or self._ledger.handout.free.total):
                    now_s = self._clock.monotonic_s()
                    write_s = self._writer.due_s(0)  # the lease commits what waits, or retries
                    if write_s is not None and write_s <= now_s:
                        break
                    if until_s is not None and until_s <= now_s:
                        return False
                    ends_s = [end_s for end_s in (until_s, write_s) if end_s is not None]
                    self._ready.wait(min(ends_s) - now_s if ends_s else None)
            finally:
                self._waiters -= 1
        return True

    def _wake_waiters(self) -> None:
        """Each looks for itself. The memory lock is held."""
        if self._waiters:
            self._ready.notify_all()

    def _ring(self) -> None:
        for ring in self._watchers:
            ring()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"the queue {self.path} is closed")


def _first_run(rows: list[Row]) -> list[Row]:
    """The rows up to where device or stream changes."""
    if not rows:
        return rows
    kind = rows[0][1:3]
    end = next((place for place, row in enumerate(rows) if row[1:3] != kind), len(rows))
    return rows[:end]
