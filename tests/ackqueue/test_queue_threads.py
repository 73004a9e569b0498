"""Many producers and consumers on one queue, in threads and in gevent greenlets."""

import gc
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest
from ackqueue.queue_parts import Disk, put, seqs
from fakes import FakeClock

from telemetry_agent.ackqueue import shared_state
from telemetry_agent.ackqueue.file.schema import UnusableError
from telemetry_agent.ackqueue.ledger import Ledger
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.ranges import RangeMap
from telemetry_agent.ackqueue.recovery.carry_over import carry_over
from telemetry_agent.ackqueue.row_states import ACKED, Loaded, RowState, dead_letter
from telemetry_agent.model import Batch

LIMIT_S = 60
WORKERS = 4


class Waiter:
    """A thread in a blocking call. The constructor returns when the thread waits."""

    def __init__(self, queue: AckQueue, call: Callable[[], Batch | None]) -> None:
        self._call = call
        self.result: Batch | Exception | None = None
        waits = threading.Event()
        wait = queue.shared.ready.wait

        def tell_and_wait(timeout_s: float | None) -> bool:
            waits.set()  # under the lock, which stays taken until the wait begins
            return wait(timeout_s)

        with mock.patch.object(queue.shared.ready, "wait", tell_and_wait):
            self._thread = threading.Thread(target=self._run)
            self._thread.start()
            assert waits.wait(LIMIT_S)

    def _run(self) -> None:
        try:
            self.result = self._call()
        except ValueError as error:
            self.result = error

    def join(self) -> Batch | Exception | None:
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        return self.result


