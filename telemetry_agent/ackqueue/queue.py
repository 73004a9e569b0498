"""The ack-queue: fixes go to disk, batches come out, and only an acknowledgement ends a fix.

Theory of operation. Each fix gets a row number when it is put, one higher than the last. Rows are
written in that order and never change. What becomes of them is kept as ranges of row numbers, all
in memory (``ledger``), and is written to disk afterwards (``writer``, ``store``). So a disk that
refuses to write costs time only, and after a crash a row is ready again unless its end was written.

``put``, ``backlog`` and ``stats`` never wait for the disk, so a slow disk does not delay recording.
What the parts share, and the order of the two locks, is described in ``shared_state``.
"""

import weakref
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Self, TypeVar

from telemetry_agent.ackqueue.contents import Contents
from telemetry_agent.ackqueue.file.rows import Row, decode
from telemetry_agent.ackqueue.file.schema import Connect, UnusableError, connect, place_of
from telemetry_agent.ackqueue.ledger import Ledger
from telemetry_agent.ackqueue.limits.bounds import Bounds, Limits
from telemetry_agent.ackqueue.ready_rows import Plan
from telemetry_agent.ackqueue.row_states import NOT_RECORDED
from telemetry_agent.ackqueue.shared_state import SharedState
from telemetry_agent.clock import Clock
from telemetry_agent.errors import AgentError, StorageError, counted
from telemetry_agent.model import Backlog, Batch, Fix, Record

_FRESH_S = 1.0
"""If there are others to hand out, a fix that is younger than this waits for the next commit."""

