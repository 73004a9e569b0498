"""apsw in the place of sqlite3, as far as the queue uses it: apsw takes a file system of ours."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import apsw


class ApswConnection:
    """Looks like the sqlite3.Connection that ``schema.connect`` makes, and raises its errors."""

    def __init__(self, path: Path, vfs: str) -> None:
        with _sqlite3_errors():
            self._connection = apsw.Connection(str(path), vfs=vfs)

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> "_Cursor":
        with _sqlite3_errors():
            return _Cursor(self._connection.execute(sql, tuple(parameters)))

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> "_Cursor":
        with _sqlite3_errors():
            return _Cursor(self._connection.executemany(sql, rows))

    def close(self) -> None:
        with _sqlite3_errors():
            self._connection.close()


class _Cursor:
    def __init__(self, cursor: apsw.Cursor) -> None:
        self._cursor = cursor

    def fetchone(self) -> Any:
        with _sqlite3_errors():
            return self._cursor.fetchone()

    def fetchall(self) -> list[Any]:
        with _sqlite3_errors():
            return cast("list[Any]", self._cursor.fetchall())


@contextmanager
def _sqlite3_errors() -> Iterator[None]:
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise sqlite3.DatabaseError(str(error)) from error
    except apsw.ConstraintError as error:
        raise sqlite3.IntegrityError(str(error)) from error
    except apsw.Error as error:
        raise sqlite3.OperationalError(str(error)) from error
