import errno
import grp
import json
import os
import pty
import resource
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from machines import Machine
from nmea import line as sentence
from nmea import rmc
from scripted import ScriptedReceiver

from telemetry_agent.clock import Clock
from telemetry_agent.errors import SourceError
from telemetry_agent.gnss.sources import BusyError, serial
from telemetry_agent.gnss.sources.machine import Holder, how_to_permit
from telemetry_agent.gnss.sources.protocols import BAUD_RATES, ubx_checksum
from telemetry_agent.gnss.sources.serial import SerialSource

LIMIT_S = 60.0
EPOCH = rmc("120000") + sentence("GPVTG,084.4,T,,M,022.4,N,041.5,K,A")
UBX_BODY = bytes.fromhex("0107 0400 01020304")
UBX = b"\xb5\x62" + UBX_BODY + ubx_checksum(UBX_BODY)


class Line:
    """A pty; the test writes the data of the receiver to ``master``."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        tty.setraw(slave)
        self.device = Path(os.ttyname(slave))
        os.close(slave)
        self.plugged = True

    def unplug(self) -> None:
        if self.plugged:
            self.plugged = False
            os.close(self.master)


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.unplug()


@pytest.fixture
def source(line: Line) -> Iterator[SerialSource]:
    source = SerialSource(line.device, 9600)
    yield source
    source.close()


def read(source: SerialSource, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = source.read(LIMIT_S)
        assert more, f"only {data!r} came"
        data += more
    return data


def test_what_the_receiver_says_is_read(line: Line, source: SerialSource) -> None:
    source.open()
    os.write(line.master, b"$GPRMC,")
    assert read(source, 7) == b"$GPRMC,"
    os.write(line.master, b"\x00\xff\x11\x13\x04\x03\r\n")
    assert read(source, 8) == b"\x00\xff\x11\x13\x04\x03\r\n"


def test_a_line_that_is_silent_at_two_speeds_is_not_searched_further(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(serial, "_TRIAL_S", 0.01)
    monkeypatch.setattr(termios, "tcflush", lambda *_: flushed.append(1))
    source = SerialSource(line.device)
    source.open()
    source.close()
    assert len(flushed) == 1  # between the two speeds


def test_a_silent_line_ends_a_read_in_time(source: SerialSource) -> None:
    source.open()
    assert source.read(0.01) == b""


def test_bytes_that_were_there_before_the_open_are_kept(line: Line, source: SerialSource) -> None:
    os.write(line.master, b"early")
    source.open()
    assert read(source, 5) == b"early"


def test_cancel_ends_the_read_that_blocks(source: SerialSource) -> None:
    source.open()
    entered = threading.Event()
    got: list[bytes] = []

    def reader() -> None:
        entered.set()
        got.append(source.read(60))

    thread = threading.Thread(target=reader)
    thread.start()
    assert entered.wait(LIMIT_S)
    source.cancel()
    thread.join(LIMIT_S)
    assert got == [b""]


def test_a_cancel_before_the_open_ends_the_first_read(source: SerialSource) -> None:
    source.cancel()
    source.open()
    assert source.read(60) == b""


def test_a_pulled_cable_ends_the_read_that_blocks(line: Line, source: SerialSource) -> None:
    source.open()
    unplug = threading.Timer(0.05, line.unplug)
    unplug.start()
    with pytest.raises(SourceError, match="went away: check the cable"):
        source.read(60)
    unplug.join()


def test_a_cable_pulled_between_two_reads_is_noticed(line: Line, source: SerialSource) -> None:
    source.open()
    line.unplug()
    with pytest.raises(SourceError, match="went away"):
        source.read(60)


def test_the_name_is_followed_anew_at_each_open(tmp_path: Path, line: Line) -> None:
    name = tmp_path / "gps"
    name.symlink_to(line.device)
    source = SerialSource(name, 9600)
    source.open()
    second = Line()
    line.unplug()
    with pytest.raises(SourceError, match=f"{name} went away"):
        source.read(60)
    source.close()
    name.unlink()
    with pytest.raises(SourceError, match="no such device"):
        source.open()
    name.symlink_to(second.device)
    source.open()
    os.write(second.master, b"back")
    assert read(source, 4) == b"back"
    source.close()
    second.unplug()


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    source = SerialSource(tmp_path / "ttyUSB7", 9600)
    with pytest.raises(SourceError, match=r"ttyUSB7: no such device: plug the receiver in") as e:
        source.open()
    assert not isinstance(e.value, BusyError)


def test_a_port_that_another_program_reads_is_not_opened(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, Path]] = []

    def holder(device: Path, root: Path) -> Holder:  # the real one ignores ptys
        asked.append((device, root))
        return Holder(77, "gpsd")

    monkeypatch.setattr(serial, "holder", holder)
    source = SerialSource(line.device, 9600, root=tmp_path)
    with pytest.raises(BusyError, match="gpsd"):
        source.open()
    assert asked == [(line.device, tmp_path)]


def test_a_receiver_for_which_no_descriptor_is_left_names_the_limit(source: SerialSource) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(SourceError, match="refuses file descriptors: raise the limit"):
            source.open()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_device_in_use_names_the_remedy(line: Line, source: SerialSource) -> None:
    source.open()
    second = SerialSource(line.device, 9600)
    with pytest.raises(
        BusyError, match=rf"in use by another program: `sudo fuser -v {line.device}"
    ):
        second.open()
    source.close()
    second.open()
    second.close()


def as_nobody() -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)


def test_programs_that_ask_for_no_lock_are_kept_off_until_the_close(
    line: Line, source: SerialSource
) -> None:
    user = os.geteuid()
    line.device.chmod(0o666)
    source.open()
    try:
        as_nobody()
        with pytest.raises(OSError, match="busy"):
            os.open(line.device, os.O_RDWR | os.O_NOCTTY)
        source.close()
        os.close(os.open(line.device, os.O_RDWR | os.O_NOCTTY))
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    ("group", "mode", "remedy"),
    [
        ("uucp", 0o660, r"`sudo usermod -aG uucp \w+`, then log in again"),
        ("uucp", 0o600, r'put .*KERNEL=="\d+", GROUP="dialout"'),
        ("root", 0o600, 'put .*GROUP="dialout"'),
        ("nogroup", 0o660, "`sudo telemetry-agent doctor` shows what to do"),  # PrivateUsers=
    ],
)
def test_a_forbidden_device_names_how_to_permit_it(
    line: Line, source: SerialSource, group: str, mode: int, remedy: str
) -> None:
    user = os.geteuid()
    if user != 0:
        pytest.skip("only root can give a device to a group")
    os.chown(line.device, -1, grp.getgrnam(group).gr_gid)
    line.device.chmod(mode)
    try:
        as_nobody()
        with pytest.raises(SourceError, match=f"no permission to read .*: {remedy}"):
            source.open()
    finally:
        os.seteuid(user)


def test_a_device_that_a_container_may_not_open_is_not_a_matter_of_groups(
    source: SerialSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")  # like a control group does

    monkeypatch.setattr(serial, "_Port", refuse)
    with pytest.raises(SourceError, match=r"no permission to read .* start the container with"):
        source.open()


def test_root_is_not_sent_to_doctor_which_it_asks(line: Line) -> None:
    """In a container, too, the group of a host device is not shown."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a device to a group")
    os.chown(line.device, -1, grp.getgrnam("nogroup").gr_gid)
    assert how_to_permit(line.device, "jane").startswith('put SUBSYSTEM=="tty"')


