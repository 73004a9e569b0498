import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ackqueue.queue_parts import Disk, fix_at
from fakes import FakeClock

from telemetry_agent.ackqueue.committer import Committer
from telemetry_agent.ackqueue.limits.bounds import Limits
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.errors import StorageError
from telemetry_agent.tasks import Beat, Bell, run_loop


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def queue(tmp_path: Path, clock: FakeClock, disk: Disk) -> Iterator[AckQueue]:
    with AckQueue(
        tmp_path / "queue.db",
        commit_every_s=2,
        keep_delivered_s=60,
        clock=clock,
        connect=disk.connect,
    ) as queue:
        yield queue
        disk.refuses = "never"


def test_a_silent_receiver_delays_no_commit(queue: AckQueue, clock: FakeClock) -> None:
    committer = Committer(queue)
    committer.step(clock.monotonic_s())
    queue.put(fix_at(), "a")
    assert committer.step(clock.advance(0.5)) == 1.5
    queue.put(fix_at(), "a")
    assert queue.stats().uncommitted == 2
    assert committer.step(clock.advance(1.5)) is not None
    assert queue.stats().uncommitted == 0


def test_a_put_rings_once_for_each_commit(queue: AckQueue, clock: FakeClock) -> None:
    rings: list[float] = []
    queue.watch(lambda: rings.append(clock.monotonic_s()))
    for _ in range(3):
        queue.put(fix_at(), "a")
    assert len(rings) == 1
    queue.commit()
    queue.put(fix_at(), "a")
    assert len(rings) == 2


def test_what_the_disk_refused_is_tried_each_second(
    queue: AckQueue, clock: FakeClock, disk: Disk
) -> None:
    committer = Committer(queue)
    committer.step(clock.monotonic_s())
    queue.put(fix_at(), "a")
    disk.refuses = "before"
    assert committer.step(clock.advance(2)) == 1
    assert committer.step(clock.advance(0.25)) == 0.75
    disk.refuses = "never"
    committer.step(clock.advance(0.75))
    assert queue.stats().uncommitted == 0


def test_while_the_disk_refuses_what_is_on_it_can_still_be_delivered(
    queue: AckQueue, clock: FakeClock, disk: Disk
) -> None:
    """``drain`` waits for this delivery, and ends when only fixes in memory are left."""
    queue.put(fix_at(), "a")
    queue.commit()
    disk.refuses = "before"
    queue.put(fix_at(1), "a")
    Committer(queue).step(clock.advance(2))
    last_row = queue.last_row()
    assert (queue.pending(last_row), queue.disk_error(last_row)) == (2, None)
    batch = queue.lease(10, live_first=False)
    assert batch is not None
    queue.ack(batch)
    assert queue.pending(last_row) == 1
    assert "disk I/O error" in str(queue.disk_error(last_row))


def test_a_backlog_that_is_too_old_is_given_up_soon_after_the_start(
    tmp_path: Path, clock: FakeClock
) -> None:
    path, limits = tmp_path / "old.db", Limits(max_age_s=3600)
    with AckQueue(path, limits=limits, clock=clock) as queue:
        queue.put(fix_at(1), "a")
    with AckQueue(path, limits=limits, clock=clock) as queue:
        committer = Committer(queue)
        committer.step(clock.advance(60))
        assert queue.stats().ready == 1  # its age is not known yet
        queue.put(fix_at(7200), "a")
        queue.commit()
        for _ in range(11):
            committer.step(clock.advance(1))
        assert (queue.stats().ready, queue.stats().lost) == (1, {"expired": 1})


def test_who_can_wait_does_until_there_is_room(tmp_path: Path, clock: FakeClock) -> None:
    disk = Disk()
    path = tmp_path / "other.db"
    with AckQueue(
        path, commit_every_s=3600, max_uncommitted=100, clock=clock, connect=disk.connect
    ) as queue:
        committer, reader = Committer(queue), Bell()

        def fill() -> None:
            while queue.takes_more(reader.ring):
                committer.bell.clear()
                queue.put(fix_at(), "a")

        committer.step(clock.monotonic_s())
        fill()
        assert committer.bell.clear()  # rung although the last put was not the first
        assert queue.stats().uncommitted == 5
        assert not reader.clear()
        disk.refuses = "before"
        assert committer.step(clock.monotonic_s()) == 1  # not an hour
        assert not reader.clear()
        disk.refuses = "never"
        committer.step(clock.advance(1))
        assert reader.clear()
        reader.clear()
        fill()
        assert queue.stats().ready == 5
        assert queue.stats().uncommitted == 5


