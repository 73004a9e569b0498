import errno
import gc
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from ackqueue import damage
from ackqueue.queue_parts import Disk, fix_at, lease, put, seqs
from fakes import FakeClock

from telemetry_agent.ackqueue.file.store import Store
from telemetry_agent.ackqueue.limits.bounds import Limits
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.row_states import State
from telemetry_agent.errors import StorageError

LIMIT_S = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


# Live fixes


def test_the_newest_go_first_and_what_they_leave_behind_is_backlog(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 10)
        batch = lease(queue, 4)
        assert (seqs(batch), batch.live) == ([7, 8, 9, 10], True)
        put(queue, 2)
        batch = lease(queue, 100)
        assert (seqs(batch), batch.live) == ([11, 12], True)
        batch = lease(queue, 100)
        assert (seqs(batch), batch.live) == ([1, 2, 3, 4, 5, 6], False)
        assert queue.lease(100) is None


def test_oldest_first_is_strict_but_mixes_no_live_with_backlog(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 5)
        batch = lease(queue, 3, live_first=False)
        assert (seqs(batch), batch.live) == ([1, 2, 3], True)
        queue.release(batch)
        batch = lease(queue, 100, live_first=False)
        assert (seqs(batch), batch.live) == ([1, 2, 3], False)
        batch = lease(queue, 100, live_first=False)
        assert (seqs(batch), batch.live) == ([4, 5], True)


def test_what_was_there_at_the_start_is_backlog(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 3)
    with AckQueue(path) as queue:
        assert queue.backlog() == (3, 0, None)
        put(queue, 2)
        assert lease(queue).live
        batch = lease(queue)
        assert (seqs(batch), batch.live) == ([1, 2, 3], False)


def test_backlog_tells_since_when_live_fixes_wait(path: Path) -> None:
    clock = FakeClock()
    with AckQueue(path, clock=clock) as queue:
        assert queue.backlog() == (0, 0, None)
        put(queue, 1)
        first_s = clock.monotonic_s()
        clock.advance(5)
        put(queue, 1)
        assert queue.backlog() == (2, 2, first_s)
        batch = lease(queue)
        assert queue.backlog() == (0, 0, None)
        clock.advance(5)
        put(queue, 1)
        assert queue.backlog() == (1, 1, clock.monotonic_s())
        queue.release(batch)
        assert queue.backlog() == (3, 1, clock.monotonic_s())


@pytest.mark.parametrize("restarted", [False, True])
def test_the_oldest_besides_those_of_a_device(path: Path, restarted: bool) -> None:
    queue = AckQueue(path)
    put(queue, 700, device="a")
    put(queue, 3, device="b")
    queue.commit()
    queue.ack(lease(queue, 1, live_first=False))
    if restarted:
        queue.close()
        queue = AckQueue(path)
    with queue:
        put(queue, 2, device="c")
        queue.commit()
        found = [queue.lease(9, live_first=False, besides=names) for names in ("abc", "ab", "a")]
        assert [(batch.device, len(batch.records)) if batch else None for batch in found] == [
            None,
            ("c", 2),
            ("b", 3),
        ]
        assert lease(queue, 1, live_first=False).device == "a"


def test_a_batch_without_a_fix_is_not_asked_for(path: Path) -> None:
    with AckQueue(path) as queue, pytest.raises(ValueError, match="at least one fix, not 0"):
        queue.lease(0)


def test_only_the_backlog(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 3, device="a")
        queue.commit()
        queue.release(lease(queue, 3))
        put(queue, 2, device="b")
        queue.commit()
        found = [queue.lease(9, live_first=False, backlog_only=True) for _ in range(2)]
        assert [batch and batch.device for batch in found] == ["a", None]
        live = lease(queue, 9, live_first=False)
        assert (live.device, live.live, len(live.records)) == ("b", True, 2)


def test_a_batch_holds_one_device_and_one_stream(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 2, device="a")
        put(queue, 2, device="b")
        put(queue, 1, device="a")
        assert [(batch.device, seqs(batch)) for batch in (lease(queue), lease(queue))] == [
            ("a", [5]),
            ("a", [1, 2]),
        ]
        put(queue, 1, device="a")
        put(queue, 1, device="b")
        assert seqs(lease(queue, live_first=False)) == [3, 4]
        assert seqs(lease(queue, live_first=False)) == [6]
        assert seqs(lease(queue, live_first=False)) == [7]
    with AckQueue(path) as queue:
        first = lease(queue)
        put(queue, 1, device="a")
        queue.commit()
        queue.ack(lease(queue))
        rest = [lease(queue), lease(queue)]
        assert [(batch.device, seqs(batch)) for batch in (first, *rest)] == [
            ("a", [1, 2]),
            ("b", [3, 4]),
            ("a", [5, 6]),
        ]
        assert seqs(lease(queue)) == [7]
        assert queue.lease(1) is None


