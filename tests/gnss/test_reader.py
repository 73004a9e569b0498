import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import nmea
import pytest
from fakes import FakeClock, FakePorts
from scripted import ScriptedReceiver

from telemetry_agent.clock import Clock
from telemetry_agent.errors import Advice, SourceError
from telemetry_agent.gnss import reader as reader_module
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.reader import Reader
from telemetry_agent.gnss.sources import BusyError, ForbiddenError, Source
from telemetry_agent.gnss.sources.machine import Holder, explain
from telemetry_agent.gnss.sources.replay import ReplaySource
from telemetry_agent.gnss.sources.serial import SerialSource
from telemetry_agent.lab.drive import Drive
from telemetry_agent.lab.simulator import Simulator
from telemetry_agent.model import Fix, ReceiverState
from telemetry_agent.tasks import Beat, run_loop

LIMIT_S = 60.0
DAY_MS = 1_798_761_600_000


def live() -> Decoder:
    return Decoder(fix_rollover=False)


class Recorded:
    """The times of the recorded fixes, and a method that waits for a time."""

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
    """Run the reader as the daemon does: in a thread that is stopped, woken, joined and closed."""
    stop = threading.Event()
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


def line(second: int) -> bytes:
    """A complete RMC sentence: one epoch."""
    return Drive(DAY_MS).epoch(second).splitlines(keepends=True)[0]


def gga(second: int) -> bytes:
    """A position without a date."""
    return Drive(DAY_MS).epoch(second).splitlines(keepends=True)[2]


def epochs_ms(count: int, interval_ms: int = 1000) -> list[int]:
    return [DAY_MS + i * interval_ms for i in range(count)]


# ---- with a recording


def test_what_can_wait_is_read_no_faster_than_it_can_be_recorded(tmp_path: Path) -> None:
    path = tmp_path / "drive.nmea"
    path.write_bytes(b"".join(map(line, range(500))))
    recorded = Recorded()
    room = 0

    def has_room() -> bool:
        return len(recorded.times_ms) < room

    reader = Reader(ReplaySource(path), live, recorded, room=has_room)
    assert reader.step(0.0) == 0
    for _ in range(3):
        assert reader.step(0.0) is None
    assert recorded.times_ms == []
    room = 100
    while reader.step(0.0) == 0:
        pass
    assert 100 <= len(recorded.times_ms) < 200
    room = 1000
    while reader.step(0.0) == 0:
        pass
    assert recorded.times_ms == epochs_ms(500)


def test_a_step_that_outlasts_close_still_frees_the_source(tmp_path: Path) -> None:
    path = tmp_path / "drive.nmea"
    path.write_bytes(b"".join(map(line, range(500))))
    recording, goes_on = threading.Event(), threading.Event()

    def record(_: Fix) -> None:
        recording.set()
        assert goes_on.wait(LIMIT_S)

    source = ReplaySource(path)
    reader = Reader(source, live, record)
    reader.step(0.0)
    step = threading.Thread(target=reader.step, args=(0.0,))
    step.start()
    assert recording.wait(LIMIT_S)
    reader.close()
    assert source._file is not None
    goes_on.set()
    step.join(LIMIT_S)
    assert source._file is None


# ---- with a simulated receiver


def test_all_epochs_are_recorded_the_last_by_the_quiet_gap() -> None:
    recorded = Recorded()
    with Simulator(islice(Drive(DAY_MS), 50), rate_hz=0) as simulator:
        reader = Reader(SerialSource(simulator.device, 115200), live, recorded)
        with running(reader):
            recorded.wait_for(DAY_MS + 49_000)
    assert recorded.times_ms == epochs_ms(50)
    assert (reader.status.fixes, reader.status.state) == (50, "3d")


def test_at_the_end_the_last_bytes_read_are_recorded() -> None:
    recorded = Recorded()
    with Simulator([line(1)], rate_hz=0) as simulator:
        slow = partial(Decoder, fix_rollover=False, baud=1)  # its quiet gap is longer than the test
        reader = Reader(SerialSource(simulator.device, 9600), slow, recorded)
        with running(reader):
            assert simulator.done.wait(LIMIT_S)
            assert recorded.times_ms == []
        assert recorded.times_ms == [DAY_MS + 1000]
        reader.close()
        assert recorded.times_ms == [DAY_MS + 1000]


