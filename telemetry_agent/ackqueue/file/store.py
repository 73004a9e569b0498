"""The SQL of the queue, on its one connection: load, write, read.

Not safe for threads: the queue's disk lock guards it.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from operator import ge
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from telemetry_agent.ackqueue.file.rows import (
    COLUMNS,
    MARK_COLUMNS,
    STREAM_COLUMNS,
    TIME_MS,
    Row,
    is_sound,
    mark_row,
    read_mark,
    read_stream,
    with_checksum,
)
from telemetry_agent.ackqueue.file.schema import (
    FAILURES,
    PAGE_BYTES,
    Connect,
    FullError,
    UnusableError,
    connect,
    create_file,
    open_database,
    primary_code,
    storage_error,
)
from telemetry_agent.ackqueue.ranges import ABOVE_ALL, RangeMap, Span
from telemetry_agent.ackqueue.row_states import (
    REASONS_IN_MEMORY,
    Loaded,
    RowState,
    State,
    StreamRun,
    without_reason,
)
from telemetry_agent.disks import has_room, sync_directory
from telemetry_agent.errors import StorageError

ROWS_PER_READ = 1000
"""An open read keeps the log from being copied back, so no read is longer than this."""
_READS_THAT_MAY_FAIL = 3
_LOG_GROWTH_BYTES = 1 << 16


class Changes(NamedTuple):
    """One transaction."""

    rows: Sequence[Row] = ()
    """Of one stream, as far apart by number as by name. One that is there already, from a write
    whose outcome was unknown, has the same name."""
    marks: Mapping[int, Span[RowState] | None] = MappingProxyType({})
    """By first row; ``None`` removes the mark. ``GONE`` deletes its rows."""
    moved: Sequence[Row] = ()
    """They take the place of whatever has their numbers."""
    arrived: Sequence[Row] = ()
    """Out of a file that was set aside. Rows that are there already stay."""
    streams: Mapping[int, StreamRun | None] = MappingProxyType({})
    """By first row; ``None`` removes the run."""


class Size(NamedTuple):
    """Of the file without its log."""

    bytes: int
    free_bytes: int
    """Of pages that the file holds and does not use."""


class TakenError(UnusableError):
    """The file has other rows than memory knows of."""


def _into(table: str, columns: Sequence[str]) -> str:
    return f"INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def _select(columns: Sequence[str], rest: str) -> str:
    return f"SELECT {', '.join(columns)} FROM {rest}"  # noqa: S608 - names of ours


_INSERT = f"INSERT {_into('fix', COLUMNS)} ON CONFLICT DO NOTHING"
_REPLACE = f"REPLACE {_into('fix', COLUMNS)}"
_SET_MARK = f"REPLACE {_into('mark', MARK_COLUMNS)}"
_SET_STREAM = f"REPLACE {_into('stream', STREAM_COLUMNS)}"
_SELECT_MARKS = _select(MARK_COLUMNS, "mark WHERE lo > ? ORDER BY lo LIMIT ?")
_SELECT_MARK_OF = _select(MARK_COLUMNS, "mark WHERE lo <= ? ORDER BY lo DESC LIMIT 1")
_SELECT_STREAMS = _select(STREAM_COLUMNS, "stream ORDER BY lo")
_SELECT = _select(COLUMNS, "fix WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?")
_SELECT_BEFORE = _select(COLUMNS, "fix WHERE id <= ? ORDER BY id DESC LIMIT ?")


class Store:
    """The queue file.

    Every method that uses the file raises UnusableError if it is damaged, and StorageError if the
    disk refuses.
    """

    def __init__(self, path: Path, connect: Connect | None) -> None:
        """Open or make the file. Without ``connect`` it is only read, and nothing changes."""
        self.path = path
        self._connection, self._opened = open_database(path, connect)
        self._failed_reads = 0

    def load(self) -> Loaded:
        """Read what memory needs of the file; the cost follows the number of marks.

        If it raises, the file is closed.
        """
        marks: RangeMap[RowState] = RangeMap()
        damage: str | None = None
        known: set[RowState] = set()
        value: RowState | None = None
        last = 0
        try:
            for row in self._connection.execute(_SELECT_MARKS, (0, -1)):
                found = read_mark(row)
                if found is None or found.lo <= last:
                    damage = damage or f"the mark of the rows from {row[0]} on"
                    continue
                lo, last, mark = found
                if mark.state is State.ACK_FAILED and mark not in known:
                    if mark.reason is not None and len(known) < REASONS_IN_MEMORY:
                        known.add(mark)
                    else:
                        mark = without_reason(value)
                value = mark
                marks.paint(lo, last, value)
            streams = [read_stream(run) for run in self._connection.execute(_SELECT_STREAMS)]
            newest = self._connection.execute(_SELECT_BEFORE, (ABOVE_ALL, 2)).fetchall()
        except FAILURES as error:
            self.close()
            raise storage_error(
                f"cannot open the queue {self.path}", error, opening=True
            ) from error
        if None in streams:
            damage = damage or "a record of its streams"
        if newest and not is_sound(newest[0]):  # nothing else proves its number
            damage = damage or f"the newest row, {newest.pop(0)[0]}"
        last = max([last, *(row[0] for row in newest)])
        text = f"the queue {self.path} is damaged: {damage}" if damage else None
        return Loaded(last, marks, [run for run in streams if run is not None], text)

    def write(self, changes: Changes) -> None:
        """Store all of it or nothing. To repeat it changes nothing.

        Raises:
            FullError: There is no room. Nothing is stored.
            StorageError: The disk refused. Nothing is stored, or all of it if it failed at the end.
        """
        try:  # a context manager would be a twentieth of the work of a put
            self._write(changes)
        except FAILURES as error:
            what = f"cannot write the queue {self.path}"
            # SQLite takes a quota for an I/O error.
            if primary_code(error) == sqlite3.SQLITE_IOERR and not has_room(
                self.path.parent, _LOG_GROWTH_BYTES
            ):
                raise FullError(f"{what}: disk quota exceeded") from error
            raise storage_error(what, error) from error

    def read(self, ranges: Iterable[tuple[int, int]], limit: int = ABOVE_ALL) -> list[Row]:
        """The first rows with these numbers that are there, in order, damaged or not."""
        found: list[Row] = []
        for lo, hi in ranges:
            while lo <= hi and len(found) < limit:
                most = min(limit - len(found), ROWS_PER_READ)
                rows = self._select(_SELECT, (lo, hi, most))
                self._check_order([lo - 1, *[row[0] for row in rows], hi + 1])
                found += rows
                lo = rows[-1][0] + 1 if len(rows) == most else hi + 1  # noqa: PLW2901
        return found

    def read_back(self, row: int, count: int) -> list[Row]:
        """The last ``count`` rows up to this one, the newest first."""
        rows = self._select(_SELECT_BEFORE, (row, count))
        self._check_order([*(found[0] for found in reversed(rows)), row + 1])
        return rows

    def read_marks(self, after: int) -> list[Row]:
        """The next 1,000 marks behind this row, damaged or not."""
        marks = self._select(_SELECT_MARKS, (after, ROWS_PER_READ))
        self._check_order([after, *(mark[0] for mark in marks)])
        return marks

    def reason(self, row: int) -> str | None:
        """Why this dead letter was refused, if the file says so."""
        marks = map(read_mark, self._select(_SELECT_MARK_OF, (row,)))
        return next((mark.value.reason for mark in marks if mark and row <= mark.hi), None)

    def integrity(self) -> str:
        """What SQLite finds wrong with the structure of the file, or ``ok``."""
        try:
            (verdict,) = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
        except FAILURES as error:
            return str(error)
        return str(verdict)

    def time_ms(self, row_id: int) -> int | None:
        """The time of one fix, if it can be read."""
        try:
            rows = self.read([(row_id, row_id)])
        except StorageError:
            return None
        return next((row[TIME_MS] for row in rows if is_sound(row)), None)

    def size(self) -> Size:
        """How large the file is."""
        with self._refusing("read"):
            pages, free = (
                int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_count", "freelist_count")
            )
        return Size(pages * PAGE_BYTES, free * PAGE_BYTES)

    def limit(self, size: int, log_size: int) -> None:
        """Refuse to grow beyond this size in bytes. A larger file stays as it is."""
        with self._refusing("limit"):
            self._connection.execute(f"PRAGMA max_page_count = {size // PAGE_BYTES}").fetchone()
            self._connection.execute(f"PRAGMA journal_size_limit = {log_size}").fetchone()

    def pack(self) -> None:
        """Give the free pages back to the disk. Takes as long as writing the others does."""
        with self._refusing("pack"):
            self._connection.execute("VACUUM")

    def copy_to(self, path: Path) -> None:
        """Write all that is committed to a new file, synced."""
        with self._refusing("copy"), ExitStack() as stack:
            create_file(path)
            stack.callback(path.unlink, missing_ok=True)  # on a full disk it takes what is left
            with closing(connect(path)) as copy:
                copy.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                copy.execute("PRAGMA journal_mode = OFF")  # a new file has nothing to restore
                self._connection.backup(copy)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            sync_directory(path.parent)
            stack.pop_all()

    def close(self) -> None:
        """Copy the log back and close the file. If that is refused, the log stays."""
        with self._refusing("close"):
            self._opened.close()

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            raise storage_error(f"cannot {what} the queue {self.path}", error) from error

    def _select(self, sql: str, parameters: tuple[int, ...]) -> list[Row]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except FAILURES as error:
            refused = storage_error(f"cannot read the queue {self.path}", error)
            # A sector that cannot be read any more must not keep all others from being sent. So
            # a read that succeeds in between does not reset the count.
            self._failed_reads += primary_code(error) == sqlite3.SQLITE_IOERR
            if self._failed_reads >= _READS_THAT_MAY_FAIL:
                raise UnusableError(str(refused)) from error
            raise refused from error

    def _check_order(self, numbers: list[int]) -> None:
        """Check for a page in the place of another, which SQLite does not notice."""
        if any(map(ge, numbers, numbers[1:])):
            raise UnusableError(f"the queue {self.path} is damaged: its rows are out of order")

    def _write(self, changes: Changes) -> None:
        execute = self._connection.execute
        # Before the file changes: some reasons are in the file only.
        marks = {lo: span and self.with_reason(span) for lo, span in changes.marks.items()}
        try:
            execute("BEGIN IMMEDIATE")
            self._write_marks(marks)  # first: what goes makes room for what comes
            for lo, run in changes.streams.items():
                if run is None:
                    execute("DELETE FROM stream WHERE lo = ?", (lo,))
                else:
                    execute(_SET_STREAM, with_checksum(*run))
            self._connection.executemany(_REPLACE, changes.moved)
            self._connection.executemany(_INSERT, changes.arrived)
            if changes.rows:
                self._connection.executemany(_INSERT, changes.rows)
                self._check_stored(changes.rows)
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise

    def with_reason(self, span: Span[RowState]) -> Span[RowState]:
        """The mark of dead letters, with the reason that only the file has."""
        if span.value.state is not State.ACK_FAILED or span.value.reason is not None:
            return span
        return span._replace(value=RowState(State.ACK_FAILED, self.reason(span.lo)))

    def _write_marks(self, marks: Mapping[int, Span[RowState] | None]) -> None:
        execute = self._connection.execute
        for lo, span in marks.items():
            if span is None:
                execute("DELETE FROM mark WHERE lo = ?", (lo,))
                continue
            execute(_SET_MARK, mark_row(span))
            if span.value.state in {State.GONE, State.UNUSED}:
                execute("DELETE FROM fix WHERE id BETWEEN ? AND ?", (lo, span.hi))

    def _check_stored(self, rows: Sequence[Row]) -> None:
        """Without this, a row of another name under one of these numbers would replace a fix."""
        row_id, _, stream, seq = rows[0][:4]
        (stored,) = self._connection.execute(
            "SELECT count(*) FROM fix WHERE id BETWEEN ? AND ? AND stream = ? AND seq - id = ?",
            (row_id, rows[-1][0], stream, seq - row_id),
        ).fetchone()
        if stored != len(rows):
            raise TakenError(f"row numbers of {self.path} are taken by other fixes")
