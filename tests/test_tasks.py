import logging
import select
import signal
import socket
import subprocess
import sys
import threading

import pytest
from fakes import FakeClock

from telemetry_agent.errors import StorageError
from telemetry_agent.tasks import Beat, Bell, FairLock, KernelBell, Task, run_loop, within


class Steps(Task):
    """A task whose steps return the values of a list; then it stops the loop."""

    max_step_s = 1.0

    def __init__(self, waits: list[float | None], stop: threading.Event) -> None:
        self.bell = Bell()
        self.waits = waits
        self.stop = stop
        self.called = threading.Semaphore(0)

    def step(self, now_s: float) -> float | None:
        self.called.release()
        if not self.waits:
            self.stop.set()
            return 0
        return self.waits.pop(0)


def started(task: Steps, beat: Beat | None = None) -> threading.Thread:
    thread = threading.Thread(target=run_loop, args=(task, task.stop, beat or Beat(), FakeClock()))
    thread.start()
    return thread


def test_zero_steps_again_at_once() -> None:
    task = Steps([0, 0, 0], threading.Event())
    thread = started(task)
    thread.join(60)
    assert not thread.is_alive()
    assert task.waits == []


def test_none_waits_until_rung() -> None:
    task = Steps([None], threading.Event())
    beat = Beat()
    thread = started(task, beat)
    assert task.called.acquire(timeout=60)
    assert not task.called.acquire(blocking=False)
    task.bell.ring()
    thread.join(60)
    assert not thread.is_alive()


def test_a_ring_during_the_step_is_not_lost() -> None:
    class RingsItself(Steps):
        def step(self, now_s: float) -> float | None:
            self.bell.ring()
            return super().step(now_s)

    thread = started(RingsItself([None, None], threading.Event()))
    thread.join(60)
    assert not thread.is_alive()


def test_a_stop_during_a_wait_ends_the_loop_without_another_step() -> None:
    task = Steps([None], threading.Event())
    thread = started(task)
    assert task.called.acquire(timeout=60)
    task.stop.set()
    task.wake()
    thread.join(60)
    assert not thread.is_alive()
    assert not task.called.acquire(blocking=False)


@pytest.mark.parametrize("seconds", [30 * 86400.0, 1e12, float("inf")])
def test_a_wait_may_be_longer_than_the_kernel_allows(seconds: float) -> None:
    bell = Bell()
    bell.ring()
    assert bell.wait(seconds) == {}


def test_what_a_step_raises_leaves_the_loop() -> None:
    class Raises(Steps):
        def step(self, now_s: float) -> float | None:
            raise LookupError

    with pytest.raises(LookupError):
        run_loop(Raises([], threading.Event()), threading.Event(), Beat(), FakeClock())


def test_a_fair_lock_is_had_in_the_order_of_asking() -> None:
    lock = FairLock()
    turns: list[threading.Thread] = []
    had: list[int] = []

    def take(number: int) -> None:
        with lock:
            had.append(number)

    with lock:
        for number in range(5):
            thread = threading.Thread(target=take, args=(number,))
            thread.start()
            turns.append(thread)
            while len(lock._waiting) <= number:
                pass
    with lock:  # after all earlier waiters
        assert had == list(range(5))
        assert lock.locked()
    for thread in turns:
        thread.join(60)
    assert not lock.locked()


def test_an_interrupted_wait_for_a_fair_lock_leaves_it_to_the_next() -> None:
    """After Ctrl-C in a program that uses the queue, ``close`` must not wait indefinitely."""
    lock = FairLock()
    held, over = threading.Event(), threading.Event()
    main = threading.get_ident()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a command in a test replaces it

    def hold() -> None:
        with lock:
            held.set()
            while not lock._waiting:
                pass
            signal.pthread_kill(main, signal.SIGINT)
            over.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    with pytest.raises(KeyboardInterrupt), lock:
        pytest.fail("it is held")
    over.set()
    holder.join(60)
    assert not lock.locked()
    with lock:
        assert lock.locked()


@pytest.fixture
def bell(monkeypatch: pytest.MonkeyPatch) -> KernelBell:
    """A bell without the kernel's messages: the machine's network may change at any time."""

    def refused(protocol: int, groups: int) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("telemetry_agent.tasks._kernel_socket", refused)
    return KernelBell(socket.NETLINK_ROUTE, 1, "links", "probing only")


def test_a_bell_without_the_kernel_says_so_once(
    caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    caplog.set_level(logging.INFO)
    bell: KernelBell = request.getfixturevalue("bell")
    bell.wait(0)
    bell.wait(0)
    assert caplog.messages == [
        "cannot receive the kernel's messages about links (Operation not permitted): probing only"
    ]


def test_a_ring_ends_the_next_wait_and_arming_forgets_it(bell: KernelBell) -> None:
    for _ in range(100_000):  # more than fits in any buffer
        bell.ring()
    bell.wait(None)
    bell.clear()
    bell.wait(0.001)
    bell.ring()
    bell.wait(None)
    assert not bell.messages()


def test_a_ring_from_another_thread_ends_a_wait(bell: KernelBell) -> None:
    waiting = threading.Thread(target=bell.wait, args=(None,))
    waiting.start()
    bell.ring()
    waiting.join(60)
    assert not waiting.is_alive()


def test_a_watched_socket_that_is_done_ends_a_wait(bell: KernelBell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as connecting:
        connecting.setblocking(False)
        connecting.connect_ex(server.getsockname())
        bell.watch([(connecting.fileno(), select.POLLOUT)])
        bell.wait(None)


def test_rings_after_the_end_are_ignored(bell: KernelBell) -> None:
    bell.close()
    bell.close()
    bell.ring()


def test_what_hangs_is_left_behind_after_its_time() -> None:
    hangs = threading.Event()
    within(0.01, hangs.wait)
    hangs.set()


def test_what_is_left_behind_fails_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its resource was closed meanwhile."""
    failures: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    closed = threading.Event()

    def act() -> None:
        closed.wait()
        raise ValueError("the queue is closed")

    within(0.01, act)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "within"]
    closed.set()
    thread.join(60)
    assert (thread.is_alive(), failures) == (False, [])


def test_what_the_system_has_no_thread_for_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done_by: list[threading.Thread] = []
    within(0, lambda: done_by.append(threading.current_thread()))
    assert done_by == [threading.current_thread()]


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_disk_that_refuses_is_one_line(
    is_refused: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def fail() -> None:
        raise StorageError("the disk is read-only")

    if is_refused:
        monkeypatch.setattr(threading.Thread, "start", refuse)
    within(60, fail)
    assert caplog.messages == ["the disk is read-only"]


def test_a_thread_that_gets_no_memory_to_begin_with_is_refused() -> None:
    """Without the refusal, Python would wait for it indefinitely."""
    program = """
import re, resource, threading
from pathlib import Path
from telemetry_agent.tasks import started

threading.stack_size(8 << 20)
size = int(re.search(r"VmSize:\\s+([0-9]+)", Path("/proc/self/status").read_text())[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (size + (17 << 19), -1))
print(started(lambda: None, "short"))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"None\n", b"")
