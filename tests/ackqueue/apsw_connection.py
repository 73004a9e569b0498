"""The part of sqlite3 that the queue uses, on top of apsw: apsw supports a custom file system."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import apsw


class ApswConnection:
    """Imitates the sqlite3.Connection that ``schema.connect`` returns, and raises its errors."""

    def __init__(self, path: Path, vfs: str) -> None:
        with _sqlite3_errors():
            self._connection = apsw.Connection(str(path), vfs=vfs)

    @property
    def in_transaction(self) -> bool:
        try:
            return self._connection.in_transaction
        except apsw.ConnectionClosedError:
            return False

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

    def __iter__(self) -> Iterator[Any]:
        with _sqlite3_errors():
            yield from self._cursor

    def fetchone(self) -> Any:
        with _sqlite3_errors():
            return self._cursor.fetchone()

    def fetchall(self) -> list[Any]:
        with _sqlite3_errors():
            return cast("list[Any]", self._cursor.fetchall())


_CODES = {type(apsw.exception_for(code)): code for code in range(1, 27)}


@contextmanager
def _sqlite3_errors() -> Iterator[None]:
    try:
        yield
    except apsw.Error as error:
        code = _CODES.get(type(error), sqlite3.SQLITE_MISUSE)
        kind: type[sqlite3.Error] = sqlite3.OperationalError
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            kind = sqlite3.DatabaseError
        raised = kind(str(error))
        raised.sqlite_errorcode = code
        raise raised from error