# Batches


def test_only_what_is_on_disk_is_handed_out(path: Path) -> None:
    disk, clock = Disk(), FakeClock()
    with AckQueue(path, connect=disk.connect, clock=clock) as queue:
        put(queue, 2)
        queue.commit()
        disk.refuses = "before"
        put(queue, 3)
        assert seqs(lease(queue)) == [1, 2]
        assert queue.lease(100) is None
        assert queue.stats().uncommitted == 3
        disk.refuses = "never"
        clock.advance(1)
        assert seqs(lease(queue)) == [3, 4, 5]


def test_dead_letters_that_are_discarded_count_as_lost(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 5)
        queue.ack(lease(queue), rejected={2: "bad", 3: "bad", 5: "worse"})
        stream = queue.stream
        assert queue.discard([(stream, 3), (stream, 1), ("0" * 16, 2)]) == 1
        assert [dead.record.seq for dead in queue.stored(State.ACK_FAILED)] == [2, 5]
        assert queue.discard() == 2
        assert queue.stats().lost == {"discarded": 3}
        assert queue.stats().dead_letters == {}
        assert [fix.record.seq for fix in queue.stored()] == [1, 4]
    with AckQueue(path) as queue:
        assert queue.stats().lost == {"discarded": 3}


def test_a_batch_of_the_backlog_holds_no_live_fix(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 1)
        queue.release(lease(queue))
        put(queue, 3, start=1)
        queue.commit()
        batch = lease(queue, live_first=False)
        assert (seqs(batch), batch.live) == ([1], False)
        batch = lease(queue, live_first=False)
        assert (seqs(batch), batch.live) == ([2, 3, 4], True)


def test_delivered_fixes_are_sent_again_under_their_names(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 2500)
        queue.ack(lease(queue, 2500), rejected={12: "bad"})
        rung: list[str] = []
        queue.watch(lambda: rung.append("rung"))
        assert queue.resend(fix_at(10).time_ms, fix_at(2010).time_ms) == 1999
        assert rung == ["rung"]
        again = lease(queue, 2500)
        assert seqs(again) == [11, *range(13, 2011)]
        assert again.stream == queue.stream
        assert queue.resend(fix_at(0).time_ms, fix_at(9999).time_ms) == 500
        assert queue.resend(fix_at(0).time_ms, fix_at(9999).time_ms) == 0
    with AckQueue(path) as queue:
        assert queue.stats().ready == 2499


def test_the_newest_time_is_known_after_a_restart(path: Path) -> None:
    with AckQueue(path) as queue:
        assert queue.newest_ms() is None
        put(queue, 3)
        queue.put(fix_at(9999, flags=("time",)), "a")
        assert queue.newest_ms() == fix_at(2).time_ms
    with AckQueue(path) as queue:
        assert queue.newest_ms() == fix_at(2).time_ms


def test_stored_tells_every_fix_in_order(path: Path) -> None:
    with AckQueue(path) as queue:
        names = [queue.put(fix_at(second), "a") for second in range(2500)]
        queue.ack(lease(queue, 1100))
        told = list(queue.stored())
        assert [fix.record for fix in told] == names
        assert [fix.state for fix in told] == [State.READY] * 1400 + [State.ACKED] * 1100
        assert [fix.record for fix in queue.stored(State.READY)] == names[:1400]
        assert [fix.record for fix in queue.stored(State.ACKED)] == names[1400:]


# Names and the life of a queue


def test_with_commit_every_0_a_put_is_on_disk_when_it_returns(path: Path) -> None:
    with AckQueue(path, commit_every_s=0) as queue:
        for count in (1, 2, 3):
            queue.put(fix_at(), "a")
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
                assert reader.execute("SELECT count(*) FROM fixes").fetchone() == (count,)


# Threads