V = TypeVar("V")


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
    when the process ends is handed out again by the next process.

    If the disk refuses a write, everything stays in memory and is tried again once a second, by a
    ``Committer`` or with the next call; the first failure and the recovery are logged. Only
    ``commit`` and ``close`` raise for it, and they always try.

    A damaged file is set aside, when the queue is opened or when the damage is noticed, and the
    queue continues with a new file and a new stream. A ``Carrier`` carries over what can be read.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        commit_every_s: float = 1.0,
        keep_delivered_s: float = 30 * 86400.0,
        limits: Limits = Limits(),  # noqa: B008 - it is frozen
        max_uncommitted: int = 100_000,
        clock: Clock | None = None,
        connect: Connect = connect,
    ) -> None:
        """Open the queue; create the file if it does not exist. What got no answer is ready again.

        Args:
            path: The database file, or a symlink to it. ``PATH.lock`` beside it is held until
                ``close``.
            commit_every_s: How long a fix may wait in memory, where a power cut would lose it.
                0: ``put`` commits before it returns. Otherwise a ``Committer`` or the caller does.
            keep_delivered_s: How long a delivered fix is kept; see ``Bounds.purge``.
            limits: How much of the disk it may use; no limit by default.
            max_uncommitted: How many fixes memory holds while none is committed. Beyond it the
                oldest are lost, and counted.
            clock: The machine's clocks.
            connect: Opens the database file.

        Raises:
            QueueLockedError: Another process holds the queue.
            StorageError: The disk refuses.
        """
        self.path = place_of(Path(path))
        self.shared = shared = SharedState(
            self.path,
            clock or Clock(),
            connect,
            commit_every_s=commit_every_s,
            max_uncommitted=max_uncommitted,
        )
        self._end = weakref.finalize(self, _end, shared)
        try:
            self._bounds = bounds = Bounds(shared, limits, keep_delivered_s)
        except BaseException:
            self._end()
            raise
        contents = Contents(shared, bounds)
        # These are methods of the queue too: what only looks, what people do by hand, the upkeep.
        self.stats, self.pending, self.places = contents.stats, contents.pending, contents.places
        self.disk_error = contents.disk_error
        self.newest, self.newest_ms = contents.newest, contents.newest_ms
        self.last_row, self.after, self.stored = contents.last_row, contents.after, contents.stored
        self.takes_more, self.numbering = contents.takes_more, contents.numbering
        self.retry, self.discard, self.resend = contents.retry, contents.discard, contents.resend
        self.resend_names = contents.resend_names
        self.accounts, self.settle = contents.accounts, contents.settle
        self.purge_delivered, self.tidy = bounds.purge, bounds.tidy
        self.make_room, self.has_room = bounds.make_room, bounds.has_room
        self.watch, self.commit_due_s = shared.watch, shared.commit_due_s
        self.stay_in_place = shared.stay_in_place
        self._live_since_s: float | None = None

    @property
    def stream(self) -> str:
        """The stream of the fixes that are put now, 16 hex digits."""
        return self.shared.stream_hex

    def put(self, fix: Fix, device: str) -> Record:
        """Name a fix and take it over. Waits for the disk only if ``commit_every_s`` is 0.

        If the queue is full and its limits say ``stop``, the fix is lost, and counted.

        Raises:
            ValueError: A value of the fix cannot be stored.
        """
        shared = self.shared
        now_s = shared.clock.monotonic_s()
        with shared.lock:
            row, record = shared.name(fix, device)
            if self._bounds.stopped:
                shared.ledger.lose([(row[0], row[0])], NOT_RECORDED)
                return record
            first = shared.writer.oldest is None
            shared.writer.add(now_s, row)
            if self._live_since_s is None:
                self._live_since_s = now_s
            if first:  # one that was there already has ended every wait
                shared.wake()
        if shared.commit_every_s == 0:
            with shared.disk:
                shared.write()
        if first:
            shared.ring()
        return record

    def hand_over(self) -> list[Row]:
        """Give up the rows that are not known to be on disk, for ``adopt`` of another queue."""
        shared = self.shared
        with shared.lock:
            shared.ledger.renumber(shared.committed + 1, shared.last)
            return shared.writer.give_up()

    def adopt(self, rows: Collection[Row]) -> None:
        """Take over the rows that another queue could not write. Call it before any ``put``."""
        shared = self.shared
        now_s = shared.clock.monotonic_s()
        with shared.lock:
            for row in rows:
                shared.writer.add(now_s, shared.adopt(row))
                self._live_since_s = now_s

    def commit(self) -> None:
        """Bring everything to disk.

        Raises:
            StorageError: The disk refused. Nothing is lost; it is tried again.
        """
        with self.shared.opened():
            disk_error = self.shared.write(at_once=True)
        if disk_error is not None:
            raise disk_error

    def lease(
        self,
        limit: int,
        *,
        live_first: bool = True,
        timeout_s: float | None = 0,
        backlog_only: bool = False,
        besides: Collection[str] = (),
    ) -> Batch | None:
        """Hand out fixes of one stream and one device, in the order of recording.

        Either live fixes or the oldest run of the backlog, never both. A batch that got no answer
        is the same batch again, unless ``limit`` is smaller. Only fixes on disk are handed out.
        Those that wait for a commit are committed first, unless they are less than a second old and
        there are others: a commit for them alone would cost as much as the whole batch.

        Args:
            limit: The most fixes that the batch may hold.
            live_first: If there are live fixes, the newest of them; else strictly the oldest.
            timeout_s: How long to wait for a ready fix; ``None``: without limit. ``close`` ends the
                wait with the ValueError of a closed queue. With ``backlog_only`` or ``besides`` it
                does not wait.
            backlog_only: No live fixes, if those do not go first.
            besides: Devices whose fixes are left out, with all that was recorded before them. Only
                if strictly the oldest are handed out.

        Returns:
            ``None`` if nothing is ready.

        Raises:
            StorageError: The file cannot be read.
        """
        if limit < 1:
            raise ValueError(f"a batch holds at least one fix, not {limit}")
        shared = self.shared
        until_s = None if timeout_s is None else shared.clock.monotonic_s() + timeout_s
        while True:
            with shared.opened():
                if self._must_commit_first(live_first=live_first):
                    shared.write()
                batch = self._lease(
                    limit, besides, live_first=live_first, backlog_only=backlog_only
                )
            if batch is not None or timeout_s == 0 or backlog_only or besides:
                return batch
            with shared.lock:
                if not shared.wait_until_ready(until_s):
                    return None

    def split(self, batch: Batch, at: int) -> tuple[Batch, Batch]:
        """Make one batch two: its first ``at`` fixes, and the rest."""
        if not 0 < at < len(batch.records):
            raise ValueError(f"a batch of length {len(batch.records)} cannot be split at {at}")
        first, second = self._change(lambda ledger: ledger.split(batch, at), written=False)
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
        """Mark the batch as delivered, on disk in one transaction.

        Args:
            batch: As it was handed out.
            rejected: seq -> reason of those that it refused: they become dead letters.
            retry: The seqs of those that it wants again later: they are ready. A seq in both is
                rejected; one that is not in the batch is ignored.
        """
        self._change(lambda ledger: ledger.ack(batch, rejected, retry))

    def fail(self, batch: Batch, reason: str) -> None:
        """Make dead letters of a batch that the endpoint refuses for good."""
        self._change(lambda ledger: ledger.fail(batch, reason))

    def release(self, batch: Batch, *, answered: bool = True) -> None:
        """Give the batch back undelivered.

        Args:
            batch: As it was handed out.
            answered: The endpoint said "later": the fixes are ready, as they were. False: it is
                unknown whether it has them; they are ``unack``, on disk, until ``resume_unack``.
        """
        if answered:  # nothing to write: on disk the fixes are ready anyway
            self._change(lambda ledger: ledger.give_back(batch), written=False)
        else:
            self._change(lambda ledger: ledger.suspend(batch))

    def resume_unack(self) -> int:
        """Make batches that got no answer ready again, each as it was. Returns how many fixes."""
        return self._change(Ledger.resume)

    def backlog(self) -> Backlog:
        """Count the fixes to be sent. Cheap, and never waits for the disk."""
        shared = self.shared
        with shared.lock:
            # What the disk refuses cannot be handed out.
            uncommitted = 0 if shared.writer.refused else shared.writer.uncommitted
            live = shared.ledger.ready_rows.live() + uncommitted
            return Backlog(
                ready=shared.ledger.ready_rows.free.total + uncommitted,
                live=live,
                live_since_s=self._live_since_s if live else None,
            )

    def close(self) -> None:
        """Commit and release the lock. For the next process all batches are ready. Idempotent.

        Raises:
            StorageError: The disk refused; the fixes that waited in memory are lost. The queue is
                closed nevertheless.
        """
        self._end.detach()
        with suppress(AgentError, ValueError):  # closed before; or the disk refuses
            self.shared.stay_in_place()  # what was deleted or replaced ends with the process
        _close(self.shared)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _change(self, change: Callable[[Ledger], V], *, written: bool = True) -> V:
        shared = self.shared
        with shared.opened():
            with shared.lock:
                result = change(shared.ledger)
                shared.wake()
            if written:
                shared.write()
        return result

    # For the holder of the disk lock

    def _must_commit_first(self, *, live_first: bool) -> bool:
        shared = self.shared
        with shared.lock:
            waiting, ready_rows = shared.writer.oldest, shared.ledger.ready_rows
            if waiting is None or shared.writer.refused:
                return shared.writer.refused
            others = ready_rows.any_live if live_first else ready_rows.free.total
            return not others or waiting[0] + _FRESH_S < shared.clock.monotonic_s()

    def _lease(
        self, limit: int, besides: Collection[str], *, live_first: bool, backlog_only: bool
    ) -> Batch | None:
        shared = self.shared
        while True:
            try:
                row = self._row_behind(besides) if besides else 1
                with shared.lock:
                    plan = shared.ledger.choose(limit, live_first=live_first, row=row)
                if plan is None or (plan.live and backlog_only):
                    return None
                batch = self._hand_out(plan, newest=plan.live and live_first)
            except UnusableError:  # damaged, or rows are missing
                if shared.file.damage is not None:  # the disk refuses to set it aside
                    raise
                continue  # the file was set aside: other rows are ready now
            if batch is not None:
                return batch

    def _row_behind(self, devices: Collection[str]) -> int:
        """The first row behind those of these devices.

        By bisection: a device has one name at a time. If it got an earlier name again, what was
        recorded between may be passed over.
        """
        shared = self.shared

        def is_behind(row: int) -> bool:
            with shared.lock:
                free = shared.ledger.ready_rows.free.first_row(row) or row
            return any(found[1] not in devices for found in shared.read((free, free)))

        with shared.lock:
            rows = range(1, shared.ledger.ready_rows.free.end)
        return 1 + bisect_left(rows, 1, key=is_behind)

    def _hand_out(self, plan: Plan, *, newest: bool) -> Batch | None:
        """Make a batch of the planned rows. ``None``: some are damaged, so plan again.

        If not all of them can be in one batch, the ``newest`` ones are, else the oldest.
        """
        shared = self.shared
        rows = shared.read(*plan.ranges)
        if len(rows) < plan.size:
            shared.miss(plan.size - len(rows))
        step = -1 if newest else 1
        _, run = next(groupby(rows[::step], itemgetter(1, 2)))  # of one device and one stream
        taken = list(run)[::step]
        found = [decode(row) for row in taken]
        records = tuple([record for record in found if record is not None])
        if len(records) < len(found):
            shared.damage([row[0] for row, record in zip(taken, found, strict=True) if not record])
            shared.write()
            return None
        with shared.lock:
            lease = shared.ledger.lease([row[0] for row in taken], plan)
            if not shared.ledger.ready_rows.any_live:
                waiting = shared.writer.oldest
                self._live_since_s = waiting[0] if waiting is not None else None
        first = records[0]
        return Batch(lease, first.stream, first.device, records, plan.live)


def _close(shared: SharedState) -> None:
    if shared.is_forked:  # the file is the parent's
        return
    with shared.disk:
        with shared.lock:
            if not shared.end():
                return
        disk_error = shared.write(at_once=True)
        shared.close()
    if disk_error is not None:
        count = shared.writer.uncommitted
        lost = f"; {counted(count, 'fix is', 'fixes are')} lost, which waited in memory"
        raise StorageError(f"{disk_error}{lost * bool(count)}")


def _end(shared: SharedState) -> None:
    """Close a queue that its program did not.

    Python closes the file in any case, and its log goes. The next start would take that for the
    loss of what was recorded.
    """
    with suppress(StorageError):
        _close(shared)
