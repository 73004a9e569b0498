"""The queue writes its file again if the file is deleted, moved or replaced during use."""

import errno
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from ackqueue import damage
from ackqueue.queue_parts import fix_at, lease, put
from fakes import FakeClock

from telemetry_agent.ackqueue.committer import Committer
from telemetry_agent.ackqueue.file.lock import QueueLock, check_at_rest, lock_path
from telemetry_agent.ackqueue.file.schema import UnusableError, connect, log_of
from telemetry_agent.ackqueue.file.store import Store
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.queue_file import QueueFile
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.recovery.carry_over import carry_over
from telemetry_agent.errors import QueueLockedError, StorageError


def deleted(path: Path) -> None:
    path.unlink()


def log_deleted(path: Path) -> None:
    log_of(path).unlink()


def index_deleted(path: Path) -> None:
    path.with_name(path.name + "-shm").unlink()


def lock_deleted(path: Path) -> None:
    lock_path(path).unlink()


def lock_replaced(path: Path) -> None:
    path.with_name("other").write_text("1\n")
    path.with_name("other").rename(lock_path(path))


def all_deleted(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def folder_moved(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def moved(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def replaced(path: Path) -> None:
    path.with_name("other").write_bytes(b"not ours")
    path.with_name("other").rename(path)


def copied_back(path: Path) -> None:
    """Replace the file as a restored backup does: the same content under another inode."""
    shutil.copy(path, path.with_name("backup"))
    path.with_name("backup").rename(path)


@pytest.mark.parametrize(
    "how",
    [
        deleted,
        log_deleted,
        index_deleted,
        lock_deleted,
        lock_replaced,
        all_deleted,
        folder_moved,
        moved,
        replaced,
        copied_back,
    ],
)
def test_a_file_that_goes_while_it_is_used_is_written_again_within_10_s(
    tmp_path: Path, how: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    clock, path = FakeClock(), tmp_path / "queue" / "queue.db"
    with AckQueue(path, commit_every_s=3600, clock=clock) as queue:
        committer = Committer(queue)
        records = damage.record(queue, 300)
        wait_s = committer.step(clock.monotonic_s())
        assert wait_s is not None
        assert wait_s < 10
        how(path)
        put(queue, 1, start=1000)
        committer.step(clock.advance(wait_s))
        with pytest.raises(QueueLockedError, match=f"pid {os.getpid()}"):
            AckQueue(path)
        carry_over(queue)
        put(queue, 1, start=2000)
        queue.commit()
        killed = tmp_path / "killed.db"
        damage.copy(path, killed)
    assert "was deleted, moved or replaced while it was in use: it is written again" in caplog.text
    outcome = damage.recover(killed)
    assert outcome.delivered[:300] == records
    assert len(outcome.delivered) == 302
    assert outcome.lost == 0
    if how is replaced:
        assert path.with_name("queue.db.foreign-1").read_bytes() == b"not ours"


@pytest.mark.parametrize("how", [deleted, all_deleted, replaced])
def test_what_was_deleted_a_moment_before_the_end_is_not_lost(
    path: Path, how: Callable[[Path], None]
) -> None:
    with AckQueue(path) as queue:
        records = damage.record(queue, 300)
        how(path)
    assert damage.recover(path) == damage.Outcome(records, lost=0)


def test_a_queue_that_is_put_in_the_place_keeps_its_log(tmp_path: Path) -> None:
    clock, path, other = FakeClock(), tmp_path / "queue.db", tmp_path / "other.db"
    with AckQueue(other) as queue, AckQueue(path, commit_every_s=0, clock=clock) as replaced:
        records = damage.record(queue, 7)
        put(replaced, 2)
        for file in (other, log_of(other)):
            shutil.copy(file, file.with_name("copy"))
            file.with_name("copy").rename(path.with_name(file.name.replace("other", "queue")))
        replaced.stay_in_place()
        carry_over(replaced)
        assert replaced.stats().ready == 2
    assert damage.recover(tmp_path / "queue.db.foreign-1").delivered == records


@pytest.mark.parametrize(
    ("theirs", "name"),
    [("queue.db.damaged-1", "queue.db.foreign-1"), ("queue.db-wal", "foreign-1-wal")],
)
def test_what_others_put_in_the_place_of_any_file_of_the_queue_is_not_deleted(
    tmp_path: Path, theirs: str, name: str
) -> None:
    path = tmp_path / "queue.db"
    with AckQueue(path, commit_every_s=0) as queue:
        put(queue, 2)
        all_deleted(path)
        path.with_name(theirs).write_bytes(b"not ours")
        queue.stay_in_place()
        carry_over(queue)
        assert queue.stats().ready == 2
    (left,) = tmp_path.glob(f"*{name}")
    assert left.read_bytes() == b"not ours"


def test_a_copy_whose_folder_was_not_synced_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "queue.db"

    def refused(folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), folder)

    with AckQueue(path, commit_every_s=0) as queue:
        records = damage.record(queue, 7)
        all_deleted(path)
        with monkeypatch.context() as patch:
            patch.setattr("telemetry_agent.ackqueue.file.store.sync_directory", refused)
            with pytest.raises(StorageError):
                queue.stay_in_place()
        assert not list(tmp_path.glob("*damaged*"))
        queue.stay_in_place()
        carry_over(queue)
        assert not list(tmp_path.glob("*foreign*"))
    assert damage.recover(path) == damage.Outcome(records, lost=0)


@pytest.mark.parametrize("moment", ["copied", "deleted", "opened"])
@pytest.mark.parametrize(
    "how", [deleted, log_deleted, index_deleted, all_deleted, moved, replaced, copied_back]
)
def test_a_kill_while_it_is_written_again_costs_nothing(
    tmp_path: Path,
    how: Callable[[Path], None],
    moment: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, path, killed = FakeClock(), tmp_path / "queue" / "queue.db", tmp_path / "killed"
    owner, name = {
        "copied": (Store, "copy_to"),
        "deleted": (set_aside_files, "delete_empty"),
        "opened": (QueueFile, "_open"),
    }[moment]
    step = getattr(owner, name)

    def killed_here(*arguments: object) -> None:
        step(*arguments)
        shutil.copytree(path.parent, killed)
        raise StorageError("killed")

    with AckQueue(path, commit_every_s=3600, clock=clock) as queue:
        records = damage.record(queue, 300)
        queue.ack(lease(queue, 100, live_first=False))
        queue.commit()
        Committer(queue).step(clock.monotonic_s())
        how(path)
        with monkeypatch.context() as patch, suppress(StorageError):
            patch.setattr(owner, name, killed_here)
            queue.stay_in_place()
        caplog.clear()
        outcome = damage.recover(killed / path.name)
    assert outcome.delivered == records[100:]
    assert outcome.lost == 0
    assert "no undelivered fix is missing" in caplog.text
    left = {file.name.removeprefix("queue.db") for file in killed.iterdir()}
    assert left <= {"", "-wal", "-shm", ".lock", ".foreign-1", "elsewhere.db"}


@pytest.mark.parametrize("size", [0, 100, 512, 5120, 20_000])
def test_a_part_of_a_copy_takes_nothing_from_the_queue(tmp_path: Path, size: int) -> None:
    path = tmp_path / "queue.db"
    with AckQueue(path, commit_every_s=3600) as queue:
        records = damage.record(queue, 300)
        queue.ack(lease(queue, 100, live_first=False))
    assert path.stat().st_size > 20_000
    set_aside_files.next_to_wait(path).write_bytes(path.read_bytes()[:size])
    assert damage.recover(path) == damage.Outcome(records[100:], lost=0)


def test_a_copy_that_was_only_begun_does_not_hide_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, killed = tmp_path / "queue.db", tmp_path / "killed" / "queue.db"

    def begin_only(_: Store, copy: Path) -> None:
        copy.touch()
        killed.parent.mkdir()
        for file in (lock_path(path), copy):
            shutil.copy(file, killed.with_name(file.name))
        copy.unlink()
        raise StorageError("killed")

    with AckQueue(path, commit_every_s=0) as queue:
        put(queue, 3)
        path.unlink()
        with monkeypatch.context() as patch, suppress(StorageError):
            patch.setattr(Store, "copy_to", begin_only)
            queue.stay_in_place()
    with AckQueue(killed) as queue:
        carry_over(queue)
        assert queue.stats().lost == {"damaged": 3}


@pytest.mark.parametrize("how", [deleted, log_deleted, all_deleted, moved, copied_back])
@pytest.mark.parametrize("step", ["rename", "open"])
def test_a_disk_that_refuses_a_step_of_it_costs_nothing(
    tmp_path: Path, how: Callable[[Path], None], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, path, refused = FakeClock(), tmp_path / "queue.db", {""}

    def open_file(file: Path) -> sqlite3.Connection:
        if "open" in refused:
            raise sqlite3.OperationalError("unable to open database file")
        return connect(file)

    def rename(old: Path, new: Path) -> None:
        if "rename" in refused:
            raise OSError(errno.EROFS, "Read-only file system")
        old.rename(new)

    monkeypatch.setattr(set_aside_files, "rename", rename)
    with AckQueue(path, commit_every_s=0, clock=clock, connect=open_file) as queue:
        committer = Committer(queue)
        records = damage.record(queue, 300)
        committer.step(clock.monotonic_s())
        how(path)
        refused.add(step)
        for _ in range(3):
            committer.step(clock.advance(8))
        refused.clear()
        committer.step(clock.advance(8))
        carry_over(queue)
        records.append(queue.put(fix_at(2000), "van-07"))
    assert damage.recover(path) == damage.Outcome(records, lost=0)


def test_a_copy_that_finds_no_room_leaves_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, path = FakeClock(), tmp_path / "queue.db"
    with AckQueue(path, commit_every_s=0, clock=clock) as queue:
        committer = Committer(queue)
        damage.record(queue, 300)
        committer.step(clock.monotonic_s())
        deleted(path)
        with monkeypatch.context() as patch:
            patch.setattr("telemetry_agent.ackqueue.file.store.connect", small)
            for _ in range(3):
                committer.step(clock.advance(8))
        assert "database or disk is full" in caplog.text
        assert len(caplog.records) == 1
        assert not list(tmp_path.glob("*damaged*"))
        committer.step(clock.advance(8))
        assert path.exists()


def small(path: Path) -> sqlite3.Connection:
    """Connect to a file that may not grow."""
    connection = connect(path)
    connection.execute("PRAGMA max_page_count = 10")
    return connection


def test_a_lock_file_that_another_process_made_again_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, path = FakeClock(), tmp_path / "queue.db"
    with AckQueue(path, commit_every_s=0, clock=clock) as queue:
        committer = Committer(queue)
        committer.step(clock.monotonic_s())
        lock_deleted(path)
        other = QueueLock(path)
        for _ in range(3):
            committer.step(clock.advance(9))
        assert caplog.text.count("is in use by the process") == 1
        other.release()
        committer.step(clock.advance(9))
        with pytest.raises(QueueLockedError, match=f"pid {os.getpid()}"):
            AckQueue(path)


def test_by_a_symlink_it_is_the_same_queue(tmp_path: Path) -> None:
    link, path, killed = (tmp_path / name / "queue.db" for name in ("state", "disk", "killed"))
    link.parent.mkdir()
    link.symlink_to(path)
    with AckQueue(link) as queue:
        records = damage.record(queue, 300)
        for other in (link, path):
            with pytest.raises(QueueLockedError):
                AckQueue(other)
            with pytest.raises(QueueLockedError):
                check_at_rest(other)
        shutil.copytree(path.parent, killed.parent)
    link.unlink()
    link.symlink_to(killed)
    with AckQueue(link) as queue:
        assert queue.stats().ready == 300
        assert not queue.stats().lost
    damage.damage(killed, damage.header)
    assert damage.recover(link) == damage.Outcome(records, lost=0)
    assert link.is_symlink()
    assert list(link.parent.iterdir()) == [link]


def test_a_symlink_that_leads_to_itself_is_named(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    path.symlink_to(path)
    with pytest.raises(StorageError, match=f"{path}: .*symbolic links"):
        AckQueue(path)


def test_a_file_that_stays_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    with AckQueue(tmp_path / "queue.db", commit_every_s=0, clock=clock) as queue:
        committer = Committer(queue)
        for second in range(100):
            put(queue, 3, start=second)
            committer.step(clock.advance(5))
    assert caplog.text == ""


def test_of_a_disk_that_is_mounted_over_the_queue_nothing_is_touched(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = tmp_path / "state"
    path = folder / "queue.db"
    with AckQueue(path, commit_every_s=0) as queue:
        records = damage.record(queue, 300)
        with queue.shared.disk:
            assert queue.shared.replace(UnusableError("as if damaged")) is None
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "other", folder], check=True)
        try:
            theirs = damage.fill(path, 20)
            shutil.copy(path, folder / "queue.db.damaged-1")
            content = {file.name: file.read_bytes() for file in folder.iterdir()}
            queue.stay_in_place()
            carry_over(queue)
            with queue.shared.disk:
                disk_error = queue.shared.replace(UnusableError("damaged again"))
            assert disk_error is not None
            assert "another disk is mounted over it" in str(disk_error)
            assert content == {file.name: file.read_bytes() for file in folder.iterdir()}
            assert damage.recover(path).delivered == theirs
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
        queue.commit()
        carry_over(queue)
    assert damage.recover(path) == damage.Outcome(records, lost=0)
