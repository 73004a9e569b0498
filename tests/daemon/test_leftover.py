"""What happens to a queue that an earlier agent left in the runtime directory."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ackqueue import damage
from ackqueue.queue_parts import Disk, lease, put
from fakes import FakeClock
from rig import write_config

from telemetry_agent.ackqueue.limits.bounds import Limits
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.config import loader
from telemetry_agent.config.settings import QueueSettings
from telemetry_agent.daemon import app, queue_place
from telemetry_agent.daemon.app import Agent
from telemetry_agent.errors import StorageError
from telemetry_agent.fields import rfc3339


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(folder))
    return folder


def start(tmp_path: Path) -> Agent:
    config = write_config(tmp_path, "/dev/null", "http://127.0.0.1:9/")
    return Agent(loader.load(config).settings, FakeClock())


def files(runtime: Path) -> set[str]:
    return {file.name for file in runtime.glob("queue.db*")}


def test_of_an_empty_one_only_its_own_files_are_deleted(tmp_path: Path, runtime: Path) -> None:
    with AckQueue(runtime / "queue.db", limits=Limits(max_size_bytes=16 << 20)) as queue:
        put(queue, 3)
        queue.make_room()
        queue.ack(lease(queue))
    assert (runtime / "queue.db.ballast").exists()
    others = {"queue.db.kept-1", "queue.db.foreign-1", "queue.db.backup"}
    for name in others:
        (runtime / name).touch()
    with closing(start(tmp_path).queue):
        assert files(runtime) == {"queue.db.lock", *others}


def test_only_fixes_that_wait_in_memory_are_kept_there(tmp_path: Path, runtime: Path) -> None:
    disk = Disk()
    queue = AckQueue(tmp_path / "queue.db", connect=disk.connect)
    put(queue, 3)
    batch = lease(queue)
    disk.refuses = "full"
    queue.ack(batch)  # only this change is pending now
    queue_place.keep_in_runtime(queue)
    assert files(runtime) == set()
    put(queue, 2, start=3)
    queue_place.keep_in_runtime(queue)
    with AckQueue(runtime / "queue.db") as kept:
        assert kept.stats().ready == 2
    disk.refuses = "never"
    queue.close()


def test_the_end_of_a_stop_is_as_long_as_the_disk_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app, "_DISK_S", 0.0)
    disk = Disk()

    def open_queue(placed: QueueSettings, clock: Clock) -> AckQueue:
        return AckQueue(placed.path, connect=disk.connect, clock=clock)

    monkeypatch.setattr(queue_place, "open_queue", open_queue)
    agent = start(tmp_path)
    put(agent.queue, 3)
    disk.refuses = "full"
    agent.stop()
    assert "3 fixes are lost, which waited in memory" in caplog.text


def test_a_disk_that_fails_when_the_queue_is_opened_is_left_until_the_next_start(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = queue_place.open_queue

    def open_queue(placed: QueueSettings, clock: Clock) -> AckQueue:
        if placed.path.parent != runtime:
            raise StorageError("disk I/O error")
        return real(placed, clock)

    monkeypatch.setattr(queue_place, "open_queue", open_queue)
    agent = start(tmp_path)
    with closing(agent.queue):
        assert agent.queue.path == runtime / "queue.db"
        assert agent.must_move()  # the folder takes files; this does not show that the disk works
        assert not agent.may_move()


def test_one_with_dead_letters_stays(tmp_path: Path, runtime: Path) -> None:
    with AckQueue(runtime / "queue.db") as queue:
        put(queue, 3)
        queue.fail(lease(queue), "refused")
    with closing(start(tmp_path).queue):
        assert (runtime / "queue.db").exists()


def test_a_queue_that_was_put_in_the_place_of_this_one_is_delivered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    foreign, empty, text = (tmp_path / f"queue.db.foreign-{number}" for number in (1, 2, 3))
    records = damage.fill(foreign, 30)
    damage.fill(empty, 0)
    text.write_text("no queue")
    agent = start(tmp_path)
    with closing(agent.queue):
        assert f"also delivering 30 fixes in {foreign}" in caplog.text
        (leftover,) = agent._leftovers
        with closing(leftover.queue) as queue:
            assert lease(queue, 100, live_first=False).records == tuple(records)
    assert text.read_text() == "no queue"
    assert not list(tmp_path.glob("*damaged*"))


def test_what_waits_there_is_counted_by_status_and_at_the_stop(
    tmp_path: Path, runtime: Path
) -> None:
    (oldest, *_) = damage.fill(runtime / "queue.db", 30)
    agent = start(tmp_path)
    put(agent.queue, 2)
    view = agent.snapshot().queue
    assert (view.pending, view.uncommitted) == (32, 2)
    assert view.oldest_pending == rfc3339(oldest.fix.time_ms)
    with closing(agent.queue):
        (leftover,) = agent._leftovers
        leftover.end(last=False)
        assert agent.snapshot().queue.pending == 32
    assert agent.pending() == 32


def test_one_that_is_damaged_is_carried_over(
    tmp_path: Path, runtime: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    records = damage.fill(runtime / "queue.db", 300)
    damage.damage(runtime / "queue.db", damage.header)
    agent = start(tmp_path)
    with closing(agent.queue):
        assert f"also delivering the fixes in {runtime / 'queue.db'}" in caplog.text
        (leftover,) = agent._leftovers
        carrier = leftover._carrier.task
        while carrier.step(0) == 0:
            pass
        with closing(leftover.queue) as queue:
            assert [stored.record for stored in queue.stored()] == records


def test_one_that_failed_once_does_not_keep_the_agent_there(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "queue.db"
    refusing.mkdir()
    opens, faults = (
        queue_place.open_queue,
        [StorageError("cannot open the queue: Input/output error")],
    )

    def fails_once(*args: Any) -> AckQueue:
        if faults:
            raise faults.pop()
        return opens(*args)

    monkeypatch.setattr(queue_place, "open_queue", fails_once)
    agent = start(tmp_path)
    with closing(agent.queue):
        assert agent.queue.path == runtime / "queue.db"
        assert f"{refusing}: not a regular file" in str(agent.storage)
        assert agent.may_move()
        assert not agent.must_move()
        refusing.rmdir()
        assert agent.must_move()
