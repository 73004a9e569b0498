"""The SQL of the queue, on its one connection: load, write, read.

Not safe for threads: the queue's disk lock guards it.
"""

import logging
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from telemetry_agent.ackqueue.ranges import RangeMap, Span
from telemetry_agent.ackqueue.rows import COLUMNS, Row, is_sound
from telemetry_agent.ackqueue.schema import Connect, State, open_database, unusable
from telemetry_agent.errors import StorageError

log = logging.getLogger(__name__)

ROWS_PER_READ = 1000
"""An open read keeps the log from being copied back, so no read is longer than this."""

_INSERT = (
    f"INSERT INTO fix ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "  # noqa: S608 - names of ours
    "ON CONFLICT DO NOTHING"
)
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM fix WHERE id BETWEEN ? AND ? ORDER BY id"  # noqa: S608 - names of ours


class Mark(NamedTuple):
    """What became of a run of rows."""

    state: State
    reason: str | None = None
    batch: int | None = None
    """For UNACK and READY: the rows of one batch share this number (its first row)."""


class Store:
    """The queue file."""

    def __init__(self, path: Path, connect: Connect) -> None:
        """Open or make the file.

        Raises:
            StorageError: It cannot be opened, is no queue, or was written by a newer version.
        """
        self.path = path
        self._connection = open_database(path, connect)

    def load(self) -> tuple[int, RangeMap[Mark], set[int]]:
        """Read what memory needs of the file; the cost follows the number of marks.

        Returns:
            The last row number ever used, the marks, and the first rows of marks that are not as
            stored. A damaged mark is left out: its rows are ready again, so at worst a fix is
            sent twice under its own name.

        Raises:
            StorageError: The file cannot be read. It is closed.
        """
        marks: RangeMap[Mark] = RangeMap()
        differing: set[int] = set()
        last = 0
        try:
            rows = self._connection.execute(
                "SELECT lo, hi, state, reason, batch, crc FROM mark ORDER BY lo"
            ).fetchall()
            last_id = self._connection.execute("SELECT max(id) FROM fix").fetchone()[0] or 0
        except sqlite3.Error as error:
            self.close()
            raise unusable(self.path, error) from error
        for lo, hi, state, reason, batch, crc in rows:
            if crc != _mark_checksum(lo, hi, state, reason, batch) or lo <= last:
                log.error("the queue %s: the mark of rows %s to %s is damaged", self.path, lo, hi)
                differing.add(lo)
                continue
            marks.paint(lo, hi, Mark(State(state), reason, batch))
            last = hi
        return max(last, last_id), marks, differing

    def write(self, rows: Sequence[Row], marks: Mapping[int, Span[Mark] | None]) -> None:
        """Store rows and marks, all or nothing. To repeat it changes nothing.

        Args:
            rows: With consecutive numbers and consecutive names. A row that is there already,
                from a write whose outcome was unknown, has the same name.
            marks: By first row; ``None`` removes the mark. Writing ``GONE`` deletes its rows.

        Raises:
            StorageError: The disk refused. Nothing is stored, or, when it failed at the very end,
                all of it.
        """
        try:
            self._write(rows, marks)
        except sqlite3.Error as error:
            raise StorageError(f"cannot write the queue {self.path}: {error}") from error

    def read(self, lo: int, hi: int) -> Iterator[Row]:
        """The rows with these numbers that are there, in order, damaged or not.

        Raises:
            StorageError: The file cannot be read.
        """
        for first in range(lo, hi + 1, ROWS_PER_READ):
            last = min(hi, first + ROWS_PER_READ - 1)
            try:
                rows = self._connection.execute(_SELECT, (first, last)).fetchall()
            except sqlite3.Error as error:
                raise StorageError(f"cannot read the queue {self.path}: {error}") from error
            yield from rows

    def time_ms(self, row_id: int) -> int | None:
        """The time of one fix, if it can be read."""
        try:
            row = next(self.read(row_id, row_id), None)
        except StorageError:
            return None
        return row[4] if row is not None and is_sound(row) else None

    def close(self) -> None:
        """Copy the log back and close the file."""
        self._connection.close()

    def _write(self, rows: Sequence[Row], marks: Mapping[int, Span[Mark] | None]) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            if rows:
                self._connection.executemany(_INSERT, rows)
                self._check_stored(rows)
            for lo, span in marks.items():
                if span is None:
                    execute("DELETE FROM mark WHERE lo = ?", (lo,))
                    continue
                hi, (state, reason, batch) = span.hi, span.value
                execute(
                    "INSERT OR REPLACE INTO mark (lo, hi, state, reason, batch, crc) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (lo, hi, state, reason, batch, _mark_checksum(lo, hi, state, reason, batch)),
                )
                if state == State.GONE:
                    execute("DELETE FROM fix WHERE id BETWEEN ? AND ?", (lo, hi))
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise

    def _check_stored(self, rows: Sequence[Row]) -> None:
        """A row of another name under one of these numbers would swallow a fix in silence."""
        row_id, _, stream, seq = rows[0][:4]
        (stored,) = self._connection.execute(
            "SELECT count(*) FROM fix WHERE id BETWEEN ? AND ? AND stream = ? AND seq - id = ?",
            (row_id, rows[-1][0], stream, seq - row_id),
        ).fetchone()
        if stored != len(rows):
            raise sqlite3.IntegrityError(
                "row numbers are taken by other fixes: the file is damaged"
            )


def _mark_checksum(*values: object) -> int:
    return zlib.crc32(" ".join(str(value) for value in values).encode())
