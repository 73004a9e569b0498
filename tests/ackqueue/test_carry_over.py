"""Carrying over: every row arrives once and unchanged, whatever interrupts it."""

import errno
import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ackqueue import damage
from ackqueue.damage import files, kill
from ackqueue.queue_parts import START_MS, Disk, fix_at, lease, put, seqs

from telemetry_agent.ackqueue.file import schema
from telemetry_agent.ackqueue.file.lock import QueueLock, QueueSummary, lock_path
from telemetry_agent.ackqueue.file.schema import UnusableError, connect
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery.carry_over import Carrier, carry_over
from telemetry_agent.ackqueue.recovery.damaged_file import FoundRows
from telemetry_agent.ackqueue.recovery.set_aside_files import move_away
from telemetry_agent.ackqueue.row_states import PURGED, State
from telemetry_agent.errors import StorageError

if TYPE_CHECKING:
    from telemetry_agent.model import Record


def test_no_row_is_carried_over_before_what_became_of_it_is_known(path: Path) -> None:
    damage.fill(path, 8000)
    with AckQueue(path, keep_delivered_s=10**9) as queue:  # the marks come after the rows
        queue.ack(lease(queue, 8000), rejected=dict.fromkeys(range(2, 8001, 2), "bad"))
    damage.damage(path, damage.header)
    with AckQueue(path, keep_delivered_s=10**9) as queue:
        carrier, shared = Carrier(queue), queue.shared
        while carrier.step(0) == 0:
            with shared.lock:
                assert shared.ledger.ready_rows.free.total == 0
        carrier.close()
        stats = queue.stats()
        assert (stats.ready, stats.acked, stats.ack_failed) == (0, 4000, 4000)