@pytest.mark.parametrize("kind", ["file", "directory", "/dev/null"])
def test_what_is_no_serial_port_is_told_apart(kind: str, tmp_path: Path) -> None:
    path = {"file": tmp_path / "track.nmea", "directory": tmp_path}.get(kind, Path(kind))
    (tmp_path / "track.nmea").write_bytes(b"$")
    with pytest.raises(SourceError, match=f"{path} is not a serial port"):
        SerialSource(path, 9600).open()


def test_close_may_be_called_at_any_time(source: SerialSource) -> None:
    source.close()
    source.open()
    source.close()
    source.close()
    source.cancel()
    with pytest.raises(SourceError, match="is not open"):
        source.read(0)


# ---- the speed of the line


def found_baud(device: Path) -> int | None:
    with closing(SerialSource(device)) as source:
        source.open()
    return source.baud


@pytest.mark.parametrize("baud", BAUD_RATES)
def test_every_speed_is_found(baud: int) -> None:
    with ScriptedReceiver(EPOCH, baud=baud) as receiver:
        assert found_baud(receiver.device) == baud


def test_the_bytes_that_proved_the_speed_are_read() -> None:
    with ScriptedReceiver(EPOCH, baud=38400) as receiver:
        source = SerialSource(receiver.device)
        source.open()
        assert EPOCH in source.read(1)
        source.close()


