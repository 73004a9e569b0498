"""The SQLite database of the reference endpoint: each fix once."""

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

from telemetry_agent.clock import Clock
from telemetry_agent.errors import StorageError
from telemetry_agent.fields import rfc3339
from telemetry_agent.lab.endpoint.audit import StreamVerdict, account_of, as_json, judge
from telemetry_agent.lab.native_request import NativeRequest
from telemetry_agent.model import StreamAccount

_FIXES = """CREATE TABLE IF NOT EXISTS fixes (
    stream TEXT NOT NULL, seq INTEGER NOT NULL, device TEXT NOT NULL,
    time TEXT NOT NULL, lat REAL NOT NULL, lon REAL NOT NULL, fix TEXT NOT NULL,
    PRIMARY KEY (stream, seq)) WITHOUT ROWID"""
_REPORTS = """CREATE TABLE IF NOT EXISTS reports (
    device TEXT PRIMARY KEY, stream TEXT NOT NULL, heard TEXT NOT NULL, agent TEXT NOT NULL)
    WITHOUT ROWID"""

_ACCOUNTS = """CREATE TABLE IF NOT EXISTS accounts (
    stream TEXT PRIMARY KEY, device TEXT NOT NULL, through INTEGER NOT NULL,
    recorded INTEGER NOT NULL, not_coming TEXT NOT NULL, damaged_in TEXT NOT NULL)
    WITHOUT ROWID"""


class FixDatabase:
    """One connection to the database, under a lock."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            StorageError: it cannot be written.
        """
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("BEGIN IMMEDIATE")  # finds out now that the file cannot be written
            self._db.execute(_FIXES)
            self._db.execute(_REPORTS)
            self._db.execute(_ACCOUNTS)
            self._db.commit()
        except sqlite3.Error as error:
            raise StorageError(f"cannot write {path}: {error}: choose another --db") from error

    def put(self, request: NativeRequest) -> int:
        """Commit; return how many fixes were new.

        Raises:
            StorageError: nothing was stored.
        """
        name = (request.stream, request.device)
        rows = [
            (*name, f["seq"], f["time"], f["lat"], f["lon"], json.dumps(f)) for f in request.fixes
        ]
        try:
            stored = self._write(rows, name, request.agent)
        except sqlite3.Error as error:
            raise StorageError(f"cannot store: {error}") from error
        return max(0, stored)

    def audits(self, device: str | None = None) -> list[dict[str, Any]]:
        """For each device, or for one: are all fixes of its agent's account stored?"""
        rows = self.read(
            "SELECT device, stream, through, recorded, not_coming, damaged_in FROM accounts"
            " WHERE ?1 = '' OR device = ?1 ORDER BY device, stream",
            device or "",
        )
        verdicts: dict[str, list[StreamVerdict]] = {}
        for name, stream, through, recorded, not_coming, damaged_in in rows:
            account = StreamAccount(
                stream, through, recorded, json.loads(not_coming), json.loads(damaged_in)
            )
            stored = self.read("SELECT seq, time FROM fixes WHERE stream = ? ORDER BY seq", stream)
            verdicts.setdefault(name, []).append(judge(account, stored))
        return [as_json(name, found) for name, found in verdicts.items()]

    def read(self, sql: str, *values: str) -> list[Any]:
        """Every row that ``sql`` selects."""
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._db.close()

    def _write(
        self, rows: list[tuple[Any, ...]], name: tuple[str, str], agent: dict[str, Any] | None
    ) -> int:
        with self._lock, self._db:
            stored: int = self._db.executemany(
                "INSERT INTO fixes (stream, device, seq, time, lat, lon, fix)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                rows,
            ).rowcount
            if agent is not None:
                self._db.execute(
                    "INSERT OR REPLACE INTO reports (stream, device, heard, agent)"
                    " VALUES (?, ?, ?, ?)",
                    (*name, rfc3339(Clock().wall_ms()), json.dumps(agent)),
                )
                streams = agent.get("streams")
                for said in streams if isinstance(streams, list) else ():
                    if (account := account_of(said)) is not None:
                        self._db.execute(
                            "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?, ?)",
                            (
                                account.stream,
                                name[1],
                                account.through,
                                account.recorded,
                                json.dumps(account.not_coming),
                                json.dumps(account.damaged_in),
                            ),
                        )
        return stored
