"""The SQLite database of the reference endpoint: each fix once."""

import json
import sqlite3
import threading
from os.path import samestat
from pathlib import Path
from typing import Any

from telemetry_agent.clock import Clock
from telemetry_agent.errors import StorageError
from telemetry_agent.fields import rfc3339
from telemetry_agent.lab.endpoint.audit import StreamVerdict, account_of, as_json
from telemetry_agent.lab.native_request import NativeRequest
from telemetry_agent.model import StreamAccount

_FIXES = """CREATE TABLE IF NOT EXISTS fixes (
    stream TEXT NOT NULL, seq INTEGER NOT NULL, device TEXT NOT NULL,
    time TEXT NOT NULL, lat REAL NOT NULL, lon REAL NOT NULL, fix TEXT NOT NULL,
    PRIMARY KEY (stream, seq)) WITHOUT ROWID"""
_REPORTS = """CREATE TABLE IF NOT EXISTS reports (
    device TEXT PRIMARY KEY, stream TEXT NOT NULL, heard TEXT NOT NULL, agent TEXT NOT NULL)
    WITHOUT ROWID"""

_ACCOUNTS = """CREATE TABLE IF NOT EXISTS stream_accounts (
    age INTEGER PRIMARY KEY, device TEXT NOT NULL, stream TEXT NOT NULL, through INTEGER NOT NULL,
    expected INTEGER NOT NULL, finished INTEGER NOT NULL, account TEXT NOT NULL,
    UNIQUE (device, stream))"""
# An account stays true, and reports can arrive late: the one that covers most is kept. An agent
# names its oldest streams first.
_PUT_ACCOUNT = """INSERT INTO stream_accounts
    (device, stream, through, expected, finished, account) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (device, stream) DO UPDATE SET through = excluded.through,
        expected = excluded.expected, finished = excluded.finished, account = excluded.account
    WHERE (excluded.through, excluded.expected, excluded.finished) >= (through, expected, finished)
    """
_UNACCOUNTED = """SELECT device, count(*), max(time) FROM fixes
    WHERE (?1 = '' OR device = ?1) AND stream NOT IN (SELECT stream FROM stream_accounts)
    GROUP BY device"""
# Of a stream, up to a seq. There can be millions of them, so SQLite counts, and not Python.
_GAPS = """SELECT before + 1 AS first, seq - 1 AS last FROM (
    SELECT seq, lag(seq, 1, 0) OVER (ORDER BY seq) AS before FROM (
        SELECT seq FROM fixes WHERE stream = ?1 AND seq <= ?2 UNION ALL SELECT ?2 + 1))
    WHERE seq > before + 1"""
_FIRST_GAPS = f"""SELECT min(first), max(last) FROM (
    SELECT first, last, row_number() OVER (ORDER BY first) AS number FROM ({_GAPS}))
    GROUP BY min(number, 20) ORDER BY 1"""  # noqa: S608 - only constants
_SOME_GAPS = f"{_GAPS} ORDER BY random() LIMIT 20"


