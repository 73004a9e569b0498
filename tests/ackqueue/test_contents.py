"""Where the rows are, as runs."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from telemetry_agent.ackqueue import contents
from telemetry_agent.ackqueue.contents import Place
from telemetry_agent.ackqueue.file.rows import Row
from telemetry_agent.ackqueue.file.schema import UnusableError
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.ranges import RangeMap
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
    assert list(queue.places(1)) == []  # no row is on the disk
    queue.commit()
    put(queue, 1)
    assert list(queue.places(1)) == [(1, 10, "stored")]
    batch = queue.lease(3, live_first=False)
    assert batch
    queue.ack(batch, rejected={2: "400"})
    batch = queue.lease(2, live_first=False)
    assert batch
    queue.release(batch, answered=False)  # perhaps at the endpoint, certainly on the disk
    assert queue.lease(3, live_first=False)
    assert list(queue.places(1)) == [
        (1, 1, "delivered"),
        (2, 2, "dead-letter"),
        (3, 3, "delivered"),
        (4, 5, "stored"),
        (6, 8, "in-flight"),
        (9, 11, "stored"),
    ]
    assert list(queue.places(5)) == [(5, 5, "stored"), (6, 8, "in-flight"), (9, 11, "stored")]
    queue.discard()
    assert next(queue.places(2)) == (2, 2, "gone")
    queue.resume_unack()
    assert next(queue.places(4)) == (4, 5, "stored")
    queue.close()


def test_a_row_of_a_batch_that_is_out_is_in_one_place_while_its_file_is_set_aside(
    queue: AckQueue,
) -> None:
    put(queue, 20)
    queue.commit()
    assert queue.lease(5, live_first=False)
    with queue.shared.disk:
        queue.shared.replace(UnusableError("as if damaged"))
    assert list(queue.places(1))[:2] == [(1, 5, "in-flight"), (6, 20, "stored")]


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
    assert queue.after(2000) == (2000, [])
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


def test_what_is_out_is_pending_up_to_a_row(queue: AckQueue) -> None:
    put(queue, 5)
    queue.commit()
    batch = queue.lease(2, live_first=False)
    assert batch
    queue.ack(batch)
    assert queue.lease(3)
    assert [queue.pending(row) for row in (1, 4, 9)] == [0, 2, 3]
    queue.close()


@pytest.mark.parametrize("reason", [None, "no"])
def test_a_damaged_row_is_neither_shown_nor_sent_again(tmp_path: Path, reason: str | None) -> None:
    """A delivered fix is not lost because its row is damaged later."""
    path = tmp_path / "queue.db"
    with AckQueue(path) as queue:
        put(queue, 3)
        queue.commit()
        batch = queue.lease(3)
        assert batch
        queue.ack(batch, rejected=dict.fromkeys(range(1, 4), reason) if reason else {})
        stream = queue.stream
    with closing(sqlite3.connect(path)) as file:
        file.execute("UPDATE fix SET lat_e9 = lat_e9 + 1 WHERE seq = 2")
        file.commit()
    with AckQueue(path) as queue:
        assert [row for row, _ in queue.after(0)[1]] == [1, 3]
        if reason:
            assert queue.retry(()) == 0
            assert queue.retry({(stream, 1), (stream, 2)}) == 1
            assert queue.discard({(stream, 2), (stream, 3)}) == 1
        else:
            assert queue.resend_names(stream, 1, 2) == 1
            assert queue.resend(START_MS, START_MS + 9000) == 1
        assert "damaged" not in queue.stats().lost


@pytest.fixture
def scattered(queue: AckQueue) -> AckQueue:
    """A queue of 4,000 fixes, of which every other one was refused."""
    put(queue, 4000)
    while batch := queue.lease(1000):
        odd = [record.seq for record in batch.records if record.seq % 2]
        queue.ack(batch, rejected={seq: f"400: no {seq}" for seq in odd})
    return queue


def test_a_look_and_a_change_of_many_runs_hold_the_lock_for_a_few_at_a_time(
    scattered: AckQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, changes = [], []
    look, ready = contents._look, scattered.shared.ledger.make_ready

    def looked(*args: Any) -> tuple[RangeMap[Place], int]:
        looks.append(look(*args))
        return looks[-1]

    def made_ready(ranges: list[tuple[int, int]]) -> None:
        changes.append(len(ranges))
        ready(ranges)

    monkeypatch.setattr(contents, "_look", looked)
    monkeypatch.setattr(scattered.shared.ledger, "make_ready", made_ready)
    assert list(scattered.places(1)) == [
        (row, row, "dead-letter" if row % 2 else "delivered") for row in range(1, 4001)
    ]
    assert max(len(list(seen)) for seen, _ in looks) <= 500
    assert scattered.retry() == 2000
    assert max(changes) <= 50
    scattered.close()


def test_to_change_dead_letters_by_name_or_reason_reads_each_at_most_once(
    scattered: AckQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    real = scattered.shared.read

    def counted(*ranges: tuple[int, int], limit: int) -> list[Row]:
        rows = real(*ranges, limit=limit)
        read.append(len(rows))
        return rows

    monkeypatch.setattr(scattered.shared, "read", counted)
    assert scattered.retry([(scattered.stream, 7), (scattered.stream, 8)]) == 1
    assert sum(read) == 1
    read.clear()
    assert scattered.retry(reason="no 7") == 5 + 50
    assert sum(read) == 1999
    scattered.close()


@pytest.mark.parametrize("stream", ["", "9f0c", "xyz", "9f 0c 2d 6e 11 a7 b3 54", None, 7])
def test_what_is_not_a_stream_is_refused_in_plain_words(stream: Any, queue: AckQueue) -> None:
    said = "is not a stream: 16 hex digits"
    with pytest.raises(ValueError, match=said):
        queue.retry([(stream, 1)])
    with pytest.raises(ValueError, match=said):
        queue.discard([(stream, 1)])
    with pytest.raises(ValueError, match=said):
        queue.resend_names(stream, 1, 2)
