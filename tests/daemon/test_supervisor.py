import logging
import signal
import threading
from queue import SimpleQueue

import pytest
from fakes import FakeClock

from telemetry_agent.clock import Clock
from telemetry_agent.daemon.supervisor import Supervisor
from telemetry_agent.errors import ResourceError
from telemetry_agent.tasks import Bell, Task


class Work(Task):
    """A task that raises each of ``crashes``, then idles."""

    max_step_s = 1.0

    def __init__(self, crashes: list[Exception], idle: threading.Event) -> None:
        self.bell = Bell()
        self.crashes = crashes
        self.idle = idle
        self.closed = False

    def step(self, now_s: float) -> float | None:
        if self.crashes:
            raise self.crashes.pop()
        self.idle.set()
        return None

    def close(self) -> None:
        self.closed = True


def test_a_task_that_crashes_is_closed_and_built_anew(caplog: pytest.LogCaptureFixture) -> None:
    crashes: list[Exception] = [RuntimeError("first")]
    idle = threading.Event()
    built: list[Work] = []

    def build() -> Work:
        built.append(Work(crashes, idle))
        return built[-1]

    supervisor = Supervisor(Clock())
    work = supervisor.add("work", build)
    with caplog.at_level(logging.ERROR):
        supervisor.start()
        assert idle.wait(60)
    assert [task.closed for task in built] == [True, False]
    work.end(60)
    assert not work.thread.is_alive()
    assert [record.getMessage() for record in caplog.records] == [
        "work crashed (1 since the start): RuntimeError('first')"
    ]


def test_a_step_that_fails_after_the_stop_is_no_crash(caplog: pytest.LogCaptureFixture) -> None:
    begun, closed = threading.Event(), threading.Event()

    class Slow(Work):
        def step(self, now_s: float) -> float | None:
            begun.set()
            closed.wait(60)
            raise ValueError("the queue is closed")

        def close(self) -> None:
            closed.set()

    supervisor = Supervisor(Clock())
    work = supervisor.add("work", lambda: Slow([], threading.Event()))
    supervisor.start()
    assert begun.wait(60)
    work.end(0)
    assert not work.thread.is_alive()
    assert caplog.records == []


def test_a_crash_of_one_does_not_stop_another() -> None:
    other_runs = threading.Event()
    crashed = threading.Event()

    class Crashes(Work):
        def step(self, now_s: float) -> float | None:
            crashed.set()
            raise RuntimeError

    supervisor = Supervisor(Clock())
    bad = supervisor.add("bad", lambda: Crashes([], threading.Event()))
    good = supervisor.add("good", lambda: Work([], other_runs))
    supervisor.start()
    assert crashed.wait(60)
    other_runs.clear()
    good.task.wake()
    assert other_runs.wait(60)
    for task in (bad, good):
        task.end(60)
        assert not task.thread.is_alive()


def test_a_task_that_records_and_crashes_again_and_again_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("telemetry_agent.daemon.supervisor._REBUILD_INITIAL_S", 0.001)
    signals: SimpleQueue[int] = SimpleQueue()
    monkeypatch.setattr("os.kill", lambda pid, number: signals.put(number))
    supervisor = Supervisor(FakeClock())
    work = supervisor.add(
        "work", lambda: Work([RuntimeError("always")], threading.Event()), records=True
    )
    supervisor.start()
    assert signals.get(timeout=60) == signal.SIGTERM
    assert supervisor.gave_up
    assert work.crashes == 6


def test_recording_goes_on_without_a_task_that_crashes_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("telemetry_agent.daemon.supervisor._REBUILD_INITIAL_S", 0.0001)
    crashes: list[Exception] = [RuntimeError("again")] * 12
    idle = threading.Event()
    supervisor = Supervisor(FakeClock())
    extra = supervisor.add("extra", lambda: Work(crashes, idle))
    supervisor.start()
    assert idle.wait(60)
    assert (extra.crashes, supervisor.gave_up) == (12, False)
    extra.end(60)


