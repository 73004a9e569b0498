import grp
import os
import pty
import threading
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from telemetry_agent.errors import SourceError
from telemetry_agent.gnss.sources import BusyError
from telemetry_agent.gnss.sources.serial import SerialSource

LIMIT_S = 5.0


class Line:
    """A pty: what is written to ``master`` is what the receiver says."""

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


def test_a_forbidden_device_names_the_group_to_join(line: Line, source: SerialSource) -> None:
    user = os.geteuid()
    if user == 0:
        os.chown(line.device, -1, grp.getgrnam("uucp").gr_gid)
    group = line.device.group()
    line.device.chmod(0)
    try:
        as_nobody()
        with pytest.raises(SourceError, match=rf"no permission .* `sudo usermod -aG {group} \w+`"):
            source.open()
    finally:
        os.seteuid(user)


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
