"""Whether the queue gets slower, or larger in memory, with what it holds.

::

    python benchmarks/growth.py [--delivered 10000000] [--pending 1000000] [--ranges 100000]
                                [--folder FOLDER]

The first table compares a queue that keeps few delivered fixes with one that keeps many: the
median times of a put with its commit, of a lease and of an acknowledgement of 100 fixes, and of
a count of everything, in turns. The second opens a queue with ``--pending`` fixes and delivers a
part of them, in a process of its own, so that its memory can be measured. 10,000,000 fixes need
1.2 GB of disk and some minutes.

The other tables do both with an empty queue and with one in which every second fix has another
state: refused, each for a reason of its own; ready again; thinned. And with a queue of 256 MiB.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

from queue_cycle import DEVICE, fix_at

from telemetry_agent.ackqueue.file.rows import encode
from telemetry_agent.ackqueue.file.schema import connect
from telemetry_agent.ackqueue.file.store import Changes, Store
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.ranges import Span
from telemetry_agent.ackqueue.reading import QueueReader, readable
from telemetry_agent.ackqueue.row_states import ACKED, THINNED, RowState, dead_letter

FEW = 10_000
BATCH = 100
TURNS = 300
FIXES_IN_256_MIB = 3_100_000
_ROWS_PER_WRITE = 20_000
_STREAM = 1

Medians = dict[str, float]


def fill(path: Path, count: int, *, delivered: bool) -> None:
    """Make a queue with this number of fixes, all pending or delivered, as after normal use."""
    store = Store(path, connect)
    for first in range(1, count + 1, _ROWS_PER_WRITE):
        last = min(count, first + _ROWS_PER_WRITE - 1)
        rows = [encode(n, _STREAM, n, DEVICE, fix_at(n)) for n in range(first, last + 1)]
        store.write(Changes(rows, {1: Span(1, last, ACKED)} if delivered else {}))
    store.close()


def fill_alternating(path: Path, ranges: int, what: str) -> None:
    """Make a queue in which every second fix is refused, ready or thinned: this number of them."""
    fill(path, 2 * ranges, delivered=True)
    store = Store(path, connect)
    for first in range(1, 2 * ranges, _ROWS_PER_WRITE):
        marks: dict[int, Span[RowState] | None] = {1: None} if what == "ready" else {}
        for n in range(first, first + _ROWS_PER_WRITE, 2):
            marks[n] = Span(n, n, ACKED)
            if what == "refused":
                marks[n + 1] = Span(n + 1, n + 1, dead_letter(f"400: no position {n} on this map"))
            elif what == "thinned":
                marks[n + 1] = Span(n + 1, n + 1, THINNED)
        store.write(Changes(marks=marks))
    store.close()


def cycle(paths: list[Path]) -> list[Medians]:
    """The milliseconds of each call on each queue: medians; the queues take turns."""
    with ExitStack() as stack:
        queues = [stack.enter_context(AckQueue(path, commit_every_s=3600)) for path in paths]
        taken = [[one_turn(queue) for queue in queues] for _ in range(TURNS)]
    return [
        {name: statistics.median(turn[place][name] for turn in taken) for name in taken[0][0]}
        for place in range(len(paths))
    ]


def one_turn(queue: AckQueue) -> Medians:
    """Put 100 fixes, the last one alone; lease and acknowledge them."""
    for second in range(BATCH - 1):
        queue.put(fix_at(second), DEVICE)
    queue.commit()
    moments = [time.perf_counter()]
    put_and_commit(queue)
    moments.append(time.perf_counter())
    batch = queue.lease(BATCH)
    moments.append(time.perf_counter())
    assert batch is not None
    queue.ack(batch)
    moments.append(time.perf_counter())
    queue.stats()
    moments.append(time.perf_counter())
    names = ("put and commit", "lease of 100", "ack of 100", "stats")
    return {name: (moments[place + 1] - moments[place]) * 1000 for place, name in enumerate(names)}


def put_and_commit(queue: AckQueue) -> None:
    """Write one fix to disk."""
    queue.put(fix_at(0), DEVICE)
    queue.commit()


def start(path: Path) -> Medians:
    """Open a queue, count what waits, deliver some of it; read it at rest. Milliseconds of CPU."""
    began_s = time.process_time()
    with AckQueue(path) as queue:
        opened_s = time.process_time()
        opened_mb = peak_mb()
        for _ in range(50):
            for second in range(10):
                queue.put(fix_at(second), DEVICE)
            if batch := queue.lease(1000):
                queue.ack(batch)
        delivered_mb = peak_mb()
    at_rest_ms = stats_at_rest(path)
    if not (killed := os.fork()):
        put_and_commit(AckQueue(path))
        os._exit(0)
    os.waitpid(killed, 0)
    return {
        "start": (opened_s - began_s) * 1000,
        "MB after it": opened_mb,
        "MB after 50 batches": delivered_mb,
        "stats at rest": at_rest_ms,
        "stats after a kill": stats_at_rest(path),
    }


def stats_at_rest(path: Path) -> float:
    """The milliseconds of CPU to read and count."""
    began_s = time.process_time()
    with readable(path) as file, closing(QueueReader(file)) as reader:
        reader.stats()
    return (time.process_time() - began_s) * 1000


def peak_mb() -> float:
    """The most memory that this program ever held; ``getrusage`` includes its parent's."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    return int(line.split()[1]) / 1024


