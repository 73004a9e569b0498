import io
import os
import select
import signal
from itertools import islice
from pathlib import Path

import pytest
from fakes import FakeClock
from processes import agent, run_agent

from telemetry_agent.cli import simulate
from telemetry_agent.clock import Clock
from telemetry_agent.errors import AgentError
from telemetry_agent.lab.drive import Drive
from telemetry_agent.lab.simulator import Simulator, replay

NEW_YEAR_MS = 1_798_761_600_000  # 2027-01-01T00:00:00Z
LIMIT_S = 60.0


class Port:
    """A program that opens the device and reads ``size`` bytes from it."""

    def __init__(self, device: Path) -> None:
        self.fd = os.open(device, os.O_RDWR | os.O_NOCTTY)

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            assert select.select([self.fd], [], [], LIMIT_S)[0], f"{len(data)} of {size} bytes came"
            data += os.read(self.fd, size - len(data))
        return data

    def close(self) -> None:
        os.close(self.fd)


# ---- recordings


def test_a_recording_is_cut_where_the_time_changes() -> None:
    epochs = [
        b"$GPGSV,1,1,00*79\r\n$GPGGA,120000.0,x\r\n$GPVTG,,\r\n$GPGST,115959.9,\r\n",
        b"\xb5\x62junk$GPGLL,4807.0,N,01131.0,E,120000.5,A\n$GNRMC,120000.5,A\n",
        b"$GPRMC,120001,A\n$GPRMC,,V",
    ]
    assert list(replay(io.BytesIO(b"".join(epochs)))) == epochs
    assert list(replay([])) == []


CORPUS = [
    b"$GPGGA,1,2\n" * 3 + b"$GPGGA,2\n",
    bytes(range(256)) * 4,
    b"$GPRMC,",
]


@pytest.mark.parametrize("recording", CORPUS)
def test_no_byte_of_a_recording_is_lost(recording: bytes) -> None:
    assert b"".join(replay(io.BytesIO(recording))) == recording


# ---- the line


def test_it_waits_for_a_reader_and_loses_no_epoch() -> None:
    drive = Drive(NEW_YEAR_MS)
    expected = b"".join(islice(drive, 300))
    with Simulator(islice(drive, 300), rate_hz=0) as simulator:
        port = Port(simulator.device)
        assert port.read(len(expected)) == expected
        assert simulator.done.wait(LIMIT_S)
        assert simulator.sent == 300
        port.close()


def test_it_sends_nothing_before_somebody_listens() -> None:
    with Simulator(Drive(NEW_YEAR_MS), rate_hz=0) as simulator:
        assert not simulator.done.wait(0.05)
        assert simulator.sent == 0


def test_it_is_not_done_before_all_was_read() -> None:
    with Simulator([b"x" * 100], rate_hz=0) as simulator:
        port = Port(simulator.device)
        port.read(99)
        assert not simulator.done.wait(0.5)
        port.read(1)
        assert simulator.done.wait(LIMIT_S)
        port.close()


def test_epochs_come_at_their_pace() -> None:
    clock = Clock()
    with Simulator([b"x"] * 5, rate_hz=20) as simulator:
        began_s = clock.monotonic_s()  # nothing is sent before a program listens
        port = Port(simulator.device)
        port.read(5)
        assert clock.monotonic_s() - began_s >= 0.2
        port.close()


def test_a_full_pty_makes_it_wait_and_stopping_does_not() -> None:
    with Simulator([b"x" * 200_000], rate_hz=0) as simulator:
        port = Port(simulator.device)
        assert port.read(1) == b"x"
        assert simulator.sent == 0
    assert simulator.done.is_set()
    port.close()


def test_commands_to_the_receiver_do_not_fill_the_line() -> None:
    with Simulator([], rate_hz=0) as simulator:
        port = Port(simulator.device)
        written = 0
        while written < 100_000:
            assert select.select([], [port.fd], [], LIMIT_S)[1]
            written += os.write(port.fd, b"$PMTK220,200*2C\r\n")
        port.close()


def test_the_end_is_an_error_for_who_reads_and_another_receiver_takes_the_link(
    tmp_path: Path,
) -> None:
    link = tmp_path / "gps"
    with Simulator([b"1", b"2", b"3"], rate_hz=0, link=link) as simulator:
        assert simulator.device == link
        port = Port(link)
        assert port.read(3) == b"123"
    assert not link.is_symlink()
    with pytest.raises(OSError, match="Input/output"):
        os.write(port.fd, b"x")
    port.close()
    with Simulator([b"4"], rate_hz=0, link=link):
        port = Port(link)
        assert port.read(1) == b"4"
        port.close()


