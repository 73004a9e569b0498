"""The cycle of a fix through the queue (put, lease, acknowledge) against persist-queue.

::

    python benchmarks/queue_cycle.py [--quick] [--folder FOLDER] [--svg FILE]

Both keep one fix per item and promise the same: it is on disk when the call returns. persist-queue
runs SQLiteAckQueue with its defaults. Both use the same file system, in turns, and each phase is
the median of the turns. The run's own fdatasync time is printed, because it limits one commit per
fix; figures of two machines cannot be compared.

A memory card is slower than the disk of most machines that run this. So a second table is printed.
It is arithmetic and not a measurement: for each commit of a call, it adds to the measured time the
difference between a sync of 2.6 ms and one of this run. It is left out if the run's own syncs are
slower than that.

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

from bars import draw
from persistqueue import SQLiteAckQueue

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.model import Fix, Record

DEVICE = "van-07"
CARD_SYNC_MS = 2.6
PHASES = ("put", "get + ack", "cycle")


def fix_at(second: int) -> Fix:
    """A fix of a common receiver."""
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
    """The same fix as users put it into persist-queue: a dict that it pickles."""
    return {name: value for name, value in fix_at(second)._asdict().items() if value is not None}


@dataclass
class Figures:
    """The times and bytes of one subject, one value per turn."""

    commits: dict[str, float]
    """Per fix, by phase."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    bytes_per_fix: list[float] = field(default_factory=list)

    def rate(self, phase: str, slower_ms: float = 0) -> float:
        """Fixes a second, if each commit took that much longer."""
        commits = sum(self.commits.values()) if phase == "cycle" else self.commits[phase]
        return 1 / (statistics.median(self.seconds[phase]) + commits * slower_ms / 1000)

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
    """The bytes that this process has written to disk."""
    os.sync()
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def turn_theirs(folder: Path, figures: Figures, count: int) -> None:
    """persist-queue, which commits in each call."""
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


def turn_ours(folder: Path, figures: Figures, count: int, group: int, batch_size: int) -> None:
    """The ack-queue: a commit holds ``group`` fixes, and a batch ``batch_size``."""
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
                while batch := queue.lease(batch_size, live_first=False):
                    delivered += batch.records
                    queue.ack(batch)
        assert [record.fix for record in delivered] == fixes


def get_with_delivered_kept(folder: Path, kept: int) -> tuple[float, float]:
    """The milliseconds of the first get, theirs and ours, behind ``kept`` delivered fixes."""
    (folder / "theirs").mkdir()
    theirs = SQLiteAckQueue(str(folder / "theirs"))
    # To deliver them one by one would take an hour: the table is filled with the same rows.
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
            if second % 1000 == 999:  # memory holds 100,000 without a commit
                ours.commit()
        while batch := ours.lease(1000, live_first=False):
            ours.ack(batch)
        ours.put(fix_at(kept), DEVICE)
        ours.commit()
        return theirs_ms, milliseconds(lambda: ours.lease(1))


def milliseconds(call: Callable[[], object]) -> float:
    """The time that one call takes."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def fdatasync_ms(folder: Path) -> list[float]:
    """The median of fifty syncs of one page."""
    with (folder / "page").open("wb", buffering=0) as file:
        taken = []
        for _ in range(50):
            file.write(bytes(4096))
            taken.append(milliseconds(lambda: os.fdatasync(file.fileno())))
    return taken


def main() -> None:
    """Run it, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="about 20 seconds, rougher")
    parser.add_argument(
        "--folder", type=Path, help="where to write (default: the temporary folder)"
    )
    parser.add_argument("--svg", type=Path, help="draw the cycles into this file")
    arguments = parser.parse_args()
    turns, few, many = (2, 200, 20_000) if arguments.quick else (5, 1000, 100_000)

    theirs = Figures({"put": 1, "get + ack": 2})
    shapes = {"1 / 1": (1, 1, few), "1 / 100": (1, 100, few), "100 / 100": (100, 100, many)}
    shapes["100 / 1000"] = (100, 1000, many)
    ours = {
        name: Figures({"put": 1 / group, "get + ack": 1 / size})
        for name, (group, size, _) in shapes.items()
    }
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        syncs_ms: list[float] = []
        for turn in range(turns):
            syncs_ms += fdatasync_ms(folder)
            turn_theirs(fresh(folder, f"theirs-{turn}"), theirs, few)
            for place, (shape, (group, size, count)) in enumerate(shapes.items()):
                turn_ours(fresh(folder, f"ours-{turn}-{place}"), ours[shape], count, group, size)
                syncs_ms += fdatasync_ms(folder)
        theirs_ms, ours_ms = get_with_delivered_kept(fresh(folder, "kept"), 500_000)

    sync_ms = statistics.median(syncs_ms)
    print(f"fdatasync {sync_ms:.2f} ms (median), {turns} turns; fixes a second (ratio)")
    print_rates(theirs, ours, 0)
    base = statistics.median(theirs.bytes_per_fix)
    print(f"{'bytes written per fix':<24}{base:>14,.0f}", end="")
    for figures in ours.values():
        print(f"{statistics.median(figures.bytes_per_fix):>20,.0f}", end="")
    print(f"\n\nget behind 500,000 delivered: {theirs_ms:.2f} ms and {ours_ms:.2f} ms")
    if sync_ms < CARD_SYNC_MS:
        print(f"\nwith syncs of {CARD_SYNC_MS} ms, by arithmetic; fixes a second (ratio)")
        print_rates(theirs, ours, CARD_SYNC_MS - sync_ms)
    if arguments.svg:
        rates = {"persist-queue": theirs.rate("cycle")}
        rates |= {f"AckQueue {shape}": figures.rate("cycle") for shape, figures in ours.items()}
        title = f"Fixes put, leased and acknowledged per second, sync {sync_ms:.2f} ms (log scale)"
        draw(arguments.svg, title, rates, "AckQueue")


def print_rates(theirs: Figures, ours: dict[str, Figures], slower_ms: float) -> None:
    """A column for each subject; ours are named by fixes per commit / per batch."""
    print(f"{'':<24}{'persist-queue':>14}" + "".join(f"{name:>20}" for name in ours))
    for phase in PHASES:
        base = theirs.rate(phase, slower_ms)
        print(f"{phase:<24}{base:>14,.0f}", end="")
        for figures in ours.values():
            rate = figures.rate(phase, slower_ms)
            print(f"{rate:>12,.0f} ({rate / base:>4,.1f})", end="")
        print()


def fresh(folder: Path, label: str) -> Path:
    """A folder of its own."""
    made = folder / label
    made.mkdir()
    return made


if __name__ == "__main__":
    main()
