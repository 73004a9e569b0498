import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast

import pytest
from ackqueue.apsw_connection import ApswConnection
from ackqueue.queue_parts import put

from telemetry_agent.ackqueue.file import log_index
from telemetry_agent.ackqueue.file.schema import connect, log_of
from telemetry_agent.ackqueue.file.store import Store
from telemetry_agent.ackqueue.queue import AckQueue

UNUSED = slice(120, 128)  # SQLite locks these bytes, and does not write to them
READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT * FROM fix").fetchone()
print("reads", flush=True)
input()
"""


@pytest.fixture
def index(path: Path) -> Path:
    return path.with_name("queue.db-shm")


@pytest.fixture
def ballast(path: Path) -> Path:
    return path.with_name("queue.db.ballast")


@contextmanager
def held(index: Path, ballast: Path) -> Iterator[None]:
    fd = log_index.hold(index, ballast)
    try:
        yield
    finally:
        os.close(fd)


def test_it_has_room_in_all_of_it_and_is_empty(index: Path, ballast: Path) -> None:
    index.write_bytes(b"of a process that was killed")
    with held(index, ballast):
        assert index.read_bytes() == bytes(1 << 15)
        assert index.stat().st_blocks * 512 >= 1 << 15


def test_sqlite_does_not_cut_it(path: Path, index: Path) -> None:
    def connecting(path: Path) -> sqlite3.Connection:
        with index.open("r+b") as file:  # a close after SQLite's open would drop the locks
            file.seek(UNUSED.start)
            file.write(b"unharmed")
        return connect(path)

    with closing(Store(path, connecting)) as store:
        assert store.integrity() == "ok"
        assert index.read_bytes()[UNUSED] == b"unharmed"
    assert not index.exists()


def test_sqlite_takes_nobody_else_for_a_user_when_it_closes_it(path: Path, index: Path) -> None:
    """SQLite 3.51 and newer, which apsw includes, look for another user."""

    def connecting(path: Path) -> sqlite3.Connection:
        return cast("sqlite3.Connection", ApswConnection(path, "unix"))

    with closing(Store(path, connecting)):
        assert log_of(path).stat().st_size
    assert not log_of(path).exists()
    assert not index.exists()


def test_that_of_another_process_stays_as_it_is(path: Path, index: Path, ballast: Path) -> None:
    queue = AckQueue(path)
    put(queue, 3)
    queue.commit()
    with subprocess.Popen(
        [sys.executable, "-c", READER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reads\n"
        queue.close()
        before = index.read_bytes()
        assert any(before)
        with held(index, ballast):
            assert index.read_bytes() == before
        with AckQueue(path) as again:
            assert again.stats().ready == 3
        reader.communicate("\n")
    assert reader.returncode == 0


def test_no_room_takes_the_ballast(
    index: Path, ballast: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ballast.touch()

    def allocate(fd: int, start: int, count: int) -> None:
        if ballast.exists():
            raise OSError(28, "No space left on device")
        os.ftruncate(fd, start + count)

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    with held(index, ballast):
        assert not ballast.exists()