def test_the_wait_for_a_new_task_does_not_remember_the_crashes_of_last_week(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    factors: list[int] = []

    class AtOnce(float):
        def __mul__(self, factor: float) -> float:
            factors.append(int(factor))
            return 0.0

    class Weekly(Work):
        def step(self, now_s: float) -> float | None:
            clock.advance(7 * 86400)
            return super().step(now_s)

    monkeypatch.setattr("telemetry_agent.daemon.supervisor._REBUILD_INITIAL_S", AtOnce())
    clock, idle = FakeClock(), threading.Event()
    crashes: list[Exception] = [RuntimeError("weekly")] * 8
    supervisor = Supervisor(clock)
    work = supervisor.add("work", lambda: Weekly(crashes, idle), records=True)
    supervisor.start()
    assert idle.wait(60)
    work.end(60)
    assert not supervisor.gave_up
    assert factors == [1] * 8


def test_a_task_that_is_built_while_another_takes_its_place_does_not_replace_that() -> None:
    """A crashed task is built again, which may wait for a disk; a reload comes during that time."""
    building, goes_on = threading.Event(), threading.Event()
    built: list[Work] = []

    def build() -> Work:
        if len(built) == 1 and not building.is_set():
            building.set()
            assert goes_on.wait(60)
        built.append(Work([RuntimeError("once")] if not built else [], threading.Event()))
        return built[-1]

    work = Supervisor(Clock()).add("work", build)
    work.start()
    crashed = work.thread
    assert building.wait(60)
    work.restart(0)
    current = work.task
    goes_on.set()
    crashed.join(60)
    assert not crashed.is_alive()
    assert work.task is current
    late = built[-1]
    assert late is not current
    assert late.closed
    work.end(60)


def test_a_build_that_fails_counts_as_a_crash() -> None:
    idle = threading.Event()
    answers: list[Work | Exception] = [
        Work([RuntimeError("crash")], idle),
        RuntimeError("no device"),
        Work([], idle),
    ]

    def build() -> Work:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    work = Supervisor(Clock()).add("work", build)
    work.start()
    assert idle.wait(60)
    assert work.crashes == 2
    work.end(60)
    assert not work.thread.is_alive()


def test_a_thread_that_the_system_refuses_is_said_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    supervisor = Supervisor(Clock())
    supervisor.add("work", lambda: Work([], threading.Event()), records=True)
    with pytest.raises(ResourceError, match="refuses a thread for the work") as caught:
        supervisor.start()
    assert caught.value.exit_status == 71


def test_recording_does_not_wait_for_a_thread_that_the_system_refuses_to_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name == "extra":
            raise RuntimeError("can't start new thread")
        start(self)

    supervisor = Supervisor(Clock())
    recording, idle = threading.Event(), threading.Event()
    work = supervisor.add("work", lambda: Work([], recording), records=True)
    extra = supervisor.add("extra", lambda: Work([], idle))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        supervisor.start()
        supervisor.start_refused()
        extra.restart(1)
        supervisor.start_refused()
    assert recording.wait(60)
    text = "the system refuses a thread for the extra; it is tried again: memory or tasks are short"
    assert [message.startswith(text) for message in caplog.messages] == [True] * 2
    supervisor.start_refused()
    assert idle.wait(60)
    for task in (work, extra):
        task.end(60)
        assert not task.thread.is_alive()


def test_a_task_that_records_is_not_given_up_if_its_restart_finds_no_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    supervisor = Supervisor(Clock())
    idle = [threading.Event(), threading.Event()]
    built = [Work([], each) for each in idle]
    work = supervisor.add("work", lambda: built.pop(0), records=True)
    supervisor.start()
    assert idle[0].wait(60)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        work.restart(60)
        supervisor.start_refused()
    (message,) = caplog.messages
    assert message.startswith("the system refuses a thread for the work; it is tried again: ")
    supervisor.start_refused()
    assert idle[1].wait(60)
    work.end(60)
    assert not work.thread.is_alive()


def test_who_is_late_is_named() -> None:
    clock = FakeClock()
    supervisor = Supervisor(clock)
    work = supervisor.add("work", lambda: Work([], threading.Event()))
    work.beat.report(clock.now_s + 1)
    assert supervisor.late(clock.now_s) == []
    assert supervisor.late(clock.advance(2)) == ["work"]


def test_a_restarted_task_is_built_anew_and_runs() -> None:
    first, second = threading.Event(), threading.Event()
    tasks = [Work([], first), Work([], second)]
    built = list(tasks)
    work = Supervisor(Clock()).add("work", lambda: built.pop(0))
    work.start()
    assert first.wait(60)
    work.restart(60)
    assert second.wait(60)
    assert [task.closed for task in tasks] == [True, False]
    work.end(60)
    assert tasks[1].closed
    assert not work.thread.is_alive()


def test_a_task_that_fails_at_its_end_is_logged_and_another_takes_its_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Fails(Work):
        def close(self) -> None:
            raise RuntimeError("no rest")

    idle = threading.Event()
    built = [Fails([], threading.Event()), Work([], idle)]
    work = Supervisor(Clock()).add("work", lambda: built.pop(0))
    work.start()
    with caplog.at_level(logging.ERROR):
        work.restart(60)
    assert idle.wait(60)
    work.end(60)
    assert [record.getMessage() for record in caplog.records] == ["work failed at its end"]
