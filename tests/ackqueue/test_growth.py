"""What a call costs does not grow with what the queue holds. Counted, not timed."""

import tracemalloc
from pathlib import Path

import pytest
from ackqueue.queue_parts import fix_at, lease, put
from ackqueue.recorded_disk import Op, RecordedDisk

from telemetry_agent.ackqueue.file.rows import encode
from telemetry_agent.ackqueue.file.schema import connect
from telemetry_agent.ackqueue.file.store import Changes, Store
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.ranges import Span
from telemetry_agent.ackqueue.row_states import ACKED

FEW, MANY = 1_000, 100_000


def fill(path: Path, count: int, *, delivered: bool) -> None:
    store = Store(path, connect)
    rows = [encode(n, 1, n, "a", fix_at(n)) for n in range(1, count + 1)]
    store.write(Changes(rows, {1: Span(1, count, ACKED)} if delivered else {}))
    store.close()


def disk_operations_of_a_cycle(path: Path) -> int:
    """Reads, writes and syncs of a start, and of 50 fixes put, leased and acknowledged."""
    operations = 0

    def count(_: Op) -> None:
        nonlocal operations
        operations += 1

    disk = RecordedDisk(count)
    with disk.recorded():
        queue = AckQueue(path, connect=disk.connect)
        for second in range(50):
            put(queue, 1, start=second)
            queue.ack(lease(queue, 10))
        counted = operations
        queue.close()
    return counted


@pytest.mark.parametrize("delivered", [True, False])
def test_the_disk_is_asked_as_often_behind_many_fixes(tmp_path: Path, delivered: bool) -> None:
    counts = []
    for held in (FEW, MANY):
        path = tmp_path / f"{held}.db"
        fill(path, held, delivered=delivered)
        counts.append(disk_operations_of_a_cycle(path))
    assert counts[1] <= 1.3 * counts[0]


def test_memory_does_not_grow_with_the_backlog(tmp_path: Path) -> None:
    peaks = []
    for held in (FEW, MANY):
        path = tmp_path / f"{held}.db"
        fill(path, held, delivered=False)
        tracemalloc.start()
        with AckQueue(path) as queue:
            for _ in range(10):
                queue.ack(lease(queue, 100))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] <= 1.3 * peaks[0]
