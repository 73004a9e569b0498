"""The SQL of the queue, on its one connection: load, write, read.

Not safe for threads: the queue's disk lock guards it.
"""

import logging
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from telemetry_agent.ackqueue.file.rows import COLUMNS, TIME_MS, Row, is_sound
from telemetry_agent.ackqueue.file.schema import (
    PAGE_BYTES,
    Connect,
    State,
    UnusableError,
    cannot_open,
    open_database,
    open_read_only,
    primary_code,
)
from telemetry_agent.ackqueue.ranges import RangeMap, Span
from telemetry_agent.ackqueue.row_states import DAMAGED, Mark
from telemetry_agent.errors import StorageError

log = logging.getLogger(__name__)

ROWS_PER_READ = 1000
"""An open read keeps the log from being copied back, so no read is longer than this."""
_READS_THAT_MAY_FAIL = 3


_DAMAGED_BEFORE_3 = -1
"""A state that files had up to schema version 2, where a damaged row stayed in its place."""


class Away(NamedTuple):
    """The rows ``lo`` to ``hi`` are still in files that were set aside, those that there are."""

    lo: int
    hi: int
    oldest: int
    """One that is missing and older than this is no loss: it was delivered."""
    last: int
    """The highest that was known to be in use."""
    marked: int
    """1: Their marks are here."""


class Loaded(NamedTuple):
    """What memory needs of the file."""

    last: int
    """The last row number ever used."""
    marks: RangeMap[Mark]
    differing: set[int]
    """The first rows of marks that are not as stored."""
    away: Away | None


class Changes(NamedTuple):
    """One transaction."""

    rows: Sequence[Row] = ()
    """Of one stream, as far apart by number as by name. One that is there already, from a write
    whose outcome was unknown, has the same name."""
    marks: Mapping[int, Span[Mark] | None] = MappingProxyType({})
    """By first row; ``None`` removes the mark. ``GONE`` deletes its rows."""
    moved: Sequence[Row] = ()
    """They take the place of whatever has their numbers."""
    arrived: Sequence[Row] = ()
    """Out of a file that was set aside. Those that are there already stay."""
    away: Away | None = None
    """What is still to come of those, if that has changed."""


class Size(NamedTuple):
    """Of the file without its log."""

    bytes: int
    free_bytes: int
    """Of pages that the file holds and does not use."""


class TakenError(UnusableError):
    """The file has other rows than memory knows of."""


class FullError(StorageError):
    """The disk is full, or the file may not grow."""


_FAILURES: dict[int, type[StorageError]] = {
    sqlite3.SQLITE_CORRUPT: UnusableError,
    sqlite3.SQLITE_NOTADB: UnusableError,
    sqlite3.SQLITE_FULL: FullError,
}


MARK_COLUMNS = ("lo", "hi", "state", "reason", "batch", "crc")

_INSERT = (
    f"INSERT INTO fix ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "  # noqa: S608 - names of ours
    "ON CONFLICT DO NOTHING"
)
_REPLACE = f"REPLACE INTO fix ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 - names of ours
_SET_MARK = f"REPLACE INTO mark ({', '.join(MARK_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608 - names of ours
_SELECT_MARKS = f"SELECT {', '.join(MARK_COLUMNS)} FROM mark WHERE lo > ? ORDER BY lo LIMIT ?"  # noqa: S608 - names of ours
_SELECT_AWAY = f"SELECT {', '.join(Away._fields)} FROM away"  # noqa: S608 - names of ours
_SELECT = (
    f"SELECT {', '.join(COLUMNS)} FROM fix WHERE id BETWEEN ? AND ? "  # noqa: S608 - names of ours
    f"ORDER BY id LIMIT {ROWS_PER_READ}"
)
_SELECT_BEFORE = f"SELECT {', '.join(COLUMNS)} FROM fix WHERE id <= ? ORDER BY id DESC LIMIT ?"  # noqa: S608 - names of ours


