"""The queue's behaviour when the file is damaged or the disk refuses."""

import errno
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from ackqueue.queue_parts import Disk, Refusal, fix_at, lease, put, seqs
from fakes import FakeClock

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.errors import StorageError


def test_a_text_that_is_not_utf_8_is_damage_of_its_row_alone(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 3)
        stream = queue.stream
    with closing(sqlite3.connect(path)) as file:
        file.execute("UPDATE fix SET device = CAST(x'ff' AS TEXT) WHERE seq = 2")
        file.commit()
    with AckQueue(path) as queue:
        assert seqs(lease(queue, 1)) == [1]
        assert seqs(lease(queue)) == [3]
        assert queue.stats().lost == {"damaged": 1}
        assert [record.stream for record in queue.newest(9)] == [stream, stream]
    assert set_aside_files.left_at_rest(path) == []


def test_the_end_of_a_batch_that_was_refused_is_written_by_the_next_commit(path: Path) -> None:
    disk = Disk()
    with AckQueue(path, connect=disk.connect, clock=FakeClock()) as queue:
        put(queue, 3)
        batch = lease(queue, 2)
        disk.refuses = "before"
        queue.ack(batch)
        disk.refuses = "never"
        queue.commit()
    with AckQueue(path) as queue:
        assert (queue.stats().acked, queue.stats().ready) == (2, 1)


def test_a_transaction_holds_at_most_a_thousand_fixes(path: Path) -> None:
    disk = Disk()
    with AckQueue(path, commit_every_s=3600, connect=disk.connect) as queue:
        put(queue, 2001)
        before = disk.commits
        queue.commit()
        assert disk.commits == before + 3


@pytest.mark.parametrize("refuses", ["before", "after"])
def test_a_full_disk_costs_patience_only(
    path: Path, caplog: pytest.LogCaptureFixture, refuses: Refusal
) -> None:
    caplog.set_level(logging.INFO)
    disk, clock = Disk(), FakeClock()
    with AckQueue(path, connect=disk.connect, clock=clock) as queue:
        put(queue, 2)
        batch = lease(queue)
        disk.refuses = refuses
        queue.ack(batch)
        names = [queue.put(fix_at(second), "a") for second in range(3)]
        for _ in range(5):
            with pytest.raises(StorageError, match="disk I/O error"):
                queue.commit()
            assert queue.commit_due_s() == clock.monotonic_s() + 1
            clock.advance(1)
        assert queue.stats().acked == 2
        assert queue.lease(100) is None
        disk.refuses = "never"
        queue.commit()
        assert list(lease(queue).records) == names
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "cannot write" in told[0]
    assert "after 5 s (failures: 7)" in told[1]
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT seq FROM fix ORDER BY id").fetchall() == [
            (seq,) for seq in range(1, 6)
        ]


def test_memory_is_bounded_while_the_disk_refuses_and_the_loss_is_confessed(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk, clock = Disk(), FakeClock()
    with AckQueue(path, connect=disk.connect, clock=clock, max_uncommitted=10) as queue:
        put(queue, 2)
        queue.commit()
        disk.refuses = "before"
        put(queue, 1)
        with pytest.raises(StorageError):
            queue.commit()
        put(queue, 14)
        assert queue.stats().uncommitted == 10
        assert queue.stats().lost == {"memory": 5}
        disk.refuses = "never"
        clock.advance(1)
        assert seqs(lease(queue)) == [1, 2, *range(8, 18)]
    said = [line for line in caplog.messages if "memory has" in line or "memory is" in line]
    assert said == [
        "the oldest fixes are lost: memory is full (10 fixes) because the disk refuses",
        "memory has room again: 5 fixes were lost",
    ]
    with AckQueue(path) as queue:
        assert queue.stats().lost == {"memory": 5}
        assert seqs(lease(queue)) == [1, 2, *range(8, 18)]


def test_what_fills_memory_without_a_commit_is_not_said_to_be_the_disk(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with AckQueue(path, max_uncommitted=10) as queue:
        put(queue, 12)
    assert caplog.messages == [
        (
            "the oldest fixes are lost: memory is full (10 fixes) because nothing was committed: "
            "the disk is slow, or no Committer runs"
        ),
        "memory has room again: 2 fixes were lost",
    ]


def test_what_a_close_loses_it_tells(path: Path) -> None:
    disk = Disk()
    queue = AckQueue(path, connect=disk.connect)
    put(queue, 3)
    disk.refuses = "before"
    with pytest.raises(StorageError, match="3 fixes"):
        queue.close()
    AckQueue(path).close()


def test_a_note_that_the_disk_refuses_keeps_nobody_from_starting(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.pwrite", refuse)
    with AckQueue(path) as queue:
        put(queue, 1)
    with AckQueue(path) as queue:
        assert queue.stats().ready == 1