@pytest.mark.parametrize("commit_every_s", [0, 1])
def test_many_threads_put_while_others_lease_and_acknowledge(
    path: Path, commit_every_s: float
) -> None:
    putters, each = 4, 200
    delivered: list[tuple[str, int]] = []
    done = threading.Event()
    with AckQueue(path, commit_every_s=commit_every_s) as queue:

        def deliver() -> None:
            while True:
                last = done.is_set()
                batch = queue.lease(50)
                if batch is None:
                    if last:
                        return
                    continue
                if len(batch.records) > 1:
                    batch, rest = queue.split(batch, len(batch.records) // 2)
                    queue.release(rest, answered=rest.records[0].seq % 2 == 0)
                queue.ack(batch)
                delivered.extend((r.stream, r.seq) for r in batch.records)
                queue.resume_unack()

        threads = [threading.Thread(target=put, args=(queue, each)) for _ in range(putters)]
        leasers = [threading.Thread(target=deliver) for _ in range(2)]
        for thread in threads + leasers:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        done.set()
        for thread in leasers:
            thread.join(LIMIT_S)
        while batch := queue.lease(50):
            queue.ack(batch)
            delivered.extend((r.stream, r.seq) for r in batch.records)
        assert len(delivered) == len(set(delivered)) == putters * each
        assert queue.stats().acked == putters * each


# Delivered fixes


def test_delivered_fixes_are_deleted_by_age_in_gnss_time(path: Path) -> None:
    with AckQueue(path, keep_delivered_s=100) as queue:
        put(queue, 3000)
        queue.put(fix_at(9_000_000), "a")  # a date in the future, only for this fix
        put(queue, 50, start=3000)
        while batch := queue.lease(1000):
            queue.ack(batch, rejected={10: "no"})
        queue.put(fix_at(0, flags=("time",)), "a")
        steps = 1
        while queue.purge_delivered():
            steps += 1
        assert steps >= 3
        kept = [fix.record for fix in queue.stored()]
        assert kept[0].seq == 10
        assert [record.fix.time_ms for record in kept[1:-1]] == [
            fix_at(second).time_ms for second in (*range(2949, 3000), 9_000_000, *range(3000, 3050))
        ]
        queue.put(fix_at(3200), "a")
        while queue.purge_delivered():
            pass
        assert [fix.record.seq for fix in queue.stored(State.ACKED)] == []
        queue.commit()
        stats = queue.stats()
        assert (stats.acked, stats.ack_failed, stats.ready, stats.lost) == (0, 1, 2, {})
    with AckQueue(path, keep_delivered_s=100) as queue:
        assert not queue.purge_delivered()  # no fix of this run gives the time
        assert [fix.record.seq for fix in queue.stored()] == [10, 3052, 3053]


def test_the_newest_fix_stays_however_old_it_is_and_is_known_after_a_restart(path: Path) -> None:
    with AckQueue(path, keep_delivered_s=0) as queue:
        assert queue.newest(10) == []
        put(queue, 30)
        while batch := queue.lease(1000):
            queue.ack(batch)
        while queue.purge_delivered():
            pass
        assert [record.seq for record in queue.newest(10)] == [30]
    with AckQueue(path, keep_delivered_s=0) as queue:
        assert [record.fix for record in queue.newest(10)] == [fix_at(29)]
        queue.put(fix_at(40, odo_m=7), "b")
        queue.commit()
        assert [record.device for record in queue.newest(2)] == ["b", "a"]
        assert [record.fix.odo_m for record in queue.newest(1)] == [7]
        queue.purge_delivered()
        assert [record.device for record in queue.newest(2)] == ["b"]


def test_nothing_but_delivered_fixes_is_deleted(path: Path) -> None:
    with AckQueue(path, keep_delivered_s=0) as queue:
        put(queue, 4)
        queue.fail(lease(queue, 1), "no")
        queue.release(lease(queue, 1), answered=False)
        out = lease(queue, 1)
        queue.put(fix_at(99999), "a")
        assert not queue.purge_delivered()
        assert len(list(queue.stored())) == 4
        queue.ack(out)
        queue.purge_delivered()
        assert [fix.record.seq for fix in queue.stored()] == [1, 3, 4, 5]


def test_a_retry_that_names_nothing_writes_what_was_resumed_at_the_start(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 1)
        queue.release(lease(queue, 1), answered=False)
    with AckQueue(path) as queue:
        assert queue.retry({("0" * 16, 1)}) == 0
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("SELECT state FROM fixes").fetchall() == [(State.READY,)]


def test_a_kill_between_the_last_steps_of_a_close_is_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, killed = tmp_path / "queue" / "queue.db", tmp_path / "killed"
    close = Store.close

    def killed_here(store: Store) -> None:
        close(store)
        shutil.copytree(path.parent, killed)

    queue = AckQueue(path)
    put(queue, 3)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "close", killed_here)
        queue.close()
    with AckQueue(killed / path.name) as queue:
        assert (queue.stats().ready, queue.stats().lost) == (3, {})


