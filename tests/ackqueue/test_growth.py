"""The cost of a call does not grow with the size of the queue. Counted, not timed."""

import functools
import tempfile
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from ackqueue import damage
from ackqueue.queue_parts import fix_at, lease, put
from ackqueue.recorded_disk import Op, RecordedDisk
from once import mostly_once

from telemetry_agent.ackqueue.file.rows import encode
from telemetry_agent.ackqueue.file.schema import connect
from telemetry_agent.ackqueue.file.store import Changes, Store
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.ranges import Span
from telemetry_agent.ackqueue.recovery.carry_over import carry_over
from telemetry_agent.ackqueue.row_states import ACKED, THINNED, RowState, State, dead_letter

FEW, MANY = 1_000, 100_000


def fill(path: Path, count: int, *, delivered: bool) -> None:
    path.write_bytes(_filled(count, delivered))


@functools.cache  # making a file takes longer than most tests
def _filled(count: int, delivered: bool) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "queue.db")
        store = Store(path, connect)
        rows = [encode(n, 1, n, "a", fix_at(n)) for n in range(1, count + 1)]
        store.write(Changes(rows, {1: Span(1, count, ACKED)} if delivered else {}))
        store.close()
        return path.read_bytes()


def disk_operations_of_a_cycle(path: Path) -> int:
    """Count reads, writes and syncs of a start, and of 50 fixes put, leased and acknowledged."""
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


def fill_alternating(path: Path, mark: Callable[[int], RowState | None], count: int = MANY) -> None:
    """Make a queue in which every other fix was delivered."""
    fill(path, count, delivered=True)
    store = Store(path, connect)
    marks: dict[int, Span[RowState] | None] = {1: None}
    for n in range(1, count, 2):
        marks[n] = Span(n, n, ACKED)
        other = mark(n + 1)
        if other is not None:
            marks[n + 1] = Span(n + 1, n + 1, other)
    store.write(Changes(marks=marks))
    store.close()


ALTERNATING: dict[str, Callable[[int], RowState | None]] = {
    "refused": lambda n: dead_letter(f"400: no position {n} on this map"),
    "ready": lambda _: None,
    "thinned": lambda _: THINNED,
}


@pytest.mark.parametrize("kind", mostly_once([*ALTERNATING], 1))
def test_rows_that_alternate_take_little_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "queue.db"
    fill_alternating(path, ALTERNATING[kind])
    tracemalloc.start()
    with AckQueue(path) as queue:
        for _ in range(10):
            put(queue, 10)
            queue.ack(lease(queue, 100))
        queue.stats()
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # So 100,000 of them, with twice as many ranges, take less than 5 MB.
        assert held <= 24 * MANY
        assert peak <= 1.5 * held  # 1.2 to 1.35, depending on the Python version


def test_carrying_over_many_dead_letters_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    fill_alternating(path, ALTERNATING["refused"], 10_000)
    damage.damage(path, damage.header)
    tracemalloc.start()
    with AckQueue(path) as queue:
        carry_over(queue)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak <= 2_000_000
        assert queue.stats().ack_failed == 5_000
        dead = list(islice(queue.stored(State.ACK_FAILED), 4_999, None))
        assert [s.reason for s in dead] == ["400: no position 10000 on this map"]
