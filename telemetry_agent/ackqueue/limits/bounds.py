"""How much of the disk the queue may use, how long it keeps fixes, and what it deletes first.

Without a limit nothing is deleted. If the disk is short of space, damaged files that were kept go
first. Then delivered fixes are deleted, then dead letters, then ``when_full`` decides: ``thin``
deletes fixes that the shape of the track does not need, from the older half of what waits, coarser
with each pass; ``drop-oldest`` deletes the oldest; ``stop`` records no new ones. Batches that are
leased stay whole. Each fix that is deleted undelivered is counted.

There are two limits. Above the lower one each step deletes some rows. The upper one is SQLite's
``max_page_count``: at it the file does not grow, but rows can still be deleted. If the disk is full
before a limit is reached, the ballast is deleted to make room.
"""

import logging
import os
import resource
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from telemetry_agent.ackqueue.file.rows import TIME_MS, Row, decode, is_sound
from telemetry_agent.ackqueue.file.schema import ballast_of
from telemetry_agent.ackqueue.file.store import ROWS_PER_READ
from telemetry_agent.ackqueue.limits.thinning import Thinner
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.row_states import DROPPED, EXPIRED, PURGED, REFUSED, RowState, State
from telemetry_agent.ackqueue.shared_state import SharedState
from telemetry_agent.disks import allocate, free_bytes, has_room
from telemetry_agent.errors import StorageError

log = logging.getLogger(__name__)

WhenFull = Literal["thin", "drop-oldest", "stop"]

_THEN: dict[WhenFull, str] = {
    "thin": "what the shape of the track does not need",
    "drop-oldest": "the oldest",
    "stop": "nothing is recorded",
}
_MIB = 1 << 20
_LEAST_BYTES = 4 * _MIB
"""The queue may use this much even of a disk with less free space than ``min_free``."""
_LOG_BYTES = _MIB
_DOUBTFUL_ROWS = 50_000
"""To find the age of a fix whose time is in doubt, look at this many of those that follow."""
_PACK_FROM_BYTES = 4 * _MIB
_PACK_UPTO_BYTES = 16 * _MIB
"""To pack writes again all that is kept, and nothing else is written meanwhile: some seconds on a
slow card."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits in ``[queue]`` of the config; 0: no limit."""

    max_size_bytes: int = 0
    """Of the file, its log and its ballast."""
    min_free_bytes: int = 0
    """Of the disk, left free for others."""
    max_age_s: float = 0
    """By GNSS time, from the newest fix whose time is not in doubt."""
    when_full: WhenFull = "thin"


class Room(NamedTuple):
    """Bytes of the queue file."""

    used: int
    limit: int
    disk_free: int

    @property
    def short(self) -> bool:
        """Whether so little room is left that some must be made."""
        return self.used > self.limit - self.limit // 16

    @property
    def ample(self) -> bool:
        """Whether the queue counts as not full again: a quarter of its limit is free."""
        return self.used <= self.limit - self.limit // 4