def test_a_replugged_receiver_is_found_on_its_new_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    recorded = Recorded()
    drive = islice(Drive(DAY_MS, interval_ms=100), 60)
    link = tmp_path / "gps"
    reader = Reader(SerialSource(link, 9600), live, recorded)
    replugged = Simulator(drive, rate_hz=100)
    plugged_in = Simulator(drive, rate_hz=100, link=link)
    with running(reader):
        with plugged_in:
            recorded.wait_for(DAY_MS + 1000)
        link.symlink_to(replugged.device)
        with replugged:
            recorded.wait_for(DAY_MS + 5900)
    assert recorded.times_ms == sorted(set(recorded.times_ms))
    assert set(recorded.times_ms) <= set(epochs_ms(60, 100))
    assert len(recorded.times_ms) > 40
    gone, back = caplog.messages
    assert gone == f"{tmp_path}/gps went away: check the cable and the power"
    assert f"{tmp_path}/gps works again after" in back


def test_a_receiver_that_comes_later_is_read_from_its_first_byte(tmp_path: Path) -> None:
    recorded = Recorded()
    source = Opened(SerialSource(tmp_path / "gps", 9600))
    reader = Reader(source, live, recorded)
    with running(reader):
        assert source.failed.wait(LIMIT_S)
        assert reader.status.state == "absent"
        with Simulator(islice(Drive(DAY_MS), 5), rate_hz=0, link=tmp_path / "gps"):
            recorded.wait_for(DAY_MS + 4000)
    assert recorded.times_ms == epochs_ms(5)


class Opened:
    """A source with an event that is set when opening fails."""

    baud: int | None = None
    live: bool = True
    rejected: Mapping[str, int] = {}

    def __init__(self, source: Source) -> None:
        self.failed = threading.Event()
        self.name = source.name
        self.read, self.cancel, self.close = source.read, source.cancel, source.close
        self.advice = source.advice
        self._open = source.open

    def open(self) -> None:
        try:
            self._open()
        except SourceError:
            self.failed.set()
            raise


def test_a_wake_ends_the_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_LONGEST_READ_S", 600.0)
    with Simulator([]) as simulator:
        reader = Reader(SerialSource(simulator.device, 9600), live, Recorded())
        reader.step(0)
        reader.wake()
        assert reader.step(0) == 0
        thread = threading.Thread(target=reader.step, args=(0,))
        thread.start()
        reader.wake()
        thread.join(LIMIT_S)
        assert not thread.is_alive()
        reader.close()


def test_a_file_is_replayed_to_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "track.nmea"
    path.write_bytes(b"".join(islice(Drive(DAY_MS), 30)) + b"$GPRMC,,*00\r\n")
    recorded = Recorded()
    reader = Reader(ReplaySource(path), live, recorded)
    while (wait_s := reader.step(0)) == 0:
        pass
    assert wait_s is None
    assert recorded.times_ms == epochs_ms(30)
    assert reader.step(0) is None
    assert caplog.messages == [f"replayed 30 fixes from {path}; a restart replays it as new fixes"]
    assert (reader.status.state, reader.status.counts) == ("silent", {"bad-checksum": 1})
    reader.close()


def test_a_file_without_a_position_is_replayed_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "track.nmea"
    path.write_bytes(b"".join(map(gga, range(30))))
    reader = Reader(ReplaySource(path), live, Recorded())
    while reader.step(0) == 0:
        pass
    assert reader.status.diagnosis is not None
    (said,) = caplog.messages
    assert said.startswith(f"replayed 0 fixes from {path}; ")
    assert said.endswith(f"; {reader.status.diagnosis}")


# ---- step by step