class FixDatabase:
    """One connection to the database, under a lock."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open it; ``read_only``: as it is, also beside a running endpoint.

        Raises:
            StorageError: it cannot be opened, or is a database of another program.
        """
        self._lock = threading.Lock()
        self._path = path
        log = Path(f"{path}-wal")
        # Without a log nobody writes to it, and a disk that is read-only has no place for locks.
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable={int(not log.exists())}"
        try:
            self._db = sqlite3.connect(
                uri if read_only else path, uri=read_only, check_same_thread=False
            )
            kinds = dict(self._db.execute("SELECT name, type FROM sqlite_master"))
            if kinds and kinds.get("fixes") != "table":  # such as the queue of an agent
                self._db.close()
                raise StorageError(f"{path} is a database of another program: choose another --db")
            if not read_only:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.execute("BEGIN IMMEDIATE")  # fails now if the file cannot be written
                for table in (_FIXES, _REPORTS, _ACCOUNTS):
                    self._db.execute(table)
                self._db.commit()
            self._opened = {file: file.stat() for file in (path, log) if file.exists()}
        except (sqlite3.Error, OSError) as error:
            verb = "read" if read_only else "write"
            raise StorageError(f"cannot {verb} {path}: {error}: choose another --db") from error

    def _check_files(self) -> None:
        """SQLite would go on with a deleted or replaced file, and nobody would find the fixes."""
        for file, then in self._opened.items():
            if not file.exists() or not samestat(file.stat(), then):
                raise StorageError(f"{file} was moved, deleted or replaced: start `receive` again")

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
            with self._lock, self._db:
                stored: int = self._db.executemany(
                    "INSERT INTO fixes (stream, device, seq, time, lat, lon, fix)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    rows,
                ).rowcount
                if request.agent is not None:
                    self._put_report(name, request.agent)
            self._check_files()
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"cannot store: {error}") from error
        return max(0, stored)

    def _put_report(self, name: tuple[str, str], agent: dict[str, Any]) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO reports (stream, device, heard, agent) VALUES (?, ?, ?, ?)",
            (*name, rfc3339(Clock().wall_ms()), json.dumps(agent)),
        )
        streams = agent.get("streams")
        self._db.executemany(
            _PUT_ACCOUNT,
            [
                (name[1], a.stream, a.through, a.expected, a.finished, json.dumps(entry))
                for entry in (streams if isinstance(streams, list) else ())
                if (a := account_of(entry)) is not None
            ],
        )

    def agents(self, device: str = "") -> list[dict[str, Any]]:
        """The last report of each agent about itself, or of ``device``; sorted by device.

        Each with ``device``, ``stream``, ``heard`` (when, by the clock of this machine), ``agent``.
        """
        rows = self.read(
            "SELECT device, stream, heard, agent FROM reports"
            " WHERE ?1 = '' OR device = ?1 ORDER BY device",
            device,
        )
        names = ("device", "stream", "heard", "agent")
        return [dict(zip(names, (*row[:3], json.loads(row[3])), strict=True)) for row in rows]

    def audits(self, device: str = "") -> list[dict[str, Any]]:
        """For each device, or for one: ``audit.as_json``."""
        verdicts = self.verdicts(device)
        unaccounted = {name: tuple(found) for name, *found in self.read(_UNACCOUNTED, device)}
        return [
            as_json(name, verdicts.get(name, ()), unaccounted.get(name))
            for name in sorted({*verdicts, *unaccounted})
        ]

    def verdicts(self, device: str = "") -> dict[str, list[StreamVerdict]]:
        """Of each stream with an account, by device, the oldest stream first."""
        verdicts: dict[str, list[StreamVerdict]] = {}
        for name, said in self.read(
            "SELECT device, account FROM stream_accounts WHERE ?1 = '' OR device = ?1 ORDER BY age",
            device,
        ):
            if (account := account_of(json.loads(said))) is not None:
                verdicts.setdefault(name, []).append(self._verdict(account))
        return verdicts

    def _verdict(self, account: StreamAccount) -> StreamVerdict:
        """Compare an account with the rows of its stream."""
        stream, through = account.stream, account.through
        ((stored,),) = self.read(
            "SELECT count(*) FROM fixes WHERE stream = ? AND seq <= ?", stream, through
        )
        gaps = self.read(_FIRST_GAPS, stream, through) if stored < account.expected else []
        newest = self.read(
            "SELECT time FROM fixes WHERE stream = ? AND seq <= ? ORDER BY seq DESC LIMIT 1",
            *(stream, gaps[0][0] if gaps else through),
        )
        return StreamVerdict(account, stored, newest[0][0] if newest else None, gaps)

    def some_gaps(self, device: str) -> list[tuple[str, int, int]]:
        """Stream, first and last seq of some gaps in which fixes of that device are missing."""
        return [
            (account.stream, *gap)
            for verdict in self.verdicts(device).get(device, ())
            if verdict.missing > 0 and (account := verdict.account)
            for gap in self.read(_SOME_GAPS, account.stream, account.through)
        ]

    def read(self, sql: str, *values: str | int) -> list[Any]:
        """Every row that ``sql`` selects.

        Raises:
            StorageError: the database cannot be read.
        """
        try:
            with self._lock:
                self._check_files()
                return self._db.execute(sql, values).fetchall()
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"cannot read {self._path}: {error}") from error

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._db.close()