def test_who_can_wait_does_while_the_limits_say_stop(queue: AckQueue) -> None:
    reader = Bell()
    queue._bounds.stopped = True
    assert not queue.takes_more(reader.ring)
    queue._bounds._end_full()
    assert reader.clear()
    assert queue.takes_more(reader.ring)


def test_a_refused_acknowledgement_rings_too(queue: AckQueue, clock: FakeClock, disk: Disk) -> None:
    queue.put(fix_at(), "a")
    batch = queue.lease(1)
    assert batch is not None
    committer = Committer(queue)
    committer.step(clock.monotonic_s())
    committer.bell.clear()
    disk.refuses = "before"
    queue.ack(batch)
    assert committer.bell.clear()
    assert committer.step(clock.monotonic_s()) == 1


def test_a_disk_that_refuses_is_asked_once_a_second_whoever_asks(
    queue: AckQueue, clock: FakeClock, disk: Disk
) -> None:
    committer, consumer = Committer(queue), Bell()
    queue.watch(consumer.ring)
    queue.put(fix_at(), "a")
    batch = queue.lease(1)
    assert batch is not None
    disk.refuses = "before"
    before, rings = disk.commits, 0
    for second in range(100):
        queue.put(fix_at(second), "a")
        committer.step(clock.advance(0.1))
        while consumer.clear():  # as the uploader does
            rings += 1
            assert rings < 100, "a lease rings its own bell"
            assert queue.lease(1) is None
        if second == 50:
            queue.ack(batch)
    assert 8 <= disk.commits - before <= 10
    disk.refuses = "never"
    consumer.clear()
    committer.step(clock.advance(1))
    assert consumer.clear()
    assert queue.lease(1) is not None


def test_it_purges_now_and_then(queue: AckQueue, clock: FakeClock) -> None:
    committer = Committer(queue)
    assert committer.step(clock.monotonic_s()) == 8  # to check the file
    for second in range(1500):
        queue.put(fix_at(second), "a")
    batch = queue.lease(2000)
    assert batch is not None
    queue.ack(batch)
    queue.put(fix_at(5000), "a")
    queue.commit()
    assert queue.stats().acked == 1500
    assert committer.step(clock.advance(300)) == 0
    assert queue.stats().acked == 500
    while committer.step(clock.monotonic_s()) == 0:
        pass
    assert queue.stats().acked == 0
    assert committer.step(clock.monotonic_s()) == 8  # to check the file


def test_what_cannot_be_tidied_up_is_tidied_up_before_that_is_logged(
    queue: AckQueue,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    committer = Committer(queue)
    with monkeypatch.context() as patch:
        patch.setattr(queue, "tidy", unreadable)
        committer.step(clock.monotonic_s())
        committer.step(clock.advance(8))
        assert "the queue cannot be tidied up: cannot read" in caplog.text
        assert "again" not in caplog.text
    committer.step(clock.advance(292))
    assert "the queue can be tidied up again after 300 s" in caplog.text


def unreadable() -> bool:
    raise StorageError("cannot read the queue")


def test_its_thread_commits_what_is_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AckQueue(tmp_path / "other.db", commit_every_s=0.01) as queue:
        committer = Committer(queue)
        stop = threading.Event()
        thread = threading.Thread(target=run_loop, args=(committer, stop, Beat(), Clock()))
        thread.start()
        written = threading.Event()
        write = queue.shared.store.write

        def tell(*args: Any) -> None:
            write(*args)
            written.set()

        monkeypatch.setattr(queue.shared.store, "write", tell)
        queue.put(fix_at(), "a")
        assert written.wait(60)
        stop.set()
        committer.wake()
        thread.join(60)
        assert not thread.is_alive()
        committer.close()
