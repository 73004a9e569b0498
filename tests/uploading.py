"""The uploader with any server and format."""

import contextlib
import sqlite3
from collections.abc import Collection
from pathlib import Path

from fakes import AlwaysReachable, FakeClock, Longest

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.model import Fix, Flag
from telemetry_agent.upload.formats.choice import choose
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import FormatName, UploadPolicy
from telemetry_agent.upload.uploader import Uploader

DEVICE = "van-07"
FIX = Fix(1764426119000, 48_117300000, 11_516667000)


class Uploading:
    """A queue and an uploader to ``url``, with a clock that only the test advances."""

    def __init__(
        self,
        folder: Path,
        url: str,
        name: FormatName,
        credentials: Credentials | None = None,
        *,
        timeout_s: float = 30.0,
    ) -> None:
        self.clock = FakeClock()
        self.database = folder / "queue.db"
        self.queue = AckQueue(self.database, clock=self.clock)
        self._name = name
        self._credentials = credentials
        self._timeout_s = timeout_s
        self.aim_at(url)

    def aim_at(self, url: str) -> None:
        """Switch to another endpoint."""
        self.transport = Transport(url, credentials=self._credentials)
        wire_format = choose(self._name, url)
        self.uploader = Uploader(
            self.queue,
            wire_format,
            self.transport,
            UploadPolicy(timeout_s=self._timeout_s, live_first=not wire_format.oldest_first),
            reachability=AlwaysReachable,
            clock=self.clock,
            rng=Longest(),
        )

    def put(
        self, count: int, device: str = DEVICE, *, flagged: Collection[int] = (), fix: Fix = FIX
    ) -> None:
        """Add ``count`` fixes, one per second, starting at ``fix``."""
        for n in range(count):
            flags: tuple[Flag, ...] = ("time",) if n in flagged else fix.flags
            self.queue.put(fix._replace(time_ms=fix.time_ms + 1000 * n, flags=flags), device)
        batch = self.queue.lease(10_000)  # turns them into a backlog
        if batch is not None:
            self.queue.release(batch)

    def work(self) -> float | None:
        """Step until the uploader waits; return how long, in seconds."""
        for _ in range(300):
            wait_s = self.uploader.step(self.clock.monotonic_s())
            if wait_s != 0:
                return wait_s
        raise AssertionError("it never waits")

    def held_at(self, url: str) -> str:
        """Check that fixes are held because ``url`` does not accept them; return the reason."""
        self.transport.close()
        self.aim_at(url)
        before = self.counts
        self.put(10)
        assert self.work() == 120.0
        status = self.uploader.status()
        assert status.state == "held"
        assert self.counts == (before[0] + 10, *before[1:])
        return status.last_error or ""

    def close(self) -> None:
        self.transport.close()
        self.queue.close()

    @property
    def counts(self) -> tuple[int, int, int, int]:
        stats = self.queue.stats()
        return stats.ready, stats.unack, stats.acked, stats.ack_failed

    @property
    def reasons(self) -> set[str]:
        with contextlib.closing(sqlite3.connect(self.database)) as db:
            rows = db.execute("SELECT DISTINCT reason FROM fixes WHERE state = 9")
            return {reason for (reason,) in rows}