@pytest.mark.parametrize(("readings", "lost"), [(3, 0), (4, 200)])
def test_a_page_that_cannot_be_read_for_a_while_is_not_lost(
    path: Path, readings: int, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = damage.fill(path, 200)
    damage.damage(path, damage.header)
    begun, pread = 0, os.pread

    class Reading(FoundRows):
        def __init__(self, paths: Sequence[Path]) -> None:
            nonlocal begun
            begun += 1
            super().__init__(paths)

    def refused(file: int, size: int, offset: int) -> bytes:
        if size == damage.PAGE_BYTES and begun <= readings:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(file, size, offset)

    monkeypatch.setattr("telemetry_agent.ackqueue.recovery.carry_over.FoundRows", Reading)
    monkeypatch.setattr(os, "pread", refused)
    with AckQueue(path) as queue:
        carry_over(queue)
        assert queue.stats().lost.get("damaged", 0) == lost
        assert queue.stats().ready == len(records) - lost
    assert files(path) == ([".foreign-1"] if lost else [])


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error", "a file"), StorageError("a file: refused")]
)
def test_what_cannot_be_carried_over_now_waits_and_is_reported_once(
    path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(_: FoundRows) -> bool:
        raise error

    records = damage.fill(path, 30)
    damage.damage(path, damage.header)
    disk = Disk()
    with AckQueue(path, connect=disk.connect) as queue:
        carrier = Carrier(queue)
        with monkeypatch.context() as patch:
            patch.setattr(FoundRows, "look", refused)
            assert [carrier.step(0), carrier.step(0)] == [60, 60]
        assert caplog.text.count("cannot be carried over yet: a file: ") == 1
        disk.refuses = "before"
        put(queue, 1)
        with pytest.raises(StorageError):
            queue.commit()
        assert carrier.step(0) == 1
        assert not queue.stats().ready
        disk.refuses = "never"
        queue.commit()
        while carrier.step(0) == 0:
            pass
        assert queue.stats().ready == len(records) + 1


def test_a_file_whose_pages_were_refused_is_read_again_after_a_minute(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pread = os.pread

    def refused(file: int, size: int, offset: int) -> bytes:
        if size == damage.PAGE_BYTES:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(file, size, offset)

    damage.fill(path, 30)
    damage.damage(path, damage.header)
    with AckQueue(path) as queue:
        carrier = Carrier(queue)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", refused)
            while (wait_s := carrier.step(100)) == 0:
                pass
        assert (wait_s, carrier.step(101)) == (60, 59)
        assert "carried over yet: the disk refused to read " in caplog.text
        assert carrier.step(160) == 0


def test_rows_whose_write_was_refused_are_carried_over_by_the_next(path: Path) -> None:
    damage.fill(path, 30)
    damage.damage(path, damage.header)
    disk = Disk()
    with AckQueue(path, connect=disk.connect) as queue:
        carrier = Carrier(queue)
        while carrier.step(0) == 0:
            disk.refuses = "before"
        assert not queue.stats().ready
        disk.refuses = "never"
        queue.commit()
        assert queue.stats().ready == 30


def test_dead_letters_that_are_away_are_ready_once_they_were_retried(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 3)
        queue.fail(lease(queue), "no")
        with queue.shared.disk:
            queue.shared.replace(UnusableError("as if damaged"))
        assert queue.retry() == 3
        assert not queue.stats().ready
        carry_over(queue)
        assert (queue.stats().ready, queue.stats().ack_failed) == (3, 0)


@pytest.mark.parametrize("left", ["-wal", "-shm"])
def test_a_file_that_somebody_deleted_does_not_keep_what_is_left_waiting(
    path: Path, left: str
) -> None:
    with AckQueue(path, commit_every_s=3600) as queue:
        records = damage.record(queue, 5)
        path = kill(queue, path)
    aside = move_away(path)
    aside.with_name(f"{aside.name}-shm").touch()
    with AckQueue(path, commit_every_s=3600) as queue:
        for end in {"", "-wal", "-shm"} - {left}:
            aside.with_name(aside.name + end).unlink()
        new = damage.record(queue, 1)
        carry_over(queue)
        assert not queue.stats().carrying_over
        delivered: list[Record] = []
        while (batch := queue.lease(100)) is not None:
            queue.ack(batch)
            delivered += batch.records
    assert sorted(delivered) == sorted(new + records * (left == "-wal"))


@pytest.mark.parametrize("rows", [0, 5])
def test_a_file_of_version_3_goes_on_carrying_over(path: Path, rows: int) -> None:
    """Version 3 had a table of the rows still to come, instead of a mark."""
    records = damage.fill(path, 1500)
    damage.damage(path, damage.header)
    with AckQueue(path, commit_every_s=3600) as queue:
        records += damage.record(queue, rows)
        carrier = Carrier(queue)
        while not queue.stats().ready > rows:
            carrier.step(0)
        carrier.close()
    with closing(connect(path)) as file:
        assert 0 < file.execute("SELECT count(*) FROM fix").fetchone()[0] < 1500
        file.execute("DELETE FROM mark")
        file.execute("DROP TABLE stream")
        file.execute("CREATE TABLE away (lo, hi, oldest, last, marked)")
        file.execute(f"INSERT INTO away VALUES (500, {1 << 32}, 0, 1500, 1)")
        file.execute("PRAGMA user_version = 3")
    outcome = damage.recover(path)
    assert outcome == damage.Outcome(records, lost=0)
    assert files(path) == []


def test_rows_of_a_newer_file_that_can_be_read_are_carried_over_and_it_is_kept(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = damage.fill(path, 10)
    with closing(connect(path)) as file:
        file.execute("PRAGMA user_version = 99")
    assert damage.recover(path) == damage.Outcome(records, lost=0)
    assert "written by a newer telemetry-agent (its schema is version 99" in caplog.text
    assert files(path) == [".kept-1"]


def test_a_newer_file_that_cannot_be_read_waits_for_its_version(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    records = damage.fill(path, 10)
    with closing(connect(path)) as file:  # a column that this version does not know
        file.execute("ALTER TABLE fix ADD COLUMN other TEXT")
        file.execute("UPDATE fix SET other = 'x'")
        file.execute(f"PRAGMA user_version = {len(schema._MIGRATIONS) + 1}")
    with AckQueue(path) as queue:
        put(queue, 5, start=100)
        carry_over(queue)
        queue.ack(lease(queue))
        assert queue.stats().carrying_over
        assert queue.lease(1) is None
    assert "waits for the newer telemetry-agent" in caplog.text
    assert files(path) == [".damaged-1"]
    with closing(connect(path.with_name("queue.db.damaged-1"))) as file:  # as the newer one does
        file.execute("ALTER TABLE fix DROP COLUMN other")
        file.execute("PRAGMA journal_mode = DELETE").fetchall()
    monkeypatch.setattr(schema, "_MIGRATIONS", (*schema._MIGRATIONS, ()))
    assert damage.recover(path) == damage.Outcome(records, lost=0)


def test_what_became_of_the_fixes_is_carried_over_too(path: Path) -> None:
    with AckQueue(path, commit_every_s=0) as queue:
        put(queue, 100)
        queue.ack(lease(queue, 40, live_first=False), rejected={7: "too old", 9: "too old"})
        queue.release(lease(queue, 10, live_first=False), answered=False)
        queue.discard({(queue.stream, 9)})
        before = [(s.record, s.state, s.reason) for s in queue.stored()]
    damage.damage(path, damage.header)
    with AckQueue(path) as queue:
        carry_over(queue)
        after = [(s.record, s.state, s.reason) for s in queue.stored()]
        unack_to_ready = [
            (record, State.READY if state is State.UNACK else state, reason)
            for record, state, reason in before
        ]
        assert after == unack_to_ready
        assert queue.stats().lost == {"discarded": 1}
        assert seqs(lease(queue)) == list(range(41, 51))  # the unanswered batch, unchanged
        assert seqs(lease(queue)) == list(range(51, 101))


def test_what_was_delivered_and_deleted_does_not_come_back(path: Path) -> None:
    with AckQueue(path, keep_delivered_s=0, commit_every_s=0) as queue:
        put(queue, 200)
        queue.ack(lease(queue, 150, live_first=False))
        while queue.purge_delivered():
            pass
        left = kill(queue, path)
    for kind in (damage.header, damage.root_page):
        case = path.with_name(f"{kind.__name__}.db")
        damage.copy(left, case)
        damage.damage(case, kind)
        outcome = damage.recover(case)
        assert [record.seq for record in outcome.delivered] == list(range(151, 201))
        assert outcome.lost == 0


def test_the_newest_fix_is_known_before_anything_was_carried_over(path: Path) -> None:
    records = damage.fill(path, 500)
    damage.damage(path, damage.header)
    with AckQueue(path) as queue:
        assert queue.newest(3) == records[:-4:-1]


def test_being_killed_at_any_step_sends_nothing_twice_and_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry_agent.ackqueue.recovery.damaged_file._ROWS_PER_PORTION", 40)
    monkeypatch.setattr("telemetry_agent.ackqueue.recovery.damaged_file._PAGES_PER_LOOK", 60)
    with AckQueue(path) as queue:
        put(queue, 400)
        queue.ack(lease(queue, 50, live_first=False), rejected={5: "no"})
        name = queue.stream
    damage.damage(path, damage.header)
    delivered: list[Record] = []
    turns = 0
    while True:
        turns += 1
        queue = AckQueue(path, commit_every_s=0)
        put(queue, 1, start=1000 + turns)
        carrier = Carrier(queue)
        for _ in range(8 + turns):  # four to read all pages, then some of the rows
            carrier.step(0.0)
        batch = queue.lease(30, live_first=False)
        if batch is not None and batch.stream == name:
            delivered += batch.records
            queue.ack(batch)
        carrier.close()
        if not queue.stats().carrying_over:
            break
        left = path.with_name(f"{turns}.db")
        for file in path.parent.glob("queue.db*"):
            shutil.copy(file, left.with_name(left.name + file.name.removeprefix("queue.db")))
        queue.close()
        path = left
        for file in path.parent.glob(f"{path.name}*"):
            file.rename(file.with_name("queue.db" + file.name.removeprefix(path.name)))
        path = path.with_name("queue.db")
    assert turns > 2
    with queue:
        carry_over(queue)
        while batch := queue.lease(1000, live_first=False):
            delivered += [record for record in batch.records if record.stream == name]
            queue.ack(batch)
        assert [record.seq for record in delivered] == list(range(51, 401))
        assert queue.stats().dead_letters == {"no": 1}
        assert queue.stats().lost == {}


def summary_of(path: Path) -> QueueSummary:
    """The note beside the queue, as the next process that locks a copy reads it."""
    copy = path.with_name("copy.db")
    shutil.copy(lock_path(path), lock_path(copy))
    lock = QueueLock(copy)
    lock.release()
    return lock.last_summary


def test_the_summary_speaks_of_the_rows_that_were_carried_over(path: Path) -> None:
    damage.fill(path, 30)
    damage.damage(path, damage.header)
    with AckQueue(path) as queue:
        queue.put(fix_at(30), "van-07")
        queue.commit()
        queue.shared.write_summary()
        assert summary_of(path).away
        carry_over(queue)
        summary = summary_of(path)
        assert (summary.clean, summary.oldest, summary.away) == (False, 1, False)


def test_a_batch_that_is_out_stays_out_while_its_fixes_are_carried_over(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 50)
        first, second, third, fourth = (lease(queue, 10, live_first=False) for _ in range(4))
        with queue.shared.disk:
            queue.shared.replace(UnusableError("as if damaged"))
        queue.ack(first, rejected={3: "no"})
        queue.release(second)
        carry_over(queue)
        queue.release(third, answered=False)
        assert seqs(lease(queue, 10)) == list(range(11, 21))
        queue.ack(fourth, retry=[40])
        assert seqs(lease(queue)) == list(range(40, 51))
        assert queue.resume_unack() == 10
        assert seqs(lease(queue)) == seqs(third)
        assert queue.stats().dead_letters == {"no": 1}
        assert queue.stats().lost == {}


@pytest.mark.parametrize("killed", [False, True])
def test_what_was_made_ready_last_is_ready_whatever_the_damaged_file_says(
    path: Path, killed: bool
) -> None:
    disk = Disk()
    queue = AckQueue(path, connect=disk.connect)
    put(queue, 50)
    queue.ack(lease(queue, 20), rejected=dict.fromkeys(range(41, 51), "no"))
    queue.release(lease(queue, 20, live_first=False), answered=False)
    queue.resume_unack()
    disk.refuses = "before"
    one, _ = queue.split(lease(queue, 20), 1)
    queue.release(one, answered=False)
    assert queue.retry() == 10
    assert queue.resend(START_MS, START_MS + 99_000) == 10
    disk.refuses = "never"
    with queue.shared.disk:
        queue.shared.writer.report(queue.shared.replace(UnusableError("as if damaged")))
    if killed:
        shutil.copytree(path.parent, path.parent / "killed")
        queue.close()
        queue = AckQueue(path.parent / "killed" / path.name)
    with queue:
        carry_over(queue)
        queue.resume_unack()
        assert queue.stats().ready == 50
        assert seqs(lease(queue)) == [1]
        assert seqs(lease(queue)) == list(range(2 if killed else 21, 51))
        states = queue.shared.store.read_marks(0)
        assert [(mark[0], mark[4]) for mark in states if mark[2] == State.READY] == [(1, 1)]


def test_a_second_damage_before_the_first_is_carried_over(path: Path) -> None:
    records = damage.fill(path, 300)
    for number in range(3):
        damage.damage(path, damage.header)
        with AckQueue(path) as queue:
            put(queue, 10, start=1000 * (number + 1))
    outcome = damage.recover(path)
    assert outcome.delivered[:300] == records
    assert [record.seq for record in outcome.delivered[300:]] == [*range(1, 11)] * 3
    assert outcome.lost == 0
    assert files(path) == []


@pytest.mark.parametrize("third", ["none", "at the next start", "and the second is gone"])
@pytest.mark.parametrize("note", [True, False])
def test_what_was_delivered_before_two_damages_is_not_lost(
    path: Path, caplog: pytest.LogCaptureFixture, note: bool, third: str
) -> None:
    """The first file lost its marks and its delivered rows, and is still away."""
    with AckQueue(path) as queue:
        put(queue, 100)
        queue.ack(lease(queue, 90, live_first=False))
        with queue.shared.lock:
            queue.shared.ledger.lose([(1, 90)], PURGED)
    with closing(sqlite3.connect(path)) as file:
        file.execute("DELETE FROM mark")
        file.commit()
    damage.damage(path, damage.header)
    if not note:
        lock_path(path).unlink()
    queue = AckQueue(path)
    put(queue, 20, start=200)
    queue.ack(lease(queue, 10))  # the newest
    with queue.shared.disk:
        assert queue.shared.replace(UnusableError("as if damaged")) is None
    lost = {} if note else {"uncounted": 1}
    if third != "none":
        put(queue, 5, start=300)
        queue.close()
        damage.damage(path, damage.header)
        if third == "and the second is gone":
            for left in path.parent.glob("*.damaged-2*"):
                left.unlink()
            lost |= {"damaged": 10}
        queue = AckQueue(path)
    with queue:
        carry_over(queue)
        assert queue.stats().lost == lost
        assert queue.stats().ready == 10 + 10 * ("damaged" not in lost) + 5 * (third != "none")
    assert ("other fixes may be missing" in caplog.text) == (not note)
    assert any(".kept-" in name for name in files(path)) == bool(lost)  # for a person to look at
