"""Shared helpers of the queue tests: fixes, and a disk that can refuse."""

import sqlite3
from pathlib import Path
from typing import Any, Literal, cast

from telemetry_agent.ackqueue.file.schema import connect
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.model import Batch, Fix

Refusal = Literal["never", "before", "after", "full"]
"""When COMMIT raises: never, before it is done, after it is done, or because the disk is full."""
START_MS = 1_764_426_119_000


class Disk:
    """Opens real databases whose COMMIT can fail, before or after it is done."""

    def __init__(self) -> None:
        self.refuses: Refusal = "never"
        self.commits = 0
        """The number of attempts."""

    def connect(self, path: Path) -> sqlite3.Connection:
        return cast("sqlite3.Connection", _Connection(connect(path), self))


class _Connection:
    def __init__(self, real: sqlite3.Connection, disk: Disk) -> None:
        self._real = real
        self._disk = disk

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        self._disk.commits += sql == "COMMIT"
        if sql != "COMMIT" or self._disk.refuses == "never":
            return self._real.execute(sql, parameters)
        if self._disk.refuses == "after":
            self._real.execute(sql)
        error = sqlite3.OperationalError("disk I/O error")
        if self._disk.refuses == "full":
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def fix_at(second: float = 0, **values: Any) -> Fix:
    return Fix(START_MS + round(second * 1000), 48_117300000, 11_516667000, **values)


def put(queue: AckQueue, count: int, *, start: int = 0, device: str = "a") -> None:
    for second in range(start, start + count):
        queue.put(fix_at(second), device)


def lease(queue: AckQueue, limit: int = 1000, *, live_first: bool = True) -> Batch:
    batch = queue.lease(limit, live_first=live_first)
    assert batch is not None
    return batch


def seqs(batch: Batch) -> list[int]:
    return [record.seq for record in batch.records]
