"""What the queue costs a memory card: bytes written and syncs per fix.

::

    python benchmarks/card.py [--fixes 3600] [--folder FOLDER] [--choices]

One fix a second on a simulated clock, with a network. Pending fixes are leased and acknowledged
every 10 s, the default ``flush_every``, unless the line names another time. The file system is a
real one. Bytes are those that the process handed to the block layer (/proc/self/io write_bytes).
They count whole pages of 4 KiB, without the file system's journal and without what the card's
controller adds. Syncs are counted by strace if it is installed.

If fixes come as often as commits are due, each commit races with the next put, and a commit that
comes after it stores two fixes. Here the commit comes first, which costs more; "put first" is the
other order. In a real agent (``benchmarks/quiet.py``) both occur, so its figure is between the two.

For comparison, on the same file system: persist-queue's SQLiteAckQueue with its defaults, and a
simple queue: a table of JSON texts with an indexed state, in WAL mode, with a transaction per fix
and one per batch sent. ``--choices`` compares other settings of the queue file with those in
``schema.py``.
"""

import argparse
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from unittest import mock

from bars import draw
from persistqueue import SQLiteAckQueue
from queue_cycle import DEVICE, as_dict, fix_at

from telemetry_agent.ackqueue.file import schema
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock

FLUSH_EVERY_S = 10
COMMIT_EVERY_S = (0, 1, 5, 30)
DAY_S = 86_400


class SimulatedClock(Clock):
    """A clock that the benchmark moves."""

    now_s = 0.0

    def monotonic_s(self) -> float:
        """The simulated time."""
        return self.now_s


def ours(
    folder: Path,
    fixes: int,
    commit_every_s: float,
    *,
    flush_every_s: float = FLUSH_EVERY_S,
    put_first: bool = False,
) -> None:
    """The queue, with the committer's rule: commit when it is due."""
    clock = SimulatedClock()
    with AckQueue(folder / "queue.db", commit_every_s=commit_every_s, clock=clock) as queue:
        for second in range(1, fixes + 1):
            due_s = queue.commit_due_s()
            if put_first:
                queue.put(fix_at(second), DEVICE)
            if due_s is not None and due_s <= clock.now_s:
                queue.commit()
            if not put_first:
                queue.put(fix_at(second), DEVICE)
            if second % flush_every_s == 0 and (batch := queue.lease(1000)):
                queue.ack(batch)
            clock.now_s += 1


def theirs(folder: Path, fixes: int) -> None:
    """persist-queue, which commits in each call."""
    queue = SQLiteAckQueue(str(folder))
    for second in range(1, fixes + 1):
        queue.put(as_dict(second))
        if second % FLUSH_EVERY_S == 0:
            for _ in range(FLUSH_EVERY_S):
                queue.ack(queue.get(block=False))
    queue.close()


def naive(folder: Path, fixes: int) -> None:
    """A table of JSON texts."""
    table = sqlite3.connect(folder / "fixes.db", isolation_level=None)
    table.execute("PRAGMA journal_mode = WAL")
    table.execute("PRAGMA synchronous = FULL")
    table.execute(
        "CREATE TABLE fixes (id INTEGER PRIMARY KEY AUTOINCREMENT, fix TEXT, sent INTEGER)"
    )
    table.execute("CREATE INDEX unsent ON fixes (sent)")
    for second in range(1, fixes + 1):
        table.execute("INSERT INTO fixes (fix, sent) VALUES (?, 0)", (json.dumps(as_dict(second)),))
        if second % FLUSH_EVERY_S == 0:
            ids = table.execute("SELECT id, fix FROM fixes WHERE sent = 0").fetchall()
            table.execute("UPDATE fixes SET sent = 1 WHERE sent = 0 AND id <= ?", (ids[-1][0],))
    table.close()


