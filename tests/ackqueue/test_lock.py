import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
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


def test_a_lock_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "queue.db.lock").mkdir()
    with pytest.raises(StorageError, match=re.escape(str(tmp_path / "queue.db.lock"))):
        AckQueue(tmp_path / "queue.db")
