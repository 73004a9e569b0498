"""Where the rows are, told in runs."""

from pathlib import Path

import pytest

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.model import Fix

START_MS = 1_795_435_200_000


@pytest.fixture
def queue(tmp_path: Path) -> AckQueue:
    return AckQueue(tmp_path / "queue.db", commit_every_s=60)


def put(queue: AckQueue, count: int) -> None:
    for number in range(count):
        queue.put(Fix(START_MS + 1000 * number, 48_117_300_000, 11_516_667_000), "van-07")


def test_each_row_is_in_one_place(queue: AckQueue) -> None:
    put(queue, 10)
    assert queue.places(1) == []  # none is on the disk
    queue.commit()
    put(queue, 1)
    assert queue.places(1) == [(1, 10, "stored")]
    batch = queue.lease(3, live_first=False)
    assert batch
    queue.ack(batch, rejected={2: "400"})
    batch = queue.lease(2, live_first=False)
    assert batch
    queue.release(batch, answered=False)  # perhaps there, surely on the disk
    assert queue.lease(3, live_first=False)
    assert queue.places(1) == [
        (1, 1, "delivered"),
        (2, 2, "dead-letter"),
        (3, 3, "delivered"),
        (4, 5, "stored"),
        (6, 8, "in-flight"),
        (9, 11, "stored"),
    ]
    assert queue.places(5) == [(5, 5, "stored"), (6, 8, "in-flight"), (9, 11, "stored")]
    queue.discard()
    assert queue.places(2)[0] == (2, 2, "gone")
    queue.resume_unack()
    assert queue.places(4)[0] == (4, 5, "stored")
    queue.close()


def test_after_gives_what_is_on_the_disk_and_how_far_it_looked(queue: AckQueue) -> None:
    assert queue.after(0) == (0, [])
    put(queue, 1500)
    assert queue.after(0) == (0, [])
    queue.commit()
    put(queue, 5)
    last, found = queue.after(0)
    assert last == 1000
    assert [row for row, _ in found] == list(range(1, 1001))
    assert found[41][1].seq == 42
    last, found = queue.after(last)
    assert (last, found[-1][0]) == (1500, 1500)
    assert queue.after(last) == (1500, [])
    queue.close()


def test_after_skips_what_is_gone(queue: AckQueue) -> None:
    put(queue, 5)
    queue.commit()
    batch = queue.lease(5)
    assert batch
    queue.ack(batch, rejected={2: "400", 3: "400"})
    queue.discard()
    last, found = queue.after(1)
    assert last == 5
    assert [row for row, _ in found] == [4, 5]
    queue.close()
