"""The cycle of a fix through the queue (put, lease, acknowledge) against persist-queue.

::

    python benchmarks/queue_cycle.py [--quick] [--folder FOLDER]

Both keep one fix per item and promise the same: it is on disk when the call returns. persist-queue
runs SQLiteAckQueue with its own defaults. Both use the same file system, turn by turn, and each
phase is the median of the turns. The run's own fdatasync time is printed, because it decides what
one commit per fix can reach; figures of two machines do not compare, ratios nearly do.

Bytes are those that the process handed to the block layer (/proc/self/io write_bytes), so they
count whole pages and leave out the file system's journal.
"""

import argparse
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from persistqueue import SQLiteAckQueue

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.model import Fix, Record

DEVICE = "van-07"


def fix_at(second: int) -> Fix:
    """A fix as a common receiver gives it."""
    return Fix(
        time_ms=1_764_426_119_000 + second * 1000,
        lat_e9=48_117300000 + second * 90,
        lon_e9=11_516667000 + second * 70,
        alt_mm=545_400 + second % 50,
        geoid_sep_mm=46_900,
        speed_mm_s=11_524 + second % 900,
        course_mdeg=84_400 + second % 300,
        mode=3,
        quality="gps",
        hdop_e2=90,
        sats=8,
    )


def as_dict(second: int) -> dict[str, object]:
    """The same fix as users give it to persist-queue: a dict that it pickles."""
    return {name: value for name, value in fix_at(second)._asdict().items() if value is not None}