def test_an_epoch_is_counted_if_it_is_stopped_while_that_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulator = Simulator([b"1"] * 5)
    write = os.write

    def write_and_hush(fd: int, data: bytes) -> int:
        written = write(fd, data)
        if data == b"1":
            simulator._hushed = True
        return written

    monkeypatch.setattr(os, "write", write_and_hush)
    with simulator:
        port = Port(simulator.device)
        assert port.read(1) == b"1"
        assert simulator.done.wait(LIMIT_S)
        assert simulator.sent == 1
        port.close()


def test_hushed_it_sends_nothing_more_and_what_was_sent_can_be_read() -> None:
    with Simulator([b"x" * 100, b"y" * 200_000], rate_hz=0) as simulator:
        port = Port(simulator.device)
        port.read(101)
        simulator.hush()
        assert simulator.sent == 1
        assert select.select([port.fd], [], [], LIMIT_S)[0]
        port.close()


def test_two_receivers_and_a_link_that_the_second_took(tmp_path: Path) -> None:
    link = tmp_path / "gps"
    link.symlink_to("/nowhere")
    first = Simulator([], link=link)
    with Simulator([], link=link):
        with first:
            assert link.exists()
        assert link.is_symlink()
    assert not link.is_symlink()


def test_a_link_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "gps").write_text("mine")
    with pytest.raises(AgentError, match="exists and is not a link"):
        Simulator([], link=tmp_path / "gps")
    assert (tmp_path / "gps").read_text() == "mine"


# ---- the command


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "track.nmea"
    path.write_bytes(b"".join(islice(Drive(NEW_YEAR_MS), 20)))
    return path


def test_the_command_ends_when_all_was_read(recording: Path, tmp_path: Path) -> None:
    link = tmp_path / "gps"
    args = ("--replay", str(recording), "--rate", "0", "--count", "7", "--link", str(link))
    with agent("simulate", *args) as command:
        command.wait_for_line(f"^{link}$")
        port = Port(link)
        expected = b"".join(islice(Drive(NEW_YEAR_MS), 7))
        assert port.read(len(expected)) == expected
        assert command.wait() == 0
        assert (len(command.out), command.err) == (1, [])
    assert not link.is_symlink()
    port.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_the_command_ends_quietly_when_asked(number: signal.Signals, tmp_path: Path) -> None:
    link = tmp_path / "gps"
    with agent("simulate", "--rate", "10", "--link", str(link)) as command:
        command.wait_for_line(f"^{link}$")
        port = Port(link)
        assert port.read(6) == b"$GNRMC"
        assert command.end(by=number) == 0
        assert (len(command.out), command.err) == (1, [])
    assert not link.is_symlink()
    port.close()


def test_the_command_ends_while_its_recording_says_nothing(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with agent("simulate", "--replay", str(pipe)) as command, pipe.open("wb"):
        command.wait_for_line("^/dev/pts/")
        assert command.end() == 0


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--rate", "nan", "--rate nan: must be 0, or 0.001 to 100"),
        ("--rate", "1e-300", "--rate 1e-300: must be 0, or 0.001 to 100"),
        ("--rate", "101", "--rate 101.0: must be 0, or 0.001 to 100"),
        ("--count", "9" * 30, "is not in the range"),
    ],
)
def test_a_number_that_no_receiver_has(option: str, value: str, said: str) -> None:
    ended = run_agent("simulate", option, value)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert said in ended.stderr


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "gps").write_text("mine")
    for link, why in (("gps", "exists and is not a link"), ("no/gps", "No such file or directory")):
        ended = run_agent("simulate", "--link", str(tmp_path / link))
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr == (
            f"telemetry-agent: cannot make a simulated receiver at {tmp_path / link}: {why}: "
            "name another --link\n"
        )


def test_a_drive_is_where_the_clock_says_however_late_somebody_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = FakeClock(wall_ms=NEW_YEAR_MS)
    monkeypatch.setattr(simulate, "Clock", lambda: clock)
    drive = simulate._drive(5.0)
    clock.advance(100)  # the device is not open
    for shown, passed_s in ((b",000140.000,", 1.9), (b",000140.200,", 60), (b",000241.800,", 0)):
        assert shown in next(drive)
        clock.advance(passed_s)
    assert b",000242.000," in next(drive)
