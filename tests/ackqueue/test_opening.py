"""A queue file in any state opens. Unusable files are set aside, and losses are reported."""

import errno
import logging
import os
import resource
import shutil
import sqlite3
import tracemalloc
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
from ackqueue import damage
from ackqueue.damage import files, kill, used
from ackqueue.queue_parts import lease, put, seqs
from ackqueue.recorded_disk import Op, RecordedDisk, Refusal

from telemetry_agent.ackqueue.file import schema
from telemetry_agent.ackqueue.file.lock import lock_path
from telemetry_agent.ackqueue.file.schema import UnusableError, connect, log_of
from telemetry_agent.ackqueue.file.store import Changes, Store
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery.carry_over import Carrier, carry_over
from telemetry_agent.ackqueue.row_states import Loaded
from telemetry_agent.errors import StorageError

MIB = 1 << 20


AWAY_THAT_CANNOT_BE = (
    "UPDATE mark SET lo = 1 << 20",
    "UPDATE mark SET hi = hi | 1 << 34",
    "UPDATE mark SET batch = 64",
    "UPDATE mark SET state = 0",
    "UPDATE mark SET state = 5",
    "UPDATE mark SET lo = -5",
    "UPDATE mark SET hi = 'high'",
    "UPDATE mark SET batch = 7.5",
    "DELETE FROM mark",
)


@pytest.mark.parametrize("statement", AWAY_THAT_CANNOT_BE)
def test_what_is_away_is_checked_before_it_is_believed(path: Path, statement: str) -> None:
    records = damage.fill(path, 200)
    damage.damage(path, damage.header)
    AckQueue(path).close()
    with closing(connect(path)) as file:
        assert file.execute("SELECT count(*) FROM mark").fetchone() == (1,)
        file.execute(statement)
    assert damage.recover(path) == damage.Outcome(records, lost=0)