@dataclass
class Figures:
    """What one subject took, one value per turn."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    bytes_per_fix: list[float] = field(default_factory=list)

    def rate(self, phase: str) -> float:
        """Fixes a second."""
        return 1 / statistics.median(self.seconds[phase])

    @contextmanager
    def timed(self, phase: str, count: int) -> Iterator[None]:
        """Note the seconds per fix."""
        start = time.perf_counter()
        yield
        self.seconds.setdefault(phase, []).append((time.perf_counter() - start) / count)

    @contextmanager
    def written(self, count: int) -> Iterator[None]:
        """Note the bytes per fix."""
        start = written_bytes()
        yield
        self.bytes_per_fix.append((written_bytes() - start) / count)


def written_bytes() -> int:
    """What this process wrote to disk so far."""
    os.sync()
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def turn_theirs(folder: Path, figures: Figures, count: int) -> None:
    """persist-queue: each call commits."""
    fixes = [as_dict(second) for second in range(count)]
    queue = SQLiteAckQueue(str(folder))
    with figures.written(count), figures.timed("cycle", count):
        with figures.timed("put", count):
            for fix in fixes:
                queue.put(fix)
        items = []
        with figures.timed("get + ack", count):
            for _ in range(count):
                items.append(queue.get(block=False))
                queue.ack(items[-1])
    assert items == fixes
    queue.close()


def turn_ours(folder: Path, figures: Figures, count: int, group: int) -> None:
    """The ack-queue: a commit, and a batch, holds ``group`` fixes."""
    fixes = [fix_at(second) for second in range(count)]
    every_s = 0 if group == 1 else 3600
    with AckQueue(folder / "queue.db", commit_every_s=every_s) as queue:
        delivered: list[Record] = []
        with figures.written(count), figures.timed("cycle", count):
            with figures.timed("put", count):
                for done, fix in enumerate(fixes, 1):
                    queue.put(fix, DEVICE)
                    if group > 1 and done % group == 0:
                        queue.commit()
            with figures.timed("get + ack", count):
                while batch := queue.lease(group, live_first=False):
                    delivered += batch.records
                    queue.ack(batch)
        assert [record.fix for record in delivered] == fixes


def get_with_delivered_kept(folder: Path, kept: int) -> tuple[float, float]:
    """Milliseconds for the first get, theirs and ours, behind ``kept`` delivered fixes."""
    (folder / "theirs").mkdir()
    theirs = SQLiteAckQueue(str(folder / "theirs"))
    # Delivered one by one they would take an hour: the table is filled as it would be.
    blob = theirs._serializer.dumps(as_dict(0))  # noqa: SLF001 - see above
    with sqlite3.connect(folder / "theirs" / "data.db") as rows:
        rows.executemany(
            "INSERT INTO ack_queue_default (data, timestamp, status) VALUES (?, ?, ?)",
            ((blob, 0.0, 5) for _ in range(kept)),
        )
    theirs.close()
    theirs = SQLiteAckQueue(str(folder / "theirs"))
    theirs.put(as_dict(1))
    theirs_ms = milliseconds(lambda: theirs.get(block=False))
    theirs.close()

    with AckQueue(folder / "ours.db", commit_every_s=3600) as ours:
        for second in range(kept):
            ours.put(fix_at(second), DEVICE)
        while batch := ours.lease(1000, live_first=False):
            ours.ack(batch)
        ours.put(fix_at(kept), DEVICE)
        ours.commit()
        return theirs_ms, milliseconds(lambda: ours.lease(1))


def read_rate(folder: Path, count: int) -> float:
    """Fixes a second that leases of 1,000 read from disk, checked."""
    with AckQueue(folder / "queue.db", commit_every_s=3600) as queue:
        for second in range(count):
            queue.put(fix_at(second), DEVICE)
        queue.commit()
        start = time.perf_counter()
        while queue.lease(1000, live_first=False):
            pass
        return count / (time.perf_counter() - start)


def milliseconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def fdatasync_ms(folder: Path) -> float:
    """The median of 50 syncs of one page."""
    with (folder / "page").open("wb", buffering=0) as file:
        taken = []
        for _ in range(50):
            file.write(bytes(4096))
            taken.append(milliseconds(lambda: os.fdatasync(file.fileno())))
    return statistics.median(taken)


def main() -> None:
    """Run it, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="about 20 seconds, rougher")
    parser.add_argument(
        "--folder", type=Path, help="where to write (default: the temporary folder)"
    )
    arguments = parser.parse_args()
    turns, few, many = (2, 200, 20_000) if arguments.quick else (5, 1000, 100_000)

    theirs, single, grouped = Figures(), Figures(), Figures()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)

        def fresh(label: str) -> Path:
            made = folder / label
            made.mkdir()
            return made

        sync_ms = fdatasync_ms(folder)
        for turn in range(turns):
            subjects: list[Callable[[], None]] = [
                lambda t=turn: turn_theirs(fresh(f"theirs-{t}"), theirs, few),  # type: ignore[misc]
                lambda t=turn: turn_ours(fresh(f"single-{t}"), single, few, 1),  # type: ignore[misc]
                lambda t=turn: turn_ours(fresh(f"grouped-{t}"), grouped, many, 100),  # type: ignore[misc]
            ]
            for subject in subjects[:: 1 if turn % 2 == 0 else -1]:
                subject()
        theirs_ms, ours_ms = get_with_delivered_kept(fresh("kept"), 100_000)
        rate = read_rate(fresh("read"), many)

    print(f"fdatasync {sync_ms:.2f} ms (median), {turns} turns")
    print(f"{'':<34}{'persist-queue':>14}{'commit each':>14}{'ratio':>8}{'by 100':>14}{'ratio':>8}")
    for phase in ("put", "get + ack", "cycle"):
        base = theirs.rate(phase)
        print(
            f"{phase + ', fixes/s':<34}{base:>14,.0f}"
            f"{single.rate(phase):>14,.0f}{single.rate(phase) / base:>8.1f}"
            f"{grouped.rate(phase):>14,.0f}{grouped.rate(phase) / base:>8.1f}"
        )
    base = statistics.median(theirs.bytes_per_fix)
    each, by_100 = (statistics.median(figures.bytes_per_fix) for figures in (single, grouped))
    print(
        f"{'bytes written per fix':<34}{base:>14,.0f}{each:>14,.0f}{base / each:>8.1f}"
        f"{by_100:>14,.0f}{base / by_100:>8.1f}"
    )
    print(
        f"{'get behind 100,000 delivered, ms':<34}{theirs_ms:>14.2f}"
        f"{ours_ms:>14.2f}{theirs_ms / ours_ms:>8.1f}"
    )
    print(f"{'lease of 1,000 at a time, fixes/s':<34}{'':>14}{rate:>14,.0f}")


if __name__ == "__main__":
    main()