def test_four_workers_share_the_items_and_a_start_resumes_what_they_left(path: Path) -> None:
    """Put items, work on them in four threads, die in the middle, start again."""
    count = 400
    done: list[int] = []
    with AckQueue(path, commit_every_s=0) as queue:

        def work() -> None:
            while batch := queue.lease(1, live_first=False, timeout_s=None):
                (seq,) = seqs(batch)
                if seq > count:
                    return
                if seq % 5 == 0:
                    queue.release(batch, answered=False)  # like a worker that never came back
                elif seq % 7 == 0:
                    queue.fail(batch, "cannot be done")
                else:
                    queue.ack(batch)
                    done.append(seq)

        workers = [threading.Thread(target=work) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        put(queue, count + WORKERS)  # the last four items stop the workers
        for worker in workers:
            worker.join(LIMIT_S)
            assert not worker.is_alive()
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
            states = Counter(state for (state,) in reader.execute("SELECT state FROM fixes"))
        unack = count // 5
        failed = count // 7 - count // 35
        assert states == {1: WORKERS, 2: unack, 5: count - unack - failed, 9: failed}
    assert sorted(done) == [seq for seq in range(1, count + 1) if seq % 5 and seq % 7]
    with AckQueue(path) as queue:
        resumed = []
        while batch := queue.lease(50):
            resumed += seqs(batch)
            queue.ack(batch)
        assert sorted(resumed) == [*range(5, count + 1, 5), *range(count + 1, count + WORKERS + 1)]


@pytest.mark.parametrize("commit_every_s", [0, 3600])
def test_many_producers_and_consumers_lose_nothing_and_double_nothing(
    path: Path, commit_every_s: float
) -> None:
    producers, each = 6, 150
    delivered: list[int] = []
    with AckQueue(path, commit_every_s=commit_every_s) as queue:

        def consume() -> None:
            try:
                while batch := queue.lease(7, timeout_s=None):
                    if batch.records[0].seq % 3 == 0 and len(batch.records) > 1:
                        batch, rest = queue.split(batch, 1)
                        queue.release(rest)
                    queue.ack(batch)
                    delivered.extend(seqs(batch))
                    if len(delivered) == producers * each:
                        everything.set()
            except ValueError:
                return  # the queue is closed: the work is done

        everything = threading.Event()
        threads = [threading.Thread(target=put, args=(queue, each)) for _ in range(producers)]
        threads += [threading.Thread(target=consume) for _ in range(WORKERS)]
        for thread in threads:
            thread.start()
        assert everything.wait(LIMIT_S)
        queue.close()
        for thread in threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive()
    assert sorted(delivered) == list(range(1, producers * each + 1))


def test_whatever_makes_a_fix_ready_wakes_who_waits(path: Path) -> None:
    with AckQueue(path, commit_every_s=3600) as queue:

        def waiter() -> Waiter:
            return Waiter(queue, lambda: queue.lease(1, timeout_s=None))

        def lose_the_answer(batch: Batch) -> None:
            queue.release(batch, answered=False)
            queue.resume_unack()

        def fail_and_retry(batch: Batch) -> None:
            queue.fail(batch, "no")
            queue.retry()

        wakers: list[Callable[[Batch], None]] = [
            queue.release,
            lambda batch: queue.ack(batch, retry=seqs(batch)),
            lose_the_answer,
            fail_and_retry,
        ]
        waiting = waiter()
        put(queue, 1)
        for wake in wakers:
            batch = waiting.join()
            assert isinstance(batch, Batch)
            waiting = waiter()
            wake(batch)
        assert isinstance(waiting.join(), Batch)


def test_a_wait_ends_with_its_time_or_with_the_queue(path: Path) -> None:
    queue = AckQueue(path)
    assert queue.lease(1, timeout_s=0.01) is None
    put(queue, 1)
    queue.commit()
    assert queue.lease(1, timeout_s=None, backlog_only=True) is None  # the fix is live
    assert queue.lease(1, timeout_s=None, live_first=False, besides={"a"}) is None
    assert queue.lease(1) is not None
    waiters = [Waiter(queue, lambda: queue.lease(1, timeout_s=None)) for _ in range(3)]
    queue.close()
    for waiter in waiters:
        assert "is closed" in str(waiter.join())


def test_a_waiter_tries_a_disk_again_that_refused(path: Path) -> None:
    disk, clock = Disk(), FakeClock()
    with AckQueue(path, connect=disk.connect, clock=clock) as queue:
        disk.refuses = "before"
        put(queue, 1)
        waiter = Waiter(queue, lambda: queue.lease(1, timeout_s=None))
        disk.refuses = "never"
        queue.commit()  # as the committer does to try the disk again
        batch = waiter.join()
        assert isinstance(batch, Batch)
        assert seqs(batch) == [1]


@pytest.mark.skipif(
    find_spec("gevent") is None and not os.environ.get("CI"), reason="gevent is not installed"
)
@pytest.mark.timeout(600)
def test_all_of_this_holds_in_greenlets_too() -> None:
    program = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import sys, threading, pytest\n"
        "assert 'gevent' in type(threading.Lock()).__module__\n"
        "sys.exit(pytest.main(['-p', 'no:cacheprovider', '-k', 'not greenlets', sys.argv[1]]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, __file__],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_disk_that_hangs_over_the_summary_delays_no_put(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AckQueue(path) as queue:
        memory = queue.shared.lock
        monkeypatch.setattr(os, "pwrite", lambda *_: held.append(memory.locked()))
        held: list[bool] = []
        queue.tidy()
        assert held == [False]


class TimedLock:
    """A lock that measures the longest processor time of a holder."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.longest_s = self._since_s = 0.0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        taken = self._lock.acquire(blocking, timeout)
        if taken:
            self._since_s = time.thread_time()
        return taken

    def release(self) -> None:
        self.longest_s = max(self.longest_s, time.thread_time() - self._since_s)
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@pytest.mark.parametrize("state", [ACKED, dead_letter("no")])
def test_a_large_file_that_is_set_aside_does_not_delay_the_reader(
    path: Path, monkeypatch: pytest.MonkeyPatch, state: RowState
) -> None:
    rows = 40_000
    locks = mock.Mock(Lock=TimedLock, Condition=threading.Condition)
    monkeypatch.setattr(shared_state, "threading", locks)
    gc.disable()  # the collector can run in any thread
    try:
        with AckQueue(path) as queue:
            shared, lock = queue.shared, queue.shared.lock
            assert isinstance(lock, TimedLock)
            put(queue, rows)
            with shared.disk:
                shared.write()
                shared.ledger.lose([(row, row) for row in range(1, rows, 2)], state)
                shared.write()
                lock.longest_s = 0
                began_s = time.thread_time()
                assert shared.replace(UnusableError("as if damaged")) is None
            carry_over(queue)
            assert sum(place.size for place in queue.places(1)) >= rows
            # A share of the total work, because a slow machine needs longer for both.
            assert lock.longest_s < (time.thread_time() - began_s) / 50
            assert queue.stats().ready == rows // 2
    finally:
        gc.enable()


@pytest.mark.parametrize("end", [Ledger.suspend, Ledger.give_back, partial(Ledger.fail, reason="")])
def test_a_batch_of_many_ranges_holds_the_memory_lock_no_longer_before_many_others(
    end: Callable[[Ledger, Batch], None],
) -> None:
    """Measure the processor time of the calls under that lock."""
    fastest_s = []
    for rows in (12_000, 200_000):
        marks: RangeMap[RowState] = RangeMap()
        for row in range(1, rows, 2):
            marks.paint(row, row, ACKED)
        ledger = Ledger(Loaded(rows, marks, [], None))
        turns_s = []
        for _ in range(5):
            plan = ledger.choose(1000, live_first=False)
            assert plan is not None
            taken = [lo for lo, _ in plan.ranges]
            began_s = time.thread_time()
            batch = mock.Mock(lease=ledger.lease(taken, plan))
            end(ledger, batch)
            turns_s.append(time.thread_time() - began_s)
            ledger.resume()
        fastest_s.append(min(turns_s))
    assert fastest_s[1] < 4 * fastest_s[0]