def test_the_next_open_begins_with_what_worked(tmp_path: Path) -> None:
    with ScriptedReceiver(EPOCH, baud=921600) as receiver:
        assert SerialSource(receiver.device).baud is None
        for _ in range(2):
            source = SerialSource(receiver.device, baud_file=tmp_path / "queue.baud")
            source.open()
            assert source.baud == 921600
            source.close()
        known = json.loads((tmp_path / "queue.baud").read_text())
        assert known == {str(receiver.device): 921600}
        source = SerialSource(receiver.device, baud_file=tmp_path / "queue.baud")
        assert source._rates() == [921600, *BAUD_RATES[:-1]]


@pytest.mark.parametrize("content", ["", "[1]", '{"a":', '{"DEVICE": 17}', None])
def test_a_file_of_speeds_may_hold_anything_or_be_in_no_folder(
    tmp_path: Path, content: str | None
) -> None:
    with ScriptedReceiver(EPOCH, baud=38400) as receiver:
        file = tmp_path / "none" / "queue.baud"
        if content is not None:
            file.parent.mkdir()
            file.write_text(content.replace("DEVICE", str(receiver.device)))
        source = SerialSource(receiver.device, baud_file=file)
        assert source._rates() == list(BAUD_RATES)
        source.open()
        assert source.baud == 38400
        source.close()
        assert (source._rates()[0], file.exists()) == (38400, content is not None)


def test_a_receiver_that_changed_its_speed_is_found_again() -> None:
    with ScriptedReceiver(EPOCH, baud=9600) as receiver:
        source = SerialSource(receiver.device)
        source.open()
        source.close()
        receiver.baud = 115200
        source.open()
        assert source.baud == 115200
        source.close()


def test_a_line_on_which_nothing_comes_is_left_at_the_likeliest_speed() -> None:
    clock = Clock()
    with ScriptedReceiver(b"") as receiver:
        started_s = clock.monotonic_s()
        assert found_baud(receiver.device) is None
        assert clock.monotonic_s() - started_s < 20
        assert receiver.speed == BAUD_RATES[0]


def test_a_cancel_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial, "_TRIAL_S", 60.0)
    clock = Clock()
    with ScriptedReceiver(b"") as receiver:
        source = SerialSource(receiver.device)
        source.cancel()
        started_s = clock.monotonic_s()
        source.open()
        assert clock.monotonic_s() - started_s < 40
        source.close()


# ---- messages to the user


def test_a_wrong_speed_in_the_config_is_told_with_the_right_one() -> None:
    with ScriptedReceiver(EPOCH, baud=38400) as receiver:
        text = str(SerialSource(receiver.device, 9600).advice("wrong-baud", b""))
    assert text == (
        f"the data from {receiver.device} at 9600 baud is not NMEA: it sends at 38400: "
        'set gps.baud = 38400, or "auto" to detect it'
    )


def test_a_wrong_speed_is_told_also_when_the_port_is_gone() -> None:
    with ScriptedReceiver(EPOCH, baud=38400) as receiver:
        source = SerialSource(receiver.device, 9600)
    text = str(source.advice("wrong-baud", b""))
    assert text.endswith('at 9600 baud is not NMEA: set gps.baud = "auto" to detect it')


def test_a_receiver_that_speaks_ubx_is_named_with_what_switches_nmea_on() -> None:
    with ScriptedReceiver(UBX * 3, baud=38400) as receiver:
        source = SerialSource(receiver.device)
        source.open()
        assert source.baud == 38400
        heard = source.read(1)
        source.close()
        text = str(source.advice("binary", heard))
    assert text.startswith(f"{receiver.device} sends UBX, not NMEA: switch its NMEA output on")
    assert f"`sudo gpsctl -f -n {receiver.device}`" in text


def test_silence_is_told() -> None:
    text = str(SerialSource(Path("/dev/ttyS9")).advice("silent", b""))
    assert text == "no data from /dev/ttyS9: check the receiver's wiring and power"


def test_silence_of_a_modem_has_the_command_that_switches_its_gnss_on(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.usb("2c7c:0125", "Quectel|EG25-G", "ttyUSB0", "ttyUSB1")
    advice = SerialSource(Path("/dev/ttyUSB1"), root=machine.root).advice("silent", b"")
    assert advice.message == "no data from /dev/ttyUSB1 (Quectel EC25/EG25 modem)"
    assert "--location-enable-gps-unmanaged" in advice.remedy