class Store:
    """The queue file."""

    def __init__(self, path: Path, connect: Connect | None) -> None:
        """Open or make the file. Without ``connect`` it is only looked at, and nothing changes.

        Raises:
            UnusableError: What is there is no queue of ours, or a damaged one.
            StorageError: It cannot be opened.
        """
        self.path = path
        self._connection = open_database(path, connect) if connect else open_read_only(path)
        self._failed_reads = 0

    def load(self) -> Loaded:
        """Read what memory needs of the file; the cost follows the number of marks.

        A damaged mark is left out: its rows are ready again, so at worst a fix is sent twice under
        its own name.

        Raises:
            UnusableError: It is damaged. It is closed.
            StorageError: The file cannot be read. It is closed.
        """
        marks: RangeMap[Mark] = RangeMap()
        differing: set[int] = set()
        last = 0
        try:
            rows = self._connection.execute(_SELECT_MARKS, (0, -1)).fetchall()
            last_id = self._connection.execute("SELECT max(id) FROM fix").fetchone()[0] or 0
            away = self._connection.execute(_SELECT_AWAY).fetchone()
        except sqlite3.Error as error:
            self.close()
            raise cannot_open(self.path, error) from error
        for row in rows:
            found = read_mark(row)
            if found is None or found.lo <= last:
                log.error("the queue %s: the mark of rows %s to %s is damaged", self.path, *row[:2])
                differing.add(row[0])
                continue
            marks.paint(*found)
            last = found.hi
        if away is not None:
            away = Away(*away)
            last = max(last, away.hi)
        return Loaded(max(last, last_id), marks, differing, away)

    def write(self, changes: Changes) -> None:
        """Store all of it or nothing. To repeat it changes nothing.

        Raises:
            UnusableError: The file is damaged. Nothing is stored.
            FullError: There is no room. Nothing is stored.
            StorageError: The disk refused. Nothing is stored, or, when it failed at the very end,
                all of it.
        """
        try:
            self._write(changes)
        except sqlite3.Error as error:
            kind = _FAILURES.get(primary_code(error), StorageError)
            raise kind(f"cannot write the queue {self.path}: {error}") from error

    def read(self, lo: int, hi: int) -> Iterator[Row]:
        """The rows with these numbers that are there, in order, damaged or not.

        Raises:
            UnusableError: The file is damaged.
            StorageError: The file cannot be read.
        """
        while lo <= hi:
            rows = self._select(_SELECT, (lo, hi))
            yield from rows
            if len(rows) < ROWS_PER_READ:
                return
            lo = rows[-1][0] + 1

    def read_back(self, row: int, count: int) -> list[Row]:
        """The last ``count`` rows up to this one, the newest first; as ``read``."""
        return self._select(_SELECT_BEFORE, (row, count))

    def read_marks(self, after: int) -> list[Row]:
        """The next 1,000 marks behind this row, damaged or not; as ``read``."""
        return self._select(_SELECT_MARKS, (after, ROWS_PER_READ))

    def integrity(self) -> str:
        """What SQLite finds wrong with the structure of the file, or ``ok``."""
        try:
            (verdict,) = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.Error as error:
            return str(error)
        return str(verdict)

    def time_ms(self, row_id: int) -> int | None:
        """The time of one fix, if it can be read."""
        try:
            row = next(self.read(row_id, row_id), None)
        except StorageError:
            return None
        return row[TIME_MS] if row is not None and is_sound(row) else None

    def size(self) -> Size:
        """Raises StorageError: the file cannot be read."""
        try:
            pages, free = (
                int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_count", "freelist_count")
            )
        except sqlite3.Error as error:
            raise StorageError(f"cannot read the queue {self.path}: {error}") from error
        return Size(pages * PAGE_BYTES, free * PAGE_BYTES)

    def limit(self, size: int, log_size: int) -> None:
        """Refuse to grow beyond so many bytes. What is larger already stays."""
        self._connection.execute(f"PRAGMA max_page_count = {size // PAGE_BYTES}").fetchone()
        self._connection.execute(f"PRAGMA journal_size_limit = {log_size}").fetchone()

    def pack(self) -> None:
        """Give the free pages back to the disk. Takes as long as writing the others does.

        Raises:
            StorageError: The disk refused.
        """
        try:
            self._connection.execute("VACUUM")
        except sqlite3.Error as error:
            raise StorageError(f"cannot pack the queue {self.path}: {error}") from error

    def close(self) -> None:
        """Copy the log back and close the file.

        Raises:
            StorageError: The log cannot be copied back. It stays, and the file is closed.
        """
        try:
            self._connection.close()
        except sqlite3.Error as error:
            raise StorageError(f"cannot close the queue {self.path}: {error}") from error

    def _select(self, sql: str, parameters: tuple[int, int]) -> list[Row]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            text = f"cannot read the queue {self.path}: {error}"
            code = primary_code(error)
            # A sector that cannot be read any more must not keep all others from being sent. That
            # others can be read between two attempts says nothing.
            self._failed_reads += code == sqlite3.SQLITE_IOERR
            if self._failed_reads >= _READS_THAT_MAY_FAIL:
                raise UnusableError(text) from error
            raise _FAILURES.get(code, StorageError)(text) from error

    def _write(self, changes: Changes) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            self._write_marks(changes.marks)  # first: what goes makes room for what comes
            if changes.moved:
                self._connection.executemany(_REPLACE, changes.moved)
            if changes.arrived:
                self._connection.executemany(_INSERT, changes.arrived)
            if changes.rows:
                self._connection.executemany(_INSERT, changes.rows)
                self._check_stored(changes.rows)
            if changes.away is not None:
                execute("DELETE FROM away")
                if changes.away.lo <= changes.away.hi:
                    execute("INSERT INTO away VALUES (?, ?, ?, ?, ?)", changes.away)
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise

    def _write_marks(self, marks: Mapping[int, Span[Mark] | None]) -> None:
        execute = self._connection.execute
        for lo, span in marks.items():
            if span is None:
                execute("DELETE FROM mark WHERE lo = ?", (lo,))
                continue
            values = lo, span.hi, *span.value
            execute(_SET_MARK, (*values, _mark_checksum(*values)))
            if span.value.state is State.GONE:
                execute("DELETE FROM fix WHERE id BETWEEN ? AND ?", (lo, span.hi))

    def _check_stored(self, rows: Sequence[Row]) -> None:
        """A row of another name under one of these numbers would swallow a fix in silence."""
        row_id, _, stream, seq = rows[0][:4]
        (stored,) = self._connection.execute(
            "SELECT count(*) FROM fix WHERE id BETWEEN ? AND ? AND stream = ? AND seq - id = ?",
            (row_id, rows[-1][0], stream, seq - row_id),
        ).fetchone()
        if stored != len(rows):
            raise TakenError(f"row numbers of {self.path} are taken by other fixes")


def read_mark(row: Sequence[Any]) -> Span[Mark] | None:
    """A row of the table ``mark``; ``None``: it is damaged."""
    lo, hi, state, reason, batch, crc = row
    try:
        if crc != _mark_checksum(lo, hi, state, reason, batch):
            return None
        if state == _DAMAGED_BEFORE_3:
            return Span(lo, hi, DAMAGED)
        return Span(lo, hi, Mark(State(state), reason, batch))
    except ValueError:  # no state, or a text that is no UTF-8
        return None


def _mark_checksum(*values: object) -> int:
    return zlib.crc32(" ".join(str(value) for value in values).encode())
