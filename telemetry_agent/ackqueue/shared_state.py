"""The state that the parts of a queue share: its file, what memory knows of it, and two locks.

``lock`` guards memory and is held for some milliseconds at most. ``disk`` guards the connection
and is held across an fsync; a thread that needs both takes ``disk`` first. Free rows are only taken
under ``disk``, so its holder can plan under ``lock`` and then read the file: no row moves between.
A function that needs a lock asserts it.

Memory is ahead of the disk: each transaction writes the new rows and every mark that differs. So a
disk that refuses to write costs time only. And a file that is found damaged can be set aside at any
moment: a new file gets everything that is in memory.
"""

import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

from telemetry_agent.ackqueue.file.lock import QueueSummary
from telemetry_agent.ackqueue.file.rows import (
    SEQ,
    STREAM,
    TIME_MS,
    Row,
    at_place,
    encode,
    stream_from_int,
)
from telemetry_agent.ackqueue.file.schema import Connect, FullError, UnusableError
from telemetry_agent.ackqueue.file.store import Store, TakenError
from telemetry_agent.ackqueue.file.writer import Writer
from telemetry_agent.ackqueue.generations import border_up_to, next_border
from telemetry_agent.ackqueue.ledger import Ledger
from telemetry_agent.ackqueue.queue_file import QueueFile
from telemetry_agent.ackqueue.ranges import ABOVE_ALL, runs
from telemetry_agent.ackqueue.row_states import DAMAGED
from telemetry_agent.clock import Clock
from telemetry_agent.errors import StorageError, counted
from telemetry_agent.model import Fix, Record
from telemetry_agent.tasks import FairLock, give_way

log = logging.getLogger(__name__)

V = TypeVar("V")

_RELIEFS = 32  # each makes room for some rows, and a transaction holds at most 1,000