SUBJECTS: dict[str, Callable[[Path, int], None]] = {
    "persist-queue": theirs,
    "naive": naive,
    **{
        f"commit_every {every_s} s": partial(ours, commit_every_s=every_s)
        for every_s in COMMIT_EVERY_S
    },
    "commit_every 1 s, put first": partial(ours, commit_every_s=1, put_first=True),
    "commit_every 30 s, flush_every 60 s": partial(ours, commit_every_s=30, flush_every_s=60),
    **{
        f"commit_every {every_s} s, no network": partial(
            ours, commit_every_s=every_s, flush_every_s=DAY_S
        )
        for every_s in COMMIT_EVERY_S
    },
}

CHOICES: dict[str, tuple[str, ...]] = {
    "as it is": (),
    **{f"page_size {size}": (f"page_size = {size}",) for size in (1024, 2048, 4096)},
    **{f"wal_autocheckpoint {n}": (f"wal_autocheckpoint = {n}",) for n in (20, 50, 1000)},
    "secure_delete off": ("secure_delete = OFF",),
    "auto_vacuum": ("auto_vacuum = INCREMENTAL",),
}


def measure(run: Callable[[Path, int], None], fixes: int, parent: Path | None) -> float:
    """Bytes per fix."""
    with tempfile.TemporaryDirectory(dir=parent) as name:
        start = written_bytes()
        run(Path(name), fixes)
        return (written_bytes() - start) / fixes


def written_bytes() -> int:
    """The bytes that this process has the block layer write, now or later."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def syncs_per_fix(subject: str, parent: Path | None) -> str:
    """Counted by strace in another process."""
    if shutil.which("strace") is None:
        return "no strace"
    fixes = 200
    with tempfile.TemporaryDirectory(dir=parent) as name:
        log = Path(name) / "strace"
        command = ["strace", "-f", "-o", str(log), "-e", "trace=fsync,fdatasync", sys.executable]
        one = [*command, __file__, "--one", subject, "--fixes", str(fixes), "--folder", name]
        subprocess.run(one, check=True)
        syncs = len(re.findall(r"f(?:data)?sync\(", log.read_text()))
        return f"{syncs / fixes:.2f}"


def with_pragmas(pragmas: Iterable[str], commit_every_s: float) -> Callable[[Path, int], None]:
    """The queue with other settings."""
    names = {pragma.split(" = ")[0] for pragma in pragmas}
    kept = [p for p in schema._PRAGMAS if p.split()[1] not in names]  # noqa: SLF001 - its choices are the subject

    def run(folder: Path, fixes: int) -> None:
        changed = (*(f"PRAGMA {pragma}" for pragma in pragmas), *kept)
        with mock.patch.object(schema, "_PRAGMAS", changed):
            ours(folder, fixes, commit_every_s)

    return run


def main() -> None:
    """Run it, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--fixes", type=int, default=3600, help="an hour by default")
    parser.add_argument("--folder", type=Path, help="where to write; no tmpfs")
    parser.add_argument("--choices", action="store_true", help="compare settings of the file")
    parser.add_argument("--svg", type=Path, help="draw the bytes into this file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        SUBJECTS[arguments.one](arguments.folder, arguments.fixes)
        return
    if arguments.choices:
        print(f"{'bytes per fix':<24}" + "".join(f"{every_s:>10} s" for every_s in COMMIT_EVERY_S))
        for name, pragmas in CHOICES.items():
            print(f"{name:<24}", end="")
            for every_s in COMMIT_EVERY_S:
                run = with_pragmas(pragmas, every_s)
                written = measure(run, arguments.fixes, arguments.folder)
                print(f"{written:>12,.0f}", end="", flush=True)
            print()
        return
    print(f"{'':<38}{'bytes per fix':>14}{'MB a day':>12}{'syncs per fix':>15}")
    bytes_per_fix = {}
    for name, run in SUBJECTS.items():
        written = bytes_per_fix[name] = measure(run, arguments.fixes, arguments.folder)
        syncs = syncs_per_fix(name, arguments.folder)
        print(f"{name:<38}{written:>14,.0f}{written * DAY_S / 1e6:>12,.0f}{syncs:>15}")
    if arguments.svg:
        title = "Bytes written per fix, one fix a second (log scale)"
        draw(arguments.svg, title, bytes_per_fix, "commit_every")


if __name__ == "__main__":
    main()
