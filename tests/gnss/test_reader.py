import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

from telemetry_agent.clock import Clock
from telemetry_agent.errors import SourceError
from telemetry_agent.gnss.reader import Reader
from telemetry_agent.gnss.sources import BusyError, Source
from telemetry_agent.gnss.sources.replay import ReplaySource
from telemetry_agent.gnss.sources.serial import SerialSource
from telemetry_agent.model import Fix, ReceiverState
from telemetry_agent.simulator import Drive, Simulator
from telemetry_agent.tasks import Beat, Stop, run_loop

LIMIT_S = 10.0
DAY_MS = 1_798_761_600_000


class Decoder:
    """One fix for each RMC line; it comes out when the next begins, or after a quiet gap."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.state: ReceiverState | None = None
        self._rest = b""
        self._open: list[Fix] = []
        self._due_s: float | None = None

    def feed(self, data: bytes, now_s: float) -> list[Fix]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        fixes: list[Fix] = []
        for line in lines:
            if line.startswith(b"$GPRMC,"):
                clock = line[7:17].decode()
                seconds = int(clock[:2]) * 3600 + int(clock[2:4]) * 60 + float(clock[4:])
                fixes += self.finish()
                self._open = [Fix(DAY_MS + round(seconds * 1000), 0, 0)]
                self._due_s = now_s + 0.25
            elif not line.startswith(b"$GP"):
                self.counts["garbage"] += 1
        return fixes

    def due_s(self) -> float | None:
        return self._due_s

    def tick(self, now_s: float) -> list[Fix]:
        return self.finish() if self._due_s is not None and now_s >= self._due_s else []

    def finish(self) -> list[Fix]:
        fixes, self._open, self._due_s = self._open, [], None
        if fixes:
            self.state = "3d"
        return fixes


class Recorded:
    """What was recorded, and a way to wait for it."""

    def __init__(self) -> None:
        self.times_ms: list[int] = []
        self._more = threading.Condition()

    def __call__(self, fix: Fix) -> None:
        with self._more:
            self.times_ms.append(fix.time_ms)
            self._more.notify_all()

    def wait_for(self, time_ms: int) -> None:
        with self._more:
            assert self._more.wait_for(lambda: time_ms in self.times_ms, LIMIT_S), self.times_ms


@contextmanager
def running(reader: Reader) -> Iterator[None]:
    """As the daemon runs a task: a loop in a thread, stopped, woken, joined, closed."""
    stop = Stop()
    thread = threading.Thread(target=run_loop, args=(reader, stop, Beat(), Clock()))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        reader.wake()
        thread.join(LIMIT_S)
        assert not thread.is_alive()
        reader.close()


def epochs_ms(count: int, interval_ms: int = 1000) -> list[int]:
    return [DAY_MS + i * interval_ms for i in range(count)]


# ---- on a simulated receiver


def test_all_epochs_are_recorded_the_last_by_the_quiet_gap() -> None:
    recorded = Recorded()
    with Simulator(islice(Drive(DAY_MS), 50), rate_hz=0) as simulator:
        reader = Reader(SerialSource(simulator.device, 115200), Decoder, recorded)
        with running(reader):
            recorded.wait_for(DAY_MS + 49_000)
    assert recorded.times_ms == epochs_ms(50)
    assert (reader.status.fixes, reader.status.state) == (50, "3d")


def test_at_the_end_the_last_bytes_read_are_recorded() -> None:
    recorded = Recorded()
    with Simulator([b"$GPRMC,000001.000,A\n"], rate_hz=0) as simulator:
        reader = Reader(SerialSource(simulator.device, 9600), Patient, recorded)
        with running(reader):
            assert simulator.done.wait(LIMIT_S)
        assert recorded.times_ms == [DAY_MS + 1000]
        reader.finish()
        reader.close()
        assert recorded.times_ms == [DAY_MS + 1000]


class Patient(Decoder):
    """Its quiet gap is longer than any test."""

    def due_s(self) -> float | None:
        return None

    def tick(self, now_s: float) -> list[Fix]:
        return []


def test_a_replugged_receiver_is_found_on_its_new_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    recorded = Recorded()
    drive = islice(Drive(DAY_MS, interval_ms=100), 60)
    with Simulator(drive, rate_hz=100, link=tmp_path / "gps") as simulator:
        reader = Reader(SerialSource(simulator.device, 9600), Decoder, recorded)
        with running(reader):
            recorded.wait_for(DAY_MS + 1000)
            simulator.unplug()
            simulator.replug()
            recorded.wait_for(DAY_MS + 5900)
    assert recorded.times_ms == sorted(set(recorded.times_ms))
    assert set(recorded.times_ms) <= set(epochs_ms(60, 100))
    assert len(recorded.times_ms) > 40
    gone, back = caplog.messages
    assert gone == f"{tmp_path}/gps went away: check the cable and the power"
    assert f"{tmp_path}/gps is back after" in back


def test_a_receiver_that_comes_later_is_read_from_its_first_byte(tmp_path: Path) -> None:
    recorded = Recorded()
    source = Opened(SerialSource(tmp_path / "gps", 9600))
    reader = Reader(source, Decoder, recorded)
    with running(reader):
        assert source.failed.wait(LIMIT_S)
        assert reader.status.state == "absent"
        with Simulator(islice(Drive(DAY_MS), 5), rate_hz=0, link=tmp_path / "gps"):
            recorded.wait_for(DAY_MS + 4000)
    assert recorded.times_ms == epochs_ms(5)


class Opened:
    """A source that tells when it could not be opened."""

    def __init__(self, source: Source) -> None:
        self.failed = threading.Event()
        self.name = source.name
        self.read, self.cancel, self.close = source.read, source.cancel, source.close
        self._open = source.open

    def open(self) -> None:
        try:
            self._open()
        except SourceError:
            self.failed.set()
            raise


def test_a_wake_ends_the_read_at_once() -> None:
    with Simulator([]) as simulator:
        reader = Reader(SerialSource(simulator.device, 9600), Decoder, Recorded())
        reader.step(0)
        reader.wake()
        assert reader.step(0) == 0
        thread = threading.Thread(target=reader.step, args=(0,))
        started_s = Clock().monotonic_s()
        thread.start()
        reader.wake()
        thread.join()
        assert Clock().monotonic_s() - started_s < 0.9
        reader.close()


def test_a_file_is_replayed_to_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "track.nmea"
    path.write_bytes(b"".join(islice(Drive(DAY_MS), 30)) + b"junk\n")
    recorded = Recorded()
    reader = Reader(ReplaySource(path), Decoder, recorded)
    while (wait_s := reader.step(0)) == 0:
        pass
    assert wait_s is None
    assert recorded.times_ms == epochs_ms(30)
    assert reader.step(0) is None
    assert caplog.messages == [f"replayed 30 fixes from {path}; a restart replays it as new fixes"]
    assert (reader.status.state, reader.status.counts) == ("silent", {"garbage": 1})
    reader.close()


# ---- step by step


class Script:
    """A source that does what the test says, one thing for each open or read."""

    name = "gps"

    def __init__(self, clock: "Time", *does: bytes | float | Exception) -> None:
        self._does = list(does)
        self._clock = clock
        self.closed = 0

    def _next(self) -> bytes:
        what = self._does.pop(0)
        if isinstance(what, Exception):
            raise what
        if isinstance(what, float):
            self._clock.now_s += what
            return b""
        return what

    def open(self) -> None:
        self._next()

    def read(self, timeout_s: float) -> bytes:
        return self._next()

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


class Time(Clock):
    now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s


OK = b""
LINE = b"$GPRMC,000001.000,A\n"


def script(*does: bytes | float | Exception) -> tuple[Reader, Script, Callable[[], float | None]]:
    clock = Time()
    source = Script(clock, *does)
    reader = Reader(source, Decoder, Recorded(), clock)

    def step() -> float | None:
        wait_s = reader.step(clock.now_s)
        clock.now_s += wait_s or 0
        return wait_s

    return reader, source, step


def test_patience_grows_to_half_a_minute_and_each_reason_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    absent, busy = SourceError("gps: no such device"), BusyError("gps is in use")
    reader, _, step = script(*[absent] * 6, busy, absent, OK, LINE, SourceError("gone"), absent)
    assert [step() for _ in range(6)] == [1, 2, 4, 8, 16, 30]
    assert reader.status.state == "absent"
    assert step() == 30
    assert (reader.status.state, reader.status.since_s) == ("busy", 1061.0)
    assert [step() for _ in range(3)] == [30, 0, 0]
    assert caplog.messages == [
        "gps: no such device",
        "gps is in use",
        "gps is back after 121 s (failures: 8)",
    ]
    assert step() == 1
    assert step() == 2
    assert caplog.messages[3:] == ["gone", "gps: no such device"]


def test_a_ring_does_not_cut_the_patience_short() -> None:
    reader, _, _ = script(SourceError("absent"), OK)
    assert reader.step(1000.0) == 1
    assert reader.step(1000.25) == 0.75
    assert reader.step(1001.0) == 0


def test_a_device_that_goes_away_is_closed_at_once_and_leaves_its_last_fix() -> None:
    reader, source, step = script(OK, LINE, SourceError("gone"), OK, LINE)
    assert [step() for _ in range(2)] == [0, 0]
    assert (source.closed, reader.status.fixes) == (0, 0)
    assert step() == 1
    assert (source.closed, reader.status.fixes) == (1, 1)
    assert [step() for _ in range(2)] == [0, 0]
    assert reader.status.fixes == 1


def test_a_device_that_opens_and_dies_is_not_opened_faster_and_faster() -> None:
    gone = SourceError("gone")
    _, _, step = script(OK, gone, OK, gone, OK, gone)
    assert [step() for _ in range(6)] == [0, 1, 0, 2, 0, 4]


def test_silence_is_a_state_and_ends_with_the_first_byte(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    reader, _, step = script(OK, LINE, 0.25, 9.5, 0.25, 100.0, 1.0, LINE, 1.0)
    for state, since_s in [
        ("absent", 1000.0),
        ("absent", 1000.0),
        ("3d", 1000.25),
        ("3d", 1000.25),
        ("silent", 1010.0),
        ("silent", 1010.0),
        ("silent", 1010.0),
        ("3d", 1111.0),
    ]:
        assert step() == 0
        assert (reader.status.state, reader.status.since_s) == (state, since_s)
    assert caplog.messages == [
        "nothing comes from gps: check the receiver's wiring and power",
        "gps is back after 111 s (failures: 1)",
    ]


def test_counts_go_on_over_a_reopening() -> None:
    reader, _, step = script(OK, b"?\n", SourceError("gone"), OK, b"?\n?\n")
    for _ in range(5):
        step()
    assert reader.status.counts == {"garbage": 3}


def test_close_waits_for_the_step_and_no_step_follows() -> None:
    entered, may_go = threading.Event(), threading.Event()

    def slow(fix: Fix) -> None:
        entered.set()
        assert may_go.wait(LIMIT_S)

    clock = Time()
    source = Script(clock, OK, LINE + LINE, OK)
    reader = Reader(source, Decoder, slow, clock)
    reader.step(0)
    stepping = threading.Thread(target=reader.step, args=(0,))
    stepping.start()
    assert entered.wait(LIMIT_S)
    closing = threading.Thread(target=reader.close)
    closing.start()
    closing.join(0.05)
    assert (closing.is_alive(), source.closed) == (True, 0)
    may_go.set()
    stepping.join(LIMIT_S)
    closing.join(LIMIT_S)
    assert source.closed == 1
    assert reader._fixes == 2
    assert reader.step(0) is None