class Ballast:
    """``PATH.ballast``: room that is kept for the day on which the disk is full.

    To delete rows, or to note an acknowledgement, takes room too. So a file of zeros is kept beside
    the queue. It is deleted if a write is not possible otherwise.
    """

    def __init__(self, queue_path: Path, size: int) -> None:
        self._path = ballast_of(queue_path)
        self._size = size

    @property
    def is_there(self) -> bool:
        """Whether there is such room."""
        with suppress(OSError):
            return self._path.stat().st_size == self._size
        return False

    def keep(self, spare_bytes: int) -> None:
        """Make it if it is not there and the disk can spare it twice."""
        if spare_bytes < 2 * self._size or self.is_there:
            return
        self.drop()  # of other limits, or a kill came before it had its size
        try:
            fd = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o640)
            try:
                allocate(fd, self._size)
            finally:
                os.close(fd)
        except OSError:
            self.drop()

    def drop(self) -> bool:
        """Give its room to the queue. Returns whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True


class Bounds:
    """Keeps a queue within its limits. Each call does a limited amount of work."""

    def __init__(self, shared: SharedState, limits: Limits, keep_delivered_s: float) -> None:
        self.full = False
        """Fixes are deleted to make room for new ones."""
        self.stopped = False
        """No more fixes are recorded."""
        self._shared = shared
        self._limits = limits
        # SQLite reports this limit (``ulimit -f``) as an I/O error.
        largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self._bounded and largest != resource.RLIM_INFINITY:
            most = min(limits.max_size_bytes or largest, largest)
            self._limits = limits = replace(limits, max_size_bytes=most)
        self._keep_delivered_ms = keep_delivered_s * 1000
        self._reserve = (
            min(_LOG_BYTES, limits.max_size_bytes // 8) if limits.max_size_bytes else _LOG_BYTES
        )
        self._ballast = Ballast(shared.path, self._reserve)
        self._forbidden = 0
        """Free bytes of the disk that a quota keeps from this user."""
        self._before: Counter[str] = Counter()
        self._thinner = Thinner(shared)
        if self._bounded:
            shared.relieve_by(self._relieve)
            with shared.disk:  # a limit holds from the start, before the first call
                self._look()

    @property
    def _bounded(self) -> bool:
        return self._limits.max_size_bytes > 0 or self._limits.min_free_bytes > 0

    def make_room(self) -> bool:
        """Keep within the limits, one step at a time. Returns and raises as ``purge``."""
        with self._shared.opened():
            if not self._bounded or self._shared.writer.refused:
                return False
            room = self._look()
            self._ballast.keep(room.disk_free - self._limits.min_free_bytes)
            if room.ample:
                self._end_full()
            if not (room.short or self.stopped):
                return False
            self._begin_full()
            if not self._give_up(disk_is_short=room.disk_free < self._limits.min_free_bytes):
                return False
            self._shared.write()
            room = self._look()
            return room.short or (self.stopped and not room.ample)

    def has_room(self) -> bool:
        """Whether more can be carried over, after deleting some delivered fixes at most.

        Raises:
            StorageError: The file cannot be read.
        """
        shared = self._shared
        with shared.opened():
            if not self._bounded or self._look().ample:
                return True
            if shared.writer.refused or not self._give_up_delivered():
                return False
            return shared.write() is None

    def tidy(self) -> bool:
        """Delete what is too old, give back free pages. As ``purge``."""
        if self.purge():
            return True
        with self._shared.opened():
            if self._expire():
                return True
            self._pack()
            self._shared.write_summary()
        return False

    def purge(self) -> bool:
        """Delete some of the delivered fixes that are older than ``keep_delivered_s``.

        Age is the distance in GNSS time, either way, from the last fix put in this run whose time
        is not in doubt: the system clock of a device may be wrong by years. So nothing is deleted
        before there is such a fix. Oldest recorded first, at most 1,000 in a transaction. The
        newest fix stays whatever its age, because the next run begins with it (see ``newest``).

        Returns:
            Whether there may be more to delete now.

        Raises:
            StorageError: The file cannot be read.
        """
        shared = self._shared
        with shared.opened():
            delivered = self._first(State.ACKED)
            if shared.latest_ms is None or shared.writer.refused:
                return False
            old = []
            for lo, hi in delivered:
                kept = next(filter(self._is_kept, shared.read((lo, hi))), None)
                end = min(hi, shared.last - 1) if kept is None else kept[0] - 1
                if lo <= end:
                    old.append((lo, end))
                if end < hi:
                    break
            if not old:
                return False
            self._lose(old, PURGED)
            shared.write()
            return old[-1][1] == delivered[-1][1]

    # For the holder of the disk lock

    def _is_kept(self, row: Row) -> bool:
        latest_ms = self._shared.latest_ms or 0
        return is_sound(row) and abs(row[TIME_MS] - latest_ms) <= self._keep_delivered_ms

    def _expire(self) -> bool:
        """Delete some fixes that are older than ``max_age``. Returns and raises as ``purge``."""
        shared = self._shared
        if not self._limits.max_age_s or shared.latest_ms is None or shared.writer.refused:
            return False
        oldest_ms = shared.latest_ms - self._limits.max_age_s * 1000
        more = False
        with shared.lock:
            waiting = next(iter(shared.ledger.ready_rows.free), None)
        for lo, hi in self._first(State.ACK_FAILED) + self._first(State.UNACK):
            last_old, ends = self._old(lo, hi, oldest_ms)
            if last_old >= lo:
                self._lose([(lo, last_old)], EXPIRED)
                more |= not ends
        if waiting is not None:
            last_old, ends = self._old(waiting.lo, shared.last, oldest_ms)
            if last_old >= waiting.lo:
                self._lose_oldest(EXPIRED, last_old, last_old)
                more |= not ends
        shared.write()
        return more

    def _old(self, lo: int, hi: int, oldest_ms: float) -> tuple[int, bool]:
        """Find the last row that is too old (``lo - 1``: none), and whether a younger one follows.

        A fix whose time is in doubt counts as old as the next one whose time is not.
        """
        last_old = none = lo - 1
        most = min(hi, lo + _DOUBTFUL_ROWS)
        while last_old == none and lo <= most:
            rows = self._shared.read((lo, hi), limit=ROWS_PER_READ)
            for row in rows:
                record = decode(row)
                if record is not None and record.fix.time_is_sure:
                    if record.fix.time_ms >= oldest_ms:
                        return last_old, True
                    last_old = row[0]
            lo = rows[-1][0] + 1 if rows else most + 1
        return last_old, False

    def _pack(self) -> None:
        """Give unused pages back to the disk if they are most of the file."""
        shared = self._shared
        if shared.writer.refused or shared.ledger.away.any:
            return
        size = shared.store.size()
        used = size.bytes - size.free_bytes
        if size.bytes >= max(_PACK_FROM_BYTES, 4 * used) and used <= _PACK_UPTO_BYTES:
            shared.store.pack()
            log.info("the queue %s: %d MB were given back", shared.path, size.free_bytes // 10**6)

    def _relieve(self) -> bool:
        """Make some room in a file that may not grow, or on a full disk. Returns whether it did."""
        try:
            room = self._look()
            if not has_room(self._shared.path.parent, _LOG_BYTES // 16):
                self._forbidden += room.disk_free
                room = self._look()
            self._begin_full()
            if room.disk_free < self._reserve and self._ballast.drop():
                self._look()
                return True
            # A file at its own limit gains nothing from the room that other files give up.
            is_short = room.disk_free < max(self._limits.min_free_bytes, self._reserve)
            # To delete rows is a write too: while it is refused, more of them make no room either.
            if self._shared.writer.write(self._shared.store, with_new=False) is not None:
                return is_short and set_aside_files.delete_kept(self._shared.path)
            return self._give_up(disk_is_short=is_short)
        except StorageError:
            return False

    def _look(self) -> Room:
        shared, limits = self._shared, self._limits
        size = shared.store.size()
        folder = shared.path.parent
        # Not the room alone that the ballast leaves.
        if self._forbidden and has_room(folder, 3 * self._reserve):
            self._forbidden = 0
        disk_free = max(0, free_bytes(folder) - self._forbidden)
        spare = disk_free if size.bytes < _LEAST_BYTES else disk_free - limits.min_free_bytes
        if not self._ballast.is_there:  # the room that it left is for the log, not for new rows
            spare = min(spare, max(disk_free - self._reserve, disk_free // 2))
        limit = size.bytes + max(0, spare)
        if limits.max_size_bytes:
            limit = min(limit, limits.max_size_bytes - 2 * self._reserve)
        shared.store.limit(limit, self._reserve)
        return Room(size.bytes - size.free_bytes, limit, disk_free)

    def _begin_full(self) -> None:
        if self.full:
            return
        self.full = True
        self._before = self._lost()
        log.warning(
            "the queue %s is full: delivered fixes go first, then dead letters, then %s",
            self._shared.path,
            _THEN[self._limits.when_full],
            extra={"fields": {"STATE": "full"}},
        )

    def _end_full(self) -> None:
        self.stopped = False
        self._shared.ring_for_room()
        if not self.full:
            return
        self.full = False
        self._thinner.begin()
        lost = self._lost() - self._before
        log.warning(
            "the queue %s has room again; lost meanwhile: %s",
            self._shared.path,
            ", ".join(f"{count} {reason}" for reason, count in lost.items()) or "nothing",
            extra={"fields": {"STATE": "ok", "COUNT": lost.total()}},
        )

    def _lost(self) -> Counter[str]:
        with self._shared.lock:
            return self._shared.ledger.lost()

    def _give_up(self, *, disk_is_short: bool) -> bool:
        """Delete some of what is missed least. False: nothing is left to delete."""
        if disk_is_short and set_aside_files.delete_kept(self._shared.path):
            return True
        if self._give_up_delivered():
            return True
        if dead := self._first(State.ACK_FAILED):
            self._lose(dead, REFUSED)
            return True
        if self._limits.when_full == "stop":
            self.stopped = True
            return False
        with self._shared.lock:
            # An endpoint that takes every request and answers none makes all of it UNACK, and then
            # only the newest could go.
            self._shared.ledger.resume()
        return (self._limits.when_full == "thin" and self._thinner.step()) or self._drop()

    def _give_up_delivered(self) -> bool:
        # The newest row of all stays: the next run reads in it how far this one came.
        last = self._shared.last - 1
        delivered = [(lo, min(hi, last)) for lo, hi in self._first(State.ACKED) if lo <= last]
        self._lose(delivered, PURGED)
        return bool(delivered)

    def _drop(self) -> bool:
        with self._shared.lock:
            before = self._shared.ledger.ready_rows.free.total
        self._lose_oldest(DROPPED, min(ROWS_PER_READ, before // 16 + 1), self._shared.last)
        return before > 0

    def _first(self, state: State) -> list[tuple[int, int]]:
        with self._shared.lock:
            return self._shared.ledger.first_here(state, ROWS_PER_READ)

    def _lose(self, ranges: list[tuple[int, int]], mark: RowState) -> None:
        with self._shared.lock:
            self._shared.ledger.lose(ranges, mark)

    def _lose_oldest(self, mark: RowState, limit: int, upto: int) -> None:
        with self._shared.lock:
            self._shared.ledger.lose_oldest(mark, limit, upto)