def test_one_refusal_of_the_last_summary_is_no_loss(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = [OSError(errno.EIO, "Input/output error")]
    pwrite = os.pwrite

    def refused_once(fd: int, text: bytes, place: int) -> int:
        if refusals:
            raise refusals.pop()
        return pwrite(fd, text, place)

    queue = AckQueue(path)
    put(queue, 3)
    queue.commit()
    with monkeypatch.context() as patch:
        patch.setattr("telemetry_agent.ackqueue.file.lock.os.pwrite", refused_once)
        queue.close()
    assert not refusals
    with AckQueue(path) as queue:
        assert queue.stats().lost == {}
    assert caplog.text == ""


# Programs that do not close the queue


def test_a_queue_that_is_dropped_without_a_close_loses_nothing(path: Path) -> None:
    for _ in range(2):
        put(AckQueue(path, commit_every_s=3600), 3)
        gc.collect()
    with AckQueue(path) as queue:
        assert queue.stats().ready == 6
        assert not queue.stats().lost


WITHOUT_CLOSE = """
import os, sys
from pathlib import Path
from ackqueue.queue_parts import put
from telemetry_agent.ackqueue.limits.bounds import Limits
from telemetry_agent.ackqueue.queue import AckQueue
def main():
    queue = AckQueue(Path(sys.argv[1]), commit_every_s=3600)
    put(queue, 3)
    child = os.fork()
    if child == 0:
        sys.exit()
    os.waitpid(child, 0)
    put(queue, 2)
main()
raise SystemExit(sys.argv[2])
"""


def test_a_program_that_ends_without_a_close_loses_nothing(path: Path) -> None:
    for _ in range(2):
        ran = subprocess.run(
            [sys.executable, "-c", WITHOUT_CLOSE, str(path), "the end"],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert ran.stderr == "the end\n"
    with AckQueue(path) as queue:
        assert queue.stats().ready == 10
        assert not queue.stats().lost


def test_what_another_queue_takes_over_is_not_lost_here(path: Path, tmp_path: Path) -> None:
    disk = Disk()
    queue = AckQueue(path, commit_every_s=3600, connect=disk.connect)
    put(queue, 3)
    queue.commit()
    put(queue, 2, start=3)
    disk.refuses = "before"
    rows = queue.hand_over()
    with pytest.raises(StorageError) as refused:
        queue.close()
    assert "lost" not in str(refused.value)
    with AckQueue(tmp_path / "other.db") as other:
        other.adopt(rows)
        backlog = other.backlog()
        assert backlog.live == 2
        assert backlog.live_since_s is not None  # so the uploader does not wait for another fix
        batch = lease(other)
        assert (batch.stream, seqs(batch)) == (queue.stream, [4, 5])
    with AckQueue(path) as queue:
        assert seqs(lease(queue)) == [1, 2, 3]
        assert queue.stats().lost == {}


def test_a_queue_that_was_full_when_it_was_killed_is_not_taken_for_an_older_copy(
    path: Path,
) -> None:
    with AckQueue(path, limits=Limits(max_size_bytes=1 << 20, when_full="stop")) as queue:
        put(queue, 3)
        queue.commit()
        queue._bounds.stopped = True
        put(queue, 2, start=3)
        queue.shared.write_summary()
        killed = damage.kill(queue, path)
    assert damage.files(killed) == []
    with AckQueue(killed) as queue:
        assert seqs(lease(queue)) == [1, 2, 3]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # the fault under test
def test_a_child_that_was_forked_changes_nothing(path: Path) -> None:
    with AckQueue(str(path), commit_every_s=0) as queue:
        put(queue, 3)
        with queue.shared.disk:  # a write is in progress, and its thread is not in the child
            child = os.fork()
            if child == 0:
                with pytest.raises(ValueError, match="is open in the parent of this process"):
                    put(queue, 1)
                with pytest.raises(ValueError, match="is open in the parent of this process"):
                    queue.lease(1)
                queue.close()
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        put(queue, 1)
        assert seqs(lease(queue)) == [1, 2, 3, 4]
        assert [stored.record.seq for stored in queue.stored(1)] == [1, 2, 3, 4]  # type: ignore[arg-type]
