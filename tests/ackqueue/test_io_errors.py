"""Every operation of the disk fails, once or for a while. A power cut may follow."""

import random
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
from ackqueue.power_cut import Platter
from ackqueue.power_workload import Workload
from ackqueue.promises import BrokenPromiseError, Promises
from ackqueue.queue_parts import lease, put, seqs
from ackqueue.recorded_disk import Op, RecordedDisk, Refusal, scratch_folder
from once import TEETH, mostly_once

from telemetry_agent.ackqueue.file.schema import connect
from telemetry_agent.ackqueue.file.store import Store
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.errors import StorageError

CHECKPOINT_OFTEN = ("PRAGMA wal_autocheckpoint = 10",)
STEPS = 20
FOR_EVER = 10**9


class Fault:
    """Refuses ``length`` operations from number ``at`` on. Counts only those that it can affect."""

    def __init__(self, name: str, at: int, length: int) -> None:
        self._full = name != "EIO"
        self._written = 0.6 if name == "short write" else 0.0
        self._refused = range(at, at + length)
        self._healed = False
        self.seen = 0

    def __call__(self, op: Op) -> None:
        if self._full and op.kind not in {"write", "create"}:
            return
        self.seen += 1
        if self.seen - 1 in self._refused and not self._healed:
            error = apsw.FullError if self._full else apsw.IOError
            raise Refusal(error, written=self._written)

    def heal(self) -> None:
        self._healed = True


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="io-errors-", dir=scratch_folder()) as name:
        yield Path(name)


KINDS = ("EIO", "ENOSPC", "short write")
FAULTS = pytest.mark.parametrize("fault", KINDS)


@pytest.mark.parametrize("fault", mostly_once(KINDS, 1))
@pytest.mark.parametrize("length", [1, FOR_EVER])
def test_no_refusal_corrupts_or_loses_or_makes_the_queue_lie(
    folder: Path, fault: str, length: int
) -> None:
    _refuse_each_operation(folder, fault, length)


@TEETH
def test_a_queue_that_takes_a_refusal_for_success_is_caught(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Store.write

    def careless(*arguments: Any) -> None:
        with suppress(StorageError):
            write(*arguments)

    monkeypatch.setattr(Store, "write", careless)
    with pytest.raises(BrokenPromiseError):
        _refuse_each_operation(folder, "EIO", 1)


def _refuse_each_operation(folder: Path, fault: str, length: int) -> None:
    """Repeat the same story, each time with another operation refused."""
    opening = _operations_of_an_opening(folder, fault)
    for at in range(opening, opening + 1000):
        refuse = Fault(fault, at, length)
        disk, promises, draw = RecordedDisk(refuse), Promises(), random.Random(2)
        disk.pragmas = CHECKPOINT_OFTEN
        path = folder / str(at) / "queue.db"
        with disk.recorded():
            Workload(disk, path, promises, draw).run(STEPS, heal=refuse.heal)
        _cut_the_power(disk, promises, folder / "cut", draw)
        promises.check(path, len(disk.log))
        if refuse.seen <= at:
            break
    assert at > opening + 30


@FAULTS
@pytest.mark.parametrize("length", [1, FOR_EVER])
def test_an_opening_that_fails_can_be_tried_again(folder: Path, fault: str, length: int) -> None:
    for at in range(1000):
        refuse = Fault(fault, at, length)
        disk = RecordedDisk(refuse)
        path = folder / str(at) / "queue.db"
        with disk.recorded():
            try:
                queue = AckQueue(path, connect=disk.connect)
            except StorageError:
                refuse.heal()
                queue = AckQueue(path, connect=disk.connect)
            refuse.heal()
            with queue:
                put(queue, 3)
                assert seqs(lease(queue)) == [1, 2, 3]
        if refuse.seen <= at:
            break
    assert at > 5


def test_one_io_error_does_not_keep_a_queue_from_opening(folder: Path) -> None:
    path = folder / "queue.db"
    AckQueue(path).close()
    for at in range(1000):
        refuse = Fault("EIO", at, 1)
        disk = RecordedDisk(refuse)
        with disk.recorded():
            queue = AckQueue(path, connect=disk.connect)
            refuse.heal()
            queue.close()
        if refuse.seen <= at:
            break
    assert at > 5


def _operations_of_an_opening(folder: Path, fault: str) -> int:
    refuse = Fault(fault, 0, 0)
    disk = RecordedDisk(refuse)
    disk.pragmas = CHECKPOINT_OFTEN
    with disk.recorded():
        queue = AckQueue(folder / "opened" / "queue.db", connect=disk.connect)
        seen = refuse.seen
        queue.close()
    return seen


def _cut_the_power(
    disk: RecordedDisk, promises: Promises, folder: Path, draw: random.Random
) -> None:
    """Cut the power at three moments of the log."""
    folder.mkdir(exist_ok=True)
    moments = {draw.randrange(len(disk.log)) for _ in range(3)}
    platter = Platter()
    for moment, op in enumerate(disk.log):
        if moment in moments:
            for file in folder.iterdir():
                file.unlink()
            for name, data in platter.cut(draw).items():
                (folder / name).write_bytes(data)
            promises.check(folder / "queue.db", moment)
        platter.play(op)


def test_short_memory_at_the_start_is_no_damage(tmp_path: Path) -> None:
    def short(*place: Any, **how: Any) -> sqlite3.Connection:
        connection = connect(*place, **how)
        connection.text_factory = refuse
        return connection

    def refuse(_content: bytes) -> str:
        raise MemoryError

    path = tmp_path / "queue.db"
    with closing(AckQueue(path)) as queue:
        put(queue, 3)
        names = seqs(lease(queue))
    with pytest.raises(MemoryError):
        AckQueue(path, connect=short)
    assert [file.name for file in tmp_path.glob("queue.db.damaged-*")] == []
    with closing(AckQueue(path)) as queue:
        assert seqs(lease(queue)) == names