class Script(Source):
    """A source that follows a script: one step for each open or read.

    Bytes are read, a float lets that many seconds pass without data, and an exception is raised.
    """

    name = "gps"

    def __init__(self, clock: FakeClock, *does: bytes | float | Exception) -> None:
        self._does = list(does)
        self._clock = clock
        self.closed_s: list[float] = []
        self.timeouts_s: list[float] = []

    @property
    def closed(self) -> int:
        return len(self.closed_s)

    def more(self) -> bool:
        return bool(self._does)

    def _next(self) -> bytes:
        what = self._does.pop(0)
        if isinstance(what, Exception):
            raise what
        if isinstance(what, float):
            self._clock.advance(what)
            return b""
        return what

    def open(self) -> None:
        self._next()

    def read(self, timeout_s: float) -> bytes:
        self.timeouts_s.append(timeout_s)
        if not self._does:
            self._does.append(timeout_s)
        return self._next()

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        self.closed_s.append(self._clock.now_s)

    def advice(self, state: ReceiverState, heard: bytes) -> Advice:
        return Advice(f"{state} after {len(heard)} bytes")


OK = b""
UBX = bytes.fromhex("b5620107020000000a31") + bytes(20)
NOISE = b"\x80\xf3\x0f" * 9


def script(*does: bytes | float | Exception) -> tuple[Reader, Script, Callable[[], float | None]]:
    clock = FakeClock()
    source = Script(clock, *does)
    reader = Reader(source, live, Recorded(), clock, bell=FakePorts())

    def step() -> float | None:
        wait_s = reader.step(clock.now_s)
        clock.advance(wait_s or 0)
        return wait_s

    return reader, source, step


def states(reader: Reader, step: Callable[[], float | None], steps: int) -> list[tuple[str, float]]:
    seen: list[tuple[str, float]] = []
    for _ in range(steps):
        step()
        seen.append((reader.status.state, reader.status.since_s))
    return seen


def test_patience_grows_to_half_a_minute_and_each_reason_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    absent, busy = SourceError("gps: no such device"), BusyError("gps is in use")
    gone = SourceError("gone")
    reader, _, step = script(*[absent] * 6, busy, absent, OK, line(0) + line(1), gone, absent)
    assert [step() for _ in range(6)] == [1, 2, 4, 8, 16, 30]
    assert reader.status.state == "absent"
    assert step() == 30
    assert (reader.status.state, reader.status.since_s) == ("busy", 1061.0)
    assert [step() for _ in range(3)] == [30, 0, 0]
    assert caplog.messages == [
        "gps: no such device",
        "gps is in use",
        "gps works again after 121 s (failures: 8)",
    ]
    assert step() == 1
    assert step() == 2
    assert caplog.messages[3:] == ["gone", "gps: no such device"]


