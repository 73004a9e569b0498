import errno
import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ackqueue.queue_parts import put
from processes import environment

from telemetry_agent.ackqueue.file.lock import QueueLock
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.errors import QueueLockedError, StorageError

HOLD = """
import sys
from pathlib import Path
from telemetry_agent.ackqueue.file.lock import QueueLock
lock = QueueLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_named_and_its_death_frees_the_queue(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(QueueLockedError, match=rf"\b{holder.pid}\b") as caught:
            AckQueue(path)
        assert str(path) in str(caught.value)
        assert not path.exists()
        holder.kill()
    AckQueue(path).close()


def test_the_lock_file_holds_the_pid_as_text(tmp_path: Path) -> None:
    lock = QueueLock(tmp_path / "queue.db")
    assert (tmp_path / "queue.db.lock").read_text() == f"{os.getpid()}\n"
    lock.release()


def test_two_queues_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    with AckQueue(path), pytest.raises(QueueLockedError, match=str(os.getpid())):
        AckQueue(path)
    AckQueue(path).close()


@pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="mounts")
def test_a_lock_on_another_disk_is_not_that_of_the_queue(tmp_path: Path) -> None:
    """Each disk numbers its files separately: the first ones have the same inode number."""
    script = """if 1:
        import subprocess, sys
        from pathlib import Path
        from telemetry_agent.ackqueue.file.lock import QueueLock, check_at_rest, lock_path
        from telemetry_agent.errors import QueueLockedError
        ours, others = (Path(name, "queue.db") for name in sys.argv[1:])
        for queue in (ours, others):
            subprocess.run(["mount", "-t", "tmpfs", "none", str(queue.parent)], check=True)
            lock_path(queue).touch()
        assert lock_path(ours).stat().st_ino == lock_path(others).stat().st_ino
        lock = QueueLock(others)
        check_at_rest(ours)
        try:
            check_at_rest(others)
        except QueueLockedError:
            sys.exit(0)
        sys.exit("not seen")
    """
    folders = [tmp_path / "ours", tmp_path / "others"]
    for folder in folders:
        folder.mkdir()
    ran = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", script, *map(str, folders)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_a_lock_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "queue.db.lock").mkdir()
    with pytest.raises(StorageError, match=re.escape(str(tmp_path / "queue.db.lock"))):
        AckQueue(tmp_path / "queue.db")


def test_a_lock_that_the_file_system_refuses_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    path = tmp_path / "queue.db"
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refused)
        with pytest.raises(StorageError, match=f"cannot lock {path}.lock: No locks available"):
            AckQueue(path)
    AckQueue(path).close()


def test_a_disk_that_refuses_the_last_note_once_invents_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refusals = os.pwrite, [OSError(errno.EIO, os.strerror(errno.EIO))]

    def refused(file: int, data: bytes, offset: int) -> int:
        if refusals:
            raise refusals.pop()
        return real(file, data, offset)

    path = tmp_path / "queue.db"
    queue = AckQueue(path, commit_every_s=0)
    put(queue, 3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refused)
        queue.close()
    assert not refusals
    with AckQueue(path) as queue:
        assert queue.stats().ready == 3
        assert not queue.stats().lost


def test_a_lock_file_whose_disk_is_gone_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = QueueLock(tmp_path / "queue.db")
    (tmp_path / "queue.db.lock").unlink()
    close = os.close

    def refuse(fd: int) -> None:
        close(fd)
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", refuse)
        assert lock.retake()
        lock.release()
    AckQueue(tmp_path / "queue.db").close()