def start_in_a_process(path: Path) -> Medians:
    """Run it in a process of its own, so that its memory is its own."""
    command = [sys.executable, __file__, "--start", str(path)]
    figures: Medians = json.loads(
        subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    )
    return figures


def print_table(few: int, many: int, small: Medians, large: Medians) -> None:
    """Side by side, with the ratio."""
    print(f"{'':<24}{few:>12,}{many:>12,}{'ratio':>8}")
    for name, value in small.items():
        print(f"{name:<24}{value:>12.2f}{large[name]:>12.2f}{large[name] / value:>8.2f}")


def main() -> None:
    """Run it, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--delivered", type=int, default=10_000_000)
    parser.add_argument("--pending", type=int, default=1_000_000)
    parser.add_argument("--ranges", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where to write")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        print(json.dumps(start(arguments.start)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        small, large = Path(name) / "small.db", Path(name) / "large.db"
        fill(small, FEW, delivered=True)
        fill(large, arguments.delivered, delivered=True)
        print("delivered fixes kept, ms")
        print_table(FEW, arguments.delivered, *cycle([small, large]))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        small, large = Path(name) / "small.db", Path(name) / "large.db"
        fill(small, 5 * FEW, delivered=False)
        fill(large, arguments.pending, delivered=False)
        print("fixes pending")
        few, many = start_in_a_process(small), start_in_a_process(large)
        print_table(5 * FEW, arguments.pending, few, many)
    for what in ("refused", "ready", "thinned"):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            small, large = Path(name) / "small.db", Path(name) / "large.db"
            fill(small, 1, delivered=True)
            fill_alternating(large, arguments.ranges, what)
            print(f"every other fix {what}, ms and MB")
            print_side_by_side(small, large, 1, arguments.ranges)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        small, large = Path(name) / "small.db", Path(name) / "large.db"
        fill(small, 1, delivered=True)
        fill(large, FIXES_IN_256_MIB, delivered=True)
        print(f"a file of {large.stat().st_size >> 20} MiB, ms and MB")
        print_side_by_side(small, large, 1, FIXES_IN_256_MIB)


def print_side_by_side(small: Path, large: Path, few: int, many: int) -> None:
    """Print start and memory, each the best of three processes; then the cycle."""
    starts = [[start_in_a_process(path) for _ in range(3)] for path in (small, large)]
    best = [{name: min(turn[name] for turn in turns) for name in turns[0]} for turns in starts]
    print_table(few, many, *best)
    print_table(few, many, *cycle([small, large]))


if __name__ == "__main__":
    main()