def test_a_login_that_systemd_starts_again_and_again_on_the_port_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A login console takes the sentences of the receiver for names and passwords, and exits."""
    port = Path("/dev/ttyS0")
    for program in ("agetty", "minicom"):
        held = [BusyError(*explain(port, Holder(pid, program))) for pid in range(700, 720)]
        _, _, step = script(*held)
        for _ in held:
            step()
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "a login console has /dev/ttyS0 (agetty (pid 700))",
        "minicom (pid 700) has /dev/ttyS0",
    ]


def test_the_status_says_that_the_device_may_not_be_opened_until_it_may() -> None:
    reader, _, step = script(ForbiddenError("no permission"), SourceError("gone"), OK, line(0))
    seen = []
    for _ in range(2):
        step()
        seen.append((reader.status.state, reader.status.is_forbidden))
    assert seen == [("absent", True), ("absent", False)]


def test_a_read_lasts_a_second_or_until_the_open_instant_is_complete() -> None:
    reader, source, step = script(OK, 1.0, line(0), 0.1, 0.2, 1.0)
    states(reader, step, 6)
    assert source.timeouts_s == pytest.approx([1.0, 1.0, 0.25, 0.15, 1.0])


def test_a_ring_does_not_cut_the_patience_short() -> None:
    reader, _, _ = script(SourceError("absent"), OK)
    assert reader.step(1000.0) == 1
    assert reader.step(1000.25) == 0.75
    assert reader.step(1001.0) == 0


def test_a_device_that_goes_away_is_closed_at_once_and_leaves_its_last_fix() -> None:
    reader, source, step = script(OK, line(0), SourceError("gone"), OK, line(1))
    assert [step() for _ in range(2)] == [0, 0]
    assert (source.closed, reader.status.fixes) == (0, 0)
    assert step() == 1
    assert (source.closed, reader.status.fixes) == (1, 1)
    assert [step() for _ in range(2)] == [0, 0]
    assert reader.status.fixes == 1
    reader.close()
    assert source.closed == 2


def test_a_device_that_opens_and_dies_is_not_opened_faster_and_faster() -> None:
    gone = SourceError("gone")
    _, _, step = script(OK, gone, OK, gone, OK, gone)
    assert [step() for _ in range(6)] == [0, 1, 0, 2, 0, 4]


def test_a_receiver_that_falls_silent_is_opened_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sentence = line(3)
    does: list[bytes | float] = [OK, line(0), 0.25, 9.5, 0.25]
    does += [OK, 10.0, 9.0, 1.0]
    does += [OK, 39.0, 1.0]
    does += [OK, sentence[:5], 1.0, sentence[5:], 1.0]
    reader, source, step = script(*does)
    assert states(reader, step, 12)[2:] == [
        ("2d", 1000.25),
        ("2d", 1000.25),
        ("silent", 1010.0),
        *[("silent", 1010.0)] * 7,
    ]
    assert source.closed_s == [1010.0, 1030.0, 1070.0]
    assert states(reader, step, 5)[-1] == ("2d", 1072.0)
    assert caplog.messages == [
        "silent after 0 bytes",
        "gps works again after 62 s (failures: 1)",
    ]


@pytest.mark.parametrize(("says", "state"), [(NOISE, "wrong-baud"), (UBX, "binary")])
def test_what_cannot_be_read_for_5_s_is_told_and_opened_again(
    says: bytes, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    unreadable: list[bytes | float] = [says, 1.0]
    reader, source, step = script(
        *[OK, *unreadable * 5], *[OK, *unreadable * 10], OK, line(20), line(21)
    )
    closed = 0
    while source.more():
        before = source.closed
        step()
        if source.closed > before:
            closed += 1
            assert reader.status.state == state
    assert (closed, reader.status.state) == (2, "2d")
    heard, back = caplog.messages
    assert heard == f"{state} after {5 * len(says)} bytes"
    assert back == "gps works again after 10 s (failures: 1)"


def test_the_status_never_has_the_advice_of_another_state() -> None:
    noise: list[bytes | float] = [NOISE, 1.0]
    seen = []
    clock = FakeClock()
    source = Script(clock, OK, 10.0, OK, *noise * 5, OK, gga(20), 1.0, line(21), line(22))
    reader = Reader(
        source,
        live,
        Recorded(),
        clock,
        changed=lambda: seen.append((reader.status.state, reader.status.trouble)),
        bell=FakePorts(),
    )
    while source.more():
        reader.step(clock.now_s)
        if reader.status.state in {"silent", "wrong-baud"}:
            assert reader.status.trouble is not None
            assert reader.status.trouble.message.startswith(reader.status.state)
    # To find the advice may take seconds. Until then, none is shown.
    assert seen == [("silent", None), ("wrong-baud", None), ("no-date", None), ("2d", None)]


def test_a_receiver_that_goes_over_to_binary_frames_is_reported() -> None:
    frames: list[bytes | float] = [UBX, 1.0]
    reader, source, step = script(OK, line(0), line(1), *frames * 8)
    while not source.closed:
        step()
    assert reader.status.state == "binary"
    assert reader.status.fixes == 2


def test_a_receiver_that_speaks_every_8_s_is_not_taken_for_unreadable() -> None:
    does: list[bytes | float] = [OK]
    for second in range(0, 40, 8):
        begun, end = line(second)[:20], line(second)[20:]
        does += [begun, 0.25, end[:-1], 0.0, end[-1:], 8.0]
    reader, source, step = script(*does)
    while source.more():
        step()
    assert (source.closed, reader.status.fixes, reader.status.state) == (0, 5, "2d")


def test_positions_without_a_date_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    does: list[bytes | float] = [OK]
    for second in range(80):
        does += [gga(second), 1.0]
    reader, _, step = script(*does, *[line(i) for i in range(90, 94)])
    for _ in does[: 2 * 60]:
        step()
    assert reader.status.state == "no-date"
    assert caplog.messages == []  # a receiver may send the date once a minute
    for _ in does[2 * 60 :]:
        step()
    assert states(reader, step, 4)[-1][0] == "2d"
    said_first, back = caplog.messages
    assert said_first.startswith("gps: the receiver sends positions, but no date: switch")
    assert back.startswith("gps works again after")
    assert back.endswith("(failures: 1)")


BARE = b"$GPRMC,120000.00,A,5000.00000,N,01100.00000,E,5.00,090.0,201126,,,A\r\n"
WRONG = BARE.replace(b"\r\n", b"*00\r\n")
AIS = b"!AIVDM,1,1,,A,15RTgt0PAso;90TKcjM8h6g208CQ,0*4A\r\n"


@pytest.mark.parametrize(
    ("unused", "reason", "sends", "remedy"),
    [
        (BARE, "no-checksum", "sentences without a checksum", "switch the checksum on"),
        (WRONG, "bad-checksum", "sentences with wrong checksums", "or correct the program"),
        (AIS * 2, "ais", "AIS messages only", "name a GNSS receiver"),
    ],
)
def test_a_receiver_of_unused_sentences_is_told_as_that_and_not_opened_again(
    caplog: pytest.LogCaptureFixture, unused: bytes, reason: str, sends: str, remedy: str
) -> None:
    caplog.set_level(logging.INFO)
    said_bare: list[bytes | float] = [unused, 1.0]
    does: list[bytes | float] = [OK, *said_bare * 30, line(40), line(41)]
    reader, source, step = script(*does)
    for _ in does[:30]:
        step()
    status = reader.status
    assert status.state == "no-fix"
    assert status.diagnosis is not None
    assert status.diagnosis.reason == reason
    while source.more():
        step()
    status = reader.status
    assert (source.closed, status.state, status.diagnosis) == (0, "2d", None)
    said, back = caplog.messages
    assert said.startswith(f"gps: the receiver sends {sends}")
    assert remedy in said
    assert back.startswith("gps works again after")


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (nmea.line("PUBX,00,120000.00,4717.113210,N,00833.915187,E,546.589,G3"), "proprietary"),
        (nmea.line("GPGSV,1,1,00"), "no-position"),
        (nmea.line("KSXT,20261123120000.00,11.5,48.1,545.4"), "no-position"),
        (nmea.line("GPRMC,,A,4807.038,N,01131.000,E,022.4,084.4,231126,,,A"), "no-time"),
        (nmea.line("GPRMC,120000,A,48.117,N,11.517,E,022.4,084.4,231126,,,A"), "bad-position"),
    ],
)
def test_a_receiver_that_is_of_no_use_is_told_once_why(
    says: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    said_again: list[bytes | float] = [says, 1.0]
    does: list[bytes | float] = [OK, *said_again * 80]
    reader, source, step = script(*does)
    while source.more():
        step()
    assert reader.status.diagnosis is not None
    assert reader.status.diagnosis.reason == reason
    assert caplog.messages == [f"gps: {reader.status.diagnosis}"]
    assert source.closed == 0


def test_two_receivers_on_one_line_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    does: list[bytes | float] = [OK]
    for second in range(30):
        does += [line(second) + nmea.rmc(f"1200{second:02}", talker="II"), 1.0]
    reader, source, step = script(*does)
    while source.more():
        step()
    (notice,) = reader.status.notices
    assert caplog.messages == [f"gps: {notice}"]
    assert "(II beside GN): those of GN are recorded" in notice
    assert reader.status.state == "2d"


def test_a_receiver_that_is_plugged_in_is_opened_at_once() -> None:
    clock, ports = FakeClock(), FakePorts()
    absent = SourceError("absent")
    source = Script(clock, *[absent] * 6, OK)
    reader = Reader(source, live, Recorded(), clock, bell=ports)
    for _ in range(4):
        clock.advance(reader.step(clock.now_s) or 0)
    assert reader.step(clock.now_s) == 16
    assert reader.step(clock.advance(3)) == 13
    ports.add_port()
    reader.bell.wait(None)
    assert reader.step(clock.now_s) == 1  # its name does not exist yet
    assert reader.step(clock.advance(1)) == 0
    assert not source.more()


def test_the_baud_rate_of_a_receiver_that_is_plugged_in_is_detected_at_once(
    tmp_path: Path,
) -> None:
    ports = FakePorts()
    source = SerialSource(tmp_path / "gps")
    reader = Reader(source, live, Recorded(), bell=ports)
    assert reader.step(0) == 1
    with Simulator(Drive(DAY_MS), rate_hz=10, link=tmp_path / "gps"):
        for _ in range(2):  # the message of the kernel and that of udev
            ports.add_port()
        assert reader.step(0) == 0
        assert source.baud is not None
        reader.close()


def test_messages_about_devices_do_not_keep_an_idle_reader_busy(tmp_path: Path) -> None:
    path = tmp_path / "drive.nmea"
    path.write_bytes(line(0) + line(1))
    ports, room = FakePorts(), False
    reader = Reader(ReplaySource(path), live, Recorded(), bell=ports, room=lambda: room)
    assert reader.step(0) == 0
    ports.add_port()
    assert reader.step(0) is None
    assert ports.messages() == []  # a message left unread would end each wait
    room = True
    while reader.step(0) == 0:
        pass
    with pytest.raises(ConnectionRefusedError):  # after the end, the bell is closed
        ports.add_port()


def test_the_sky_is_that_of_the_open_device() -> None:
    reader, _, step = script(OK, Drive(DAY_MS).epoch(0), SourceError("gone"))
    assert reader.satellites() == ()
    for _ in range(2):
        step()
    assert len(reader.satellites()) == 28
    step()
    assert reader.satellites() == ()


def test_counts_go_on_over_a_reopening() -> None:
    bad = b"$GPRMC,,*00\r\n"
    reader, _, step = script(OK, bad, SourceError("gone"), OK, bad + bad)
    for _ in range(5):
        step()
    assert reader.status.counts == {"bad-checksum": 3}


def test_a_fix_that_cannot_be_recorded_does_not_take_the_next_with_it() -> None:
    recorded: list[int] = []

    def record(fix: Fix) -> None:
        if fix.time_ms == DAY_MS:
            raise OSError("no space left")
        recorded.append(fix.time_ms)

    clock = FakeClock()
    source = Script(clock, OK, line(0) + line(1) + line(2))
    reader = Reader(source, live, record, clock)
    reader.step(0)
    with pytest.raises(OSError, match="no space"):
        reader.step(0)
    reader.close()
    assert recorded == [DAY_MS + 1000, DAY_MS + 2000]
    assert source.closed == 1


def test_the_end_takes_the_rest_of_an_instant_that_has_begun_and_waits_half_a_second() -> None:
    """The next reader could not use either half of a torn sentence."""
    recorded: list[Fix] = []
    clock = FakeClock()
    source = Script(clock, OK, line(0) + line(1)[:20], b"", line(1)[20:], line(2)[:20])
    reader = Reader(source, live, recorded.append, clock)
    for _ in range(2):
        reader.step(clock.now_s)
    before_s = clock.now_s
    reader.close()
    assert [fix.time_ms for fix in recorded] == [DAY_MS, DAY_MS + 1000]
    assert (source.closed, clock.now_s - before_s) == (1, 0.5)


def test_close_waits_for_the_step_and_no_step_follows() -> None:
    entered, may_go = threading.Event(), threading.Event()

    def slow(fix: Fix) -> None:
        entered.set()
        assert may_go.wait(LIMIT_S)

    clock = FakeClock()
    source = Script(clock, OK, line(0) + line(1))
    reader = Reader(source, live, slow, clock)
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
    assert source.closed
    assert reader.status.fixes == 2
    assert reader.step(0) is None


# ---- with a receiver that changes


def test_a_receiver_that_comes_back_at_another_speed_is_found_again() -> None:
    recorded = Recorded()
    with ScriptedReceiver(line(0) + line(1), baud=9600) as receiver:
        reader = Reader(SerialSource(receiver.device), live, recorded)
        with running(reader):
            recorded.wait_for(DAY_MS)
            receiver.says = line(2) + line(3)
            receiver.baud = 115200
            recorded.wait_for(DAY_MS + 2000)
            assert reader.status.state == "2d"