class SharedState:
    """Everything that the parts of a queue share."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        connect: Connect,
        *,
        commit_every_s: float,
        max_uncommitted: int,
    ) -> None:
        """See ``AckQueue``."""
        self.path = path
        self.clock = clock
        self.commit_every_s = commit_every_s
        self._pid = os.getpid()
        self.closed = False
        """Whether every call except ``write`` and ``close`` is refused."""
        self._relieve: Callable[[], bool] = lambda: False
        self.lock = threading.Lock()
        self.disk = FairLock()  # on a slow disk the committer writes without a pause
        self.ready = threading.Condition(self.lock)
        self._waiting_for_room: set[Callable[[], None]] = set()
        self._watchers: list[Callable[[], None]] = []
        self.file = QueueFile(path, connect)
        self.is_covered = False
        """Whether another disk was mounted over the file when ``stay_in_place`` looked. The agent
        opens the queue on that disk then."""
        loaded = self.file.loaded
        self.ledger = Ledger(loaded)
        self.ledger.resume()
        self.writer = Writer(
            self.ledger,
            self.lock,
            clock,
            written=loaded.last,
            max_uncommitted=max_uncommitted,
            on_change=self.ring,
        )
        self._base = loaded.last
        """The row of a fix put in this stream is this plus its seq."""
        self._seq = 0
        self._draw_stream()
        self.latest_ms: int | None = None
        """Of the last fix that was put and whose time is not in doubt."""
        self._oldest: tuple[int, int | None] | None = None  # the oldest pending row, its time
        self._find_oldest()
        self.write_summary()

    def watch(self, ring: Callable[[], None]) -> None:
        """Have ``ring`` called, from any thread, when there is something new to do.

        That is the first fix since a commit, a source that waits for room, fixes that are ready
        again by ``retry`` or ``resend`` or were carried over, a disk that refuses to write or
        writes again, and a file that was set aside. ``ring`` must return at once and not call the
        queue.
        """
        self._watchers.append(ring)

    def relieve_by(self, relieve: Callable[[], bool]) -> None:
        """Have ``relieve`` give up some rows in memory when the disk has no room for a write.

        It returns False if there is nothing to give up. It is called under the disk lock.
        """
        self._relieve = relieve

    def ring(self) -> None:
        """Ring for the watchers: there is something new to do."""
        for ring in self._watchers:
            ring()

    def wait_for_room(self, ring: Callable[[], None]) -> None:
        """Have ``ring`` called once when there may be room. For the holder of the memory lock."""
        assert self.lock.locked()
        self._waiting_for_room.add(ring)

    def ring_for_room(self) -> None:
        """Ring, once, for those who wait for room."""
        with self.lock:
            rings, self._waiting_for_room = self._waiting_for_room, set()
        for ring in rings:
            ring()

    @property
    def is_forked(self) -> bool:
        """Whether this process was forked off the one that opened the queue."""
        return os.getpid() != self._pid

    def check_open(self) -> None:
        """Raise ValueError if the queue is closed, or belongs to the parent of this process."""
        if self.closed:
            raise ValueError(f"the queue {self.path} is closed")
        if self.is_forked:  # it would give the names that the parent gives
            raise ValueError(f"the queue {self.path} is open in the parent of this process")

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the disk lock of an open queue; see ``check_open``."""
        self.check_open()  # a forked process has no thread that would release the lock
        with self.disk:
            self.check_open()
            yield

    def commit_due_s(self) -> float | None:
        """The monotonic time by which ``commit`` should be called; ``None``: nothing waits."""
        with self.lock:
            return self.writer.due_s(0 if self._waiting_for_room else self.commit_every_s)

    def stay_in_place(self) -> None:
        """Continue in new files if somebody deleted, moved or replaced those in use.

        Raises:
            QueueLockedError: Another process uses the queue meanwhile.
            StorageError: The disk refuses. The open file stays in use.
        """
        with self.opened():
            self.is_covered = self.file.is_covered
            if self.is_covered:
                return
            if not self.file.retake_lock() and self.file.is_in_place:
                return
            self.write_summary()  # for the case that a kill leaves only a part of the copy
            if not self.file.is_in_place:
                self.writer.report(self.replace(self.file.copy_aside()))

    # For the holder of the memory lock

    def name(self, fix: Fix, device: str) -> tuple[Row, Record]:
        """Give a fix its row and its name.

        Raises:
            ValueError: The fix holds what cannot be stored.
        """
        assert self.lock.locked()
        self.check_open()
        seq = self._seq + 1
        row = encode(self._base + seq, self.stream, seq, device, fix)
        if seq == 1:
            self.ledger.streams.begin(row[0], self.stream, seq)
        self._seq = seq
        if fix.time_is_sure:
            self.latest_ms = fix.time_ms
        return row, Record(self.stream_hex, seq, device, fix)

    def adopt(self, row: Row) -> Row:
        """Give a row of another queue, with its name, a place before those of this stream."""
        assert self.lock.locked()
        self._base += 1
        self.ledger.streams.begin(self._base, row[STREAM], row[SEQ])
        return at_place(row, self._base)

    def wait_until_ready(self, until_s: float | None) -> bool:
        """Wait until a lease may find rows, without the lock. False: it is ``until_s``."""
        assert self.lock.locked()
        while not (self.closed or self.ledger.ready_rows.free.total):
            now_s = self.clock.monotonic_s()
            write_s = self.writer.due_s(0)  # the lease commits what waits, or tries again
            if write_s is not None and write_s <= now_s:
                break
            if until_s is not None and until_s <= now_s:
                return False
            ends_s = [end_s for end_s in (until_s, write_s) if end_s is not None]
            self.ready.wait(min(ends_s) - now_s if ends_s else None)
        return True

    def wake(self) -> None:
        """End every ``wait_until_ready``: rows may be ready, or the queue was closed."""
        assert self.lock.locked()
        self.ready.notify_all()

    def end(self) -> bool:
        """Refuse every call except ``write`` and ``close``. False: it did already."""
        assert self.lock.locked()
        was_open, self.closed = not self.closed, True
        self.wake()
        return was_open

    @property
    def last(self) -> int:
        """The number of the last row, also for the holder of the disk lock."""
        assert self.lock.locked() or self.disk.locked()
        return self._base + self._seq

    @property
    def committed(self) -> int:
        """The number of the last row that no transaction is still to write.

        For the holder of ``disk`` it is known to be on disk: no transaction is under way.
        """
        assert self.lock.locked()
        waiting = self.writer.oldest
        return waiting[1][0] - 1 if waiting is not None else self.last

    @property
    def oldest_ms(self) -> int | None:
        """GNSS time of the oldest fix that is to be delivered, if it is known."""
        assert self.lock.locked()
        if self._oldest is not None:
            return self._oldest[1]
        waiting = self.writer.oldest
        return waiting[1][TIME_MS] if waiting is not None else None

    # For the holder of the disk lock

    @property
    def store(self) -> Store:
        """The SQL of the file that is in use now."""
        return self.file.store

    def write(self, *, at_once: bool = False) -> StorageError | None:
        """Bring everything to disk. Returns why it refused, which was logged.

        While it refuses, one write a second is tried in all, except those that must be ``at_once``.
        """
        assert self.disk.locked()
        if not at_once and (refused := self.writer.disk_error_now()) is not None:
            self._find_oldest()
            return refused
        disk_error = self.file.damage or self.writer.write(self.store)
        if isinstance(disk_error, UnusableError):
            disk_error = self.replace(disk_error)
        for _ in range(_RELIEFS):
            if not isinstance(disk_error, FullError) or not self._relieve():
                break
            disk_error = self.writer.write(self.store)
        self.writer.report(disk_error)
        self._find_oldest()
        if disk_error is None and self._waiting_for_room:
            self.ring_for_room()
        return disk_error

    def read(self, *ranges: tuple[int, int], limit: int = ABOVE_ALL) -> list[Row]:
        """Read rows; see ``Store.read``. Raises as ``ask``."""
        return self.ask(lambda store: store.read(ranges, limit))

    def ask(self, read: Callable[[Store], V]) -> V:
        """Read something from the file.

        Raises:
            UnusableError: The file is damaged, and was set aside.
            StorageError: The file cannot be read.
        """
        assert self.disk.locked()
        if self.file.damage is not None:
            raise self.file.damage
        try:
            return read(self.store)
        except UnusableError as error:
            self.writer.report(self.replace(error))
            raise

    def miss(self, count: int) -> NoReturn:
        """Set the file aside: this many rows that were stored are not found.

        A damaged inner page hides the rows behind it from SQLite, and a page scan finds them.

        Raises:
            UnusableError: Always; the file was set aside.
        """
        missing = counted(count, "row is missing", "rows are missing")
        error = UnusableError(f"the queue {self.path} is damaged: {missing}")
        self.writer.report(self.replace(error))
        raise error

    def damage(self, rows: list[int]) -> None:
        """Give up these rows: they are not as they were stored. The next write deletes them."""
        assert self.disk.locked()
        with self.lock:
            self.ledger.lose(runs(rows), DAMAGED)
        log.error(
            "the queue %s: %s damaged and cannot be sent (rows %d to %d)",
            self.path,
            counted(len(rows), "fix is", "fixes are"),
            rows[0],
            rows[-1],
        )

    def replace(self, why: UnusableError) -> StorageError | None:
        """Set the file aside, and continue with a new one.

        Returns:
            Why the disk refuses this, or a write to the new file.
        """
        assert self.disk.locked()
        try:
            self.file.set_aside(why)
        except StorageError as error:
            return error
        with self.lock:
            marked = 0
            while marked < self.committed:
                marked = self.ledger.mark_known(marked + 1, self.committed)
                give_way(self.lock)
            border = next_border(self.last)
            if not isinstance(why, TakenError):
                # The old file may hold these rows although the disk reported a refusal. Here they
                # get new numbers; the old ones are marked as unused, so that none arrives twice.
                # After a TakenError those numbers have other rows there, which are to arrive.
                self.ledger.renumber(self.committed + 1, self.last)
            self.ledger.send_away(self.committed, border)
            self._base, self._seq = self.writer.renumber(border), 0
            for row in self.writer.rows:
                self.ledger.streams.begin(row[0], row[STREAM], row[SEQ])
            self._draw_stream()
        self.ring()
        disk_error = self.writer.write(self.store)
        if disk_error is None:  # until then the old summary helps a start to count what is missing
            self.write_summary()
        return disk_error

    def write_summary(self, *, clean: bool = False) -> bool:
        """Write beside the file what is in it, for the case that it is found empty.

        Returns whether the disk accepted it.
        """
        with self.lock:
            away = self.ledger.away.any
            oldest = self.ledger.oldest_pending(border_up_to(self.last) if away else 0)
            # Only these are missing if the file is found empty.
            last = min(self.committed, self.writer.written)
            run, lost = self.ledger.streams.last, self.ledger.lost_or_refused()
        # Not under the memory lock: a disk that hangs does not delay a put.
        summary = QueueSummary(clean, oldest or last + 1, last, away, run, lost)
        return self.file.lock.write_summary(summary)

    def close(self) -> None:
        """Close the file, and let the next process in."""
        # Before the log goes: a queue without a log that was not closed has lost its end.
        is_written = self.write_summary(clean=True)
        try:
            self.store.close()
            if not is_written:  # the disk was full, and the index, now deleted, has made room
                self.write_summary(clean=True)
        finally:
            self.file.lock.release()

    def _draw_stream(self) -> None:
        self.stream = secrets.randbits(64) - 2**63
        self.stream_hex = stream_from_int(self.stream)

    def _find_oldest(self) -> None:
        """Read the time of the oldest row, so that ``oldest_ms`` needs no disk."""
        with self.lock:
            self.wake()  # a write may have made rows ready
            row = self.ledger.oldest_pending()
        if row is None:
            self._oldest = None
        elif self._oldest is None or self._oldest[0] != row:
            self._oldest = (row, self.store.time_ms(row))