def test_whatever_a_damaged_file_makes_python_raise_ends_no_start(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    records = damage.fill(path, 20)
    load, faults = Store.load, [TypeError("'>' not supported")]

    def load_or_raise(store: Store) -> Loaded:
        if faults:
            raise faults.pop()
        return load(store)

    monkeypatch.setattr(Store, "load", load_or_raise)
    assert damage.recover(path) == damage.Outcome(records, lost=0)
    assert "is damaged: '>' not supported. It is set aside" in caplog.text


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("state", ["alone", "set aside once", "carrying over"])
def test_a_misplaced_sector_ends_no_start(folder: Path, state: str, seed: int) -> None:
    records = used(folder / "queue.db", set_aside=state == "set aside once")
    if state == "carrying over":
        damage.damage(folder / "queue.db", damage.header)
        AckQueue(folder / "queue.db").close()
    damage.damage(folder / "queue.db", damage.misplaced_sector, seed)
    with AckQueue(folder / "queue.db", commit_every_s=3600) as queue:
        new = damage.record(queue, 3)
        queue.newest(10)
    outcome = damage.recover(folder / "queue.db")
    assert set(outcome.delivered) <= {*records, *new}
    assert set(new) <= set(outcome.delivered)
    assert outcome.lost <= len(records)


def test_a_set_aside_file_with_a_damaged_inode_ends_no_start(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    damage.fill(path, 30)
    damage.damage(path, damage.header)
    AckQueue(path).close()
    look_up = os.stat

    def refused(file: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(file).endswith("damaged-1"):
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG), file)
        return look_up(file, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refused)
        with AckQueue(path) as queue:
            put(queue, 3)
            assert len(lease(queue).records) == 3
    with AckQueue(path) as queue:
        carry_over(queue)
        assert queue.stats().ready == 33
    assert "no undelivered fix is missing" in caplog.text


def test_an_emptied_file_is_told_and_counted(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage.fill(path, 30)
    path.write_bytes(b"")
    with AckQueue(path) as queue:
        put(queue, 2)
        assert seqs(lease(queue)) == [1, 2]
        carry_over(queue)
        assert queue.stats().lost == {"damaged": 30}
    assert "is empty: the fixes that waited in it are lost" in caplog.text
    assert "30 are lost to damage: 30 between the beginning and" in caplog.text
    with AckQueue(path) as queue:
        assert queue.stats().lost == {"damaged": 30}


def test_an_emptied_file_in_which_nothing_waited_is_a_new_one(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage.fill(path, 3)
    with AckQueue(path) as queue:
        queue.ack(lease(queue))
    path.unlink()
    with AckQueue(path) as queue:
        assert queue.stats().lost == {}
    assert caplog.text == ""


@pytest.mark.parametrize("how", ["emptied", "overwritten"])
def test_what_a_destroyed_file_had_counted_as_lost_is_counted_again(path: Path, how: str) -> None:
    damage.fill(path, 30)
    path.unlink()
    with AckQueue(path) as queue:
        carry_over(queue)
        assert queue.stats().lost == {"damaged": 30}
        put(queue, 3)
        queue.fail(lease(queue, 2), "no")
        queue.ack(lease(queue, 1))
    for _ in range(2):  # the loss is noted for the next start
        path.write_bytes(b"" if how == "emptied" else bytes(6000))
        with AckQueue(path) as queue:
            carry_over(queue)
            assert queue.stats().lost == {"uncounted": 32}


def test_a_file_that_held_only_what_was_carried_over_hides_no_loss(path: Path) -> None:
    damage.fill(path, 30)
    damage.damage(path, damage.header)
    with AckQueue(path) as queue:
        carry_over(queue)
        assert queue.stats().ready == 30
    path.unlink()
    with AckQueue(path) as queue:
        carry_over(queue)
        assert queue.stats().lost == {"uncounted": 1}


def test_what_was_carried_over_stays_where_its_old_file_is_destroyed_before_it_is_deleted(
    path: Path,
) -> None:
    records = damage.fill(path, 30)
    damage.damage(path, damage.header)
    with AckQueue(path) as queue:
        carrier = Carrier(queue)
        while queue.stats().carrying_over:
            carrier.step(0)
        carrier.close()
    path.with_name("queue.db.damaged-1").write_bytes(b"")
    assert damage.recover(path) == damage.Outcome(records, lost=0)


def test_two_emptied_files_before_anything_was_carried_over_hide_no_loss(path: Path) -> None:
    damage.fill(path, 30)
    for _ in range(2):
        path.unlink()
        AckQueue(path).close()
    with AckQueue(path) as queue:
        carry_over(queue)
        assert queue.stats().lost == {"uncounted": 1}


@pytest.mark.parametrize("how", ["emptied", "deleted"])
def test_the_log_of_a_file_that_is_gone_is_carried_over(path: Path, how: str) -> None:
    queue = AckQueue(path, commit_every_s=0)
    put(queue, 30)
    left = kill(queue, path)
    left.write_bytes(b"") if how == "emptied" else left.unlink()
    outcome = damage.recover(left)
    assert [record.seq for record in outcome.delivered] == list(range(1, 31))
    with AckQueue(left) as queue:
        assert queue.stats().lost == {}


@pytest.mark.parametrize(
    ("before", "how", "lost"),
    [
        (0, "emptied", {"uncounted": 1}),
        (0, "deleted", {"uncounted": 1}),
        (3, "deleted", {"uncounted": 1, "damaged": 3}),
    ],
)
def test_a_file_that_is_gone_with_its_log_is_not_set_aside(
    path: Path, before: int, how: str, lost: dict[str, int]
) -> None:
    damage.fill(path, before)
    queue = AckQueue(path, commit_every_s=0)
    put(queue, 30)
    left = kill(queue, path)
    for file in (left, log_of(left)):
        file.write_bytes(b"") if how == "emptied" else file.unlink()
    with AckQueue(left) as queue:
        assert files(left) == []
        carry_over(queue)
        assert queue.stats().lost == lost


def test_a_kill_before_the_first_commit_is_no_loss(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage.fill(path, 3)
    left = kill(AckQueue(path), path)
    assert log_of(left).exists()
    with AckQueue(left) as queue:
        assert seqs(lease(queue)) == [1, 2, 3]
    assert caplog.text == ""


@pytest.mark.parametrize(("before", "is_left"), [(3, True), (0, False)])
def test_a_log_that_is_gone_while_another_file_waits_is_counted(
    path: Path, before: int, is_left: bool
) -> None:
    damage.fill(path, 30)
    damage.damage(path, damage.header)
    with AckQueue(path) as queue:
        put(queue, before)
    with AckQueue(path, commit_every_s=0) as queue:
        put(queue, 3)
        killed = shutil.copytree(path.parent, path.parent / "killed") / path.name
    log_of(killed).unlink()
    if not is_left:
        killed.unlink()
    with AckQueue(killed) as queue:
        carry_over(queue)
        assert queue.stats().lost == {"uncounted": 1}
        assert queue.stats().ready == 30 + before


def test_a_missing_log_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage.fill(path, 3)
    queue = AckQueue(path, commit_every_s=0)
    put(queue, 3)
    left = kill(queue, path)
    log_of(left).unlink()
    assert [record.seq for record in damage.recover(left).delivered] == [1, 2, 3]
    assert "the log of the queue" in caplog.text
    assert "is gone" in caplog.text


def test_of_a_file_without_its_log_no_row_is_written_over(path: Path) -> None:
    queue = AckQueue(path, commit_every_s=3600)
    damage.record(queue, 3000)
    left = kill(queue, path)
    log_of(left).unlink()
    data = left.read_bytes()
    middle = len(data) // damage.PAGE_BYTES // 2 * damage.PAGE_BYTES
    left.write_bytes(data[:middle] + bytes(damage.PAGE_BYTES) + data[middle:])
    pages = range(1, len(data) // damage.PAGE_BYTES + 2)
    found = sorted({row for page in pages for row in damage.rows_of_page(left, page)})
    outcome = damage.recover(left)
    assert [record.seq for record in outcome.delivered] == found
    assert outcome.lost == found[-1] - len(found)
    assert outcome.complete


def test_what_an_older_copy_of_a_queue_lacks_is_counted(path: Path) -> None:
    damage.fill(path, 20)
    old = path.read_bytes()
    with AckQueue(path) as queue:
        stream = queue.stream
        put(queue, 12)
        for _ in range(2):  # the backlog and the live fixes
            queue.ack(lease(queue, 25, live_first=False))
        put(queue, 8)
    path.write_bytes(old)
    with AckQueue(path) as queue:
        carry_over(queue)
        assert queue.stats().ready == 20
        assert queue.stats().lost == {"damaged": 8}
        queue.ack(lease(queue, 20))
        assert [a.not_coming for a in queue.accounts()[0] if a.stream == stream] == [{"damaged": 8}]


def make_text(path: Path) -> None:
    path.write_bytes(b"no database, but long enough to be one" * 100)


def make_other_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE recipes (name TEXT)")


@pytest.mark.parametrize("make", [make_text, make_other_database])
def test_a_file_of_others_is_set_aside_and_left_as_it_is(
    path: Path, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    make(path)
    content = path.read_bytes()
    with AckQueue(path) as queue:
        put(queue, 1)
        carry_over(queue)
        assert seqs(lease(queue)) == [1]
        assert queue.stats().lost == {}
    assert path.with_name("queue.db.foreign-1").read_bytes() == content
    assert "is set aside as" in caplog.text
    assert caplog.messages[-1] == f"no fix was found in {path}.damaged-1"


def test_an_older_file_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = damage.fill(path, 10)
    later = (*schema._MIGRATIONS, ("CREATE TABLE later (name TEXT)",))
    monkeypatch.setattr(schema, "_MIGRATIONS", later)
    assert damage.recover(path) == damage.Outcome(records, lost=0)
    assert files(path) == []
    with closing(connect(path)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (len(later),)


@pytest.mark.parametrize("is_summed_up", [True, False])
def test_a_kill_before_the_new_file_has_a_row_hides_no_loss(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_summed_up: bool
) -> None:
    killed = tmp_path / "killed"
    damage.fill(path, 300)
    with AckQueue(path) as queue:
        damage.damage(path, damage.middle_pages)

        def kill(_store: Store) -> StorageError:
            if is_summed_up:
                queue.shared.write_summary()
            shutil.copytree(path.parent, killed)
            return StorageError("killed")

        with monkeypatch.context() as patch, queue.shared.disk:
            patch.setattr(queue.shared.writer, "write", kill)
            queue.shared.replace(UnusableError("as if damaged"))
    outcome = damage.recover(killed / path.name)
    assert outcome.lost > 0
    assert len(outcome.delivered) + outcome.lost == 300


@pytest.mark.parametrize("how", ["carried over", "away"])
def test_of_an_emptied_queue_that_was_set_aside_once_no_number_is_invented(
    path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    with AckQueue(path) as queue:
        put(queue, 20)
        queue.commit()
        with queue.shared.disk:
            assert queue.shared.replace(UnusableError("as if damaged")) is None
        put(queue, 8)
        queue.ack(lease(queue, 3, live_first=False))
        if how == "carried over":
            carry_over(queue)
    for file in path.parent.iterdir():
        if file != lock_path(path):
            file.unlink()
    with AckQueue(path) as queue:
        carry_over(queue)
        assert queue.stats().lost == {"damaged": 8 if how == "carried over" else 5, "uncounted": 1}
    assert "is empty: the fixes that waited in it are lost" in caplog.text
    assert "other fixes may be missing: no file is left that counts them" in caplog.text


def test_of_an_old_copy_of_a_queue_that_was_set_aside_since_no_number_is_invented(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage.fill(path, 20)
    old = path.read_bytes()
    with AckQueue(path) as queue:
        with queue.shared.disk:
            assert queue.shared.replace(UnusableError("as if damaged")) is None
        carry_over(queue)
        put(queue, 8)
    path.write_bytes(old)
    with AckQueue(path) as queue:
        carry_over(queue)
        assert queue.stats().lost == {"damaged": 8, "uncounted": 1}
        assert queue.stats().ready == 20
    assert f"the newest fixes of the queue {path} are missing. It is set aside as" in caplog.text


def eio(op: Op) -> None:
    if op.kind == "read" and op.file == "queue.db":
        raise Refusal(apsw.IOError)


def full(op: Op) -> None:
    if op.kind in {"write", "create"}:
        raise Refusal(apsw.FullError)


def read_only(op: Op) -> None:
    if op.kind in {"write", "create", "truncate"}:
        raise Refusal(apsw.ReadOnlyError)


@pytest.mark.parametrize("refuse", [eio, full, read_only])
def test_a_disk_that_fails_sets_nothing_aside(path: Path, refuse: Callable[[Op], None]) -> None:
    records = damage.fill(path, 10)
    for _ in range(5):
        disk = RecordedDisk(refuse)
        with disk.recorded(), suppress(StorageError):
            queue = AckQueue(path, connect=disk.connect)
            queue.close()
        assert files(path) == []
    assert damage.recover(path) == damage.Outcome(records, lost=0)


def test_a_process_out_of_files_sets_nothing_aside(path: Path) -> None:
    records = damage.fill(path, 10)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    for spare in range(6):
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, limit[1]))
        try:
            with suppress(StorageError):
                AckQueue(path).close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        assert files(path) == []
    assert damage.recover(path) == damage.Outcome(records, lost=0)


def bytes_read() -> int:
    """Bytes that this process has read since it began."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"])


def test_a_queue_of_256_mib_is_set_aside_and_records_before_it_is_read(path: Path) -> None:
    damage.fill(path, 1000)
    with path.open("r+b") as file:
        file.truncate(256 * MIB)
        file.write(bytes(100))
    before = bytes_read()
    with AckQueue(path, commit_every_s=0) as queue:
        put(queue, 1)
        assert queue.stats().uncommitted == 0
        assert bytes_read() - before < 16 * MIB


def test_it_says_so_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    damage.fill(path, 2000)
    damage.damage(path, damage.header)
    damage.recover(path)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_a_file_that_cannot_take_what_is_missing_in_it_is_set_aside(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is readable from end to end. Only a write finds that it is damaged."""
    damage.fill(path, 40)
    path.rename(path.with_name("queue.db.damaged-1"))
    path.with_name("queue.db.lock").unlink()
    damage.fill(path, 60)
    write = Store.write
    refused: list[Changes] = []

    def malformed(store: Store, changes: Changes) -> None:
        if changes.marks and not refused:
            refused.append(changes)
            raise UnusableError("database disk image is malformed")
        write(store, changes)

    monkeypatch.setattr(Store, "write", malformed)
    outcome = damage.recover(path)
    assert refused
    assert len(outcome.delivered) == 100


def test_an_index_that_cannot_be_read_is_created_again(path: Path) -> None:
    with AckQueue(path, commit_every_s=0) as queue:
        put(queue, 3)
        killed = damage.kill(queue, path)
    index = killed.with_name(f"{killed.name}-shm")
    index.symlink_to("/proc/self/mem")  # a regular file whose first read is an I/O error
    with pytest.raises(OSError, match="Input/output error"):
        index.read_bytes()
    with AckQueue(killed) as queue:
        assert (queue.stats().ready, queue.stats().lost) == (3, {})
        assert not index.is_symlink()


def test_an_index_of_any_length_takes_little_memory(path: Path) -> None:
    damage.fill(path, 3)
    index = path.with_name(f"{path.name}-shm")
    with index.open("wb") as opened:
        opened.truncate(1 << 26)
    tracemalloc.start()
    try:
        with AckQueue(path) as queue:
            assert queue.stats().ready == 3
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()
