from pathlib import Path

import pytest
from nmea import line, rmc
from scripted import ScriptedReceiver

from telemetry_agent.clock import Clock
from telemetry_agent.gnss.sources.baud import BAUD_RATES, BaudMemory, Trial, in_order
from telemetry_agent.gnss.sources.protocols import ubx_checksum, unreadable
from telemetry_agent.gnss.sources.serial import SerialSource, detect_baud

EPOCH = rmc("120000") + line("GPVTG,084.4,T,,M,022.4,N,041.5,K,A")
UBX_BODY = bytes.fromhex("0107 0400 01020304")
UBX = b"\xb5\x62" + UBX_BODY + ubx_checksum(UBX_BODY)


# ---- one speed on trial


def test_a_sentence_proves_the_speed() -> None:
    trial = Trial()
    assert trial.feed(b"038,N,01131.000,E,022.4,084.4,231126,,,A*6C\r\n") is None
    assert trial.feed(EPOCH[:40]) is None
    assert trial.feed(EPOCH[40:]) is True


def test_a_binary_frame_proves_the_speed_however_it_is_cut() -> None:
    trial = Trial()
    frames = bytes(300) + UBX
    assert [trial.feed(frames[i : i + 1]) for i in range(300, len(frames))][-1] is True


# Message 1005 of the RTCM standard, and a frame without a message.
RTCM = (
    bytes.fromhex("D3 00 13 3E D7 D3 02 02 98 0E DE EF 34 B4 BD 62 AC 09 41 98 6F 33 36 0B 98"),
    bytes.fromhex("D3 00 00 47 EA 4B"),
)


@pytest.mark.parametrize("frame", RTCM)
def test_corrections_before_the_sentences_prove_it_too(frame: bytes) -> None:
    trial = Trial()
    assert trial.feed(bytes(range(128, 228)) + frame[:2]) is None
    assert trial.feed(frame[2:-1]) is None
    assert trial.feed(frame[-1:]) is True
    damaged = frame[:-1] + bytes((frame[-1] ^ 1,))
    assert Trial().feed(damaged * 2) is None
    assert unreadable(frame) == "binary"
    assert unreadable(damaged) == "wrong-baud"


def test_noise_disproves_it_soon() -> None:
    trial = Trial()
    assert trial.feed(b"\x80\xf3\x0f" * 10) is None
    assert trial.feed(b"\x80\xf3\x0f" * 12) is False


def test_a_sentence_without_a_checksum_proves_the_speed_too() -> None:
    trial = Trial()
    bare = b"$GPGLL,4807.038,N,01131.000,E\r\n"
    assert trial.feed(b"031,W,12\r\n" + bare[:-2]) is None
    assert trial.feed(bare[-2:]) is True


def test_text_without_a_sentence_disproves_it_late() -> None:
    trial = Trial()
    assert trial.feed(b"hello, world\r\n" * 100) is None
    assert trial.feed(b"hello, world\r\n" * 100) is False


def test_the_speed_that_worked_is_tried_first() -> None:
    assert list(in_order(None)) == list(BAUD_RATES)
    assert next(in_order(921600)) == 921600
    assert sorted(in_order(921600)) == sorted(BAUD_RATES)


def test_what_worked_is_remembered_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "queue.baud"
    memory = BaudMemory(path)
    assert memory["/dev/ttyUSB0"] is None
    memory["/dev/ttyUSB0"] = 38400
    assert BaudMemory(path)["/dev/ttyUSB0"] == 38400


@pytest.mark.parametrize("content", ["", "[1]", '{"a":', '{"/dev/ttyUSB0": 17}'])
def test_a_spoilt_memory_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "queue.baud"
    path.write_text(content)
    assert BaudMemory(path)["/dev/ttyUSB0"] is None


def test_a_folder_that_cannot_be_written_does_not_matter(tmp_path: Path) -> None:
    memory = BaudMemory(tmp_path / "none" / "queue.baud")
    memory["/dev/ttyUSB0"] = 38400
    assert memory["/dev/ttyUSB0"] == 38400


# ---- on a line


@pytest.mark.parametrize("baud", BAUD_RATES)
def test_every_speed_is_found(baud: int) -> None:
    clock = Clock()
    with ScriptedReceiver(EPOCH, baud=baud) as receiver:
        started_s = clock.monotonic_s()
        assert detect_baud(receiver.device) == baud
        assert clock.monotonic_s() - started_s < 5


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
            source = SerialSource(receiver.device, memory=BaudMemory(tmp_path / "queue.baud"))
            source.open()
            assert source.baud == 921600
            source.close()
        assert BaudMemory(tmp_path / "queue.baud")[str(receiver.device)] == 921600


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
        assert detect_baud(receiver.device) is None
        assert clock.monotonic_s() - started_s < 4
        assert receiver.speed == BAUD_RATES[0]


def test_a_cancel_ends_the_search() -> None:
    clock = Clock()
    with ScriptedReceiver(b"") as receiver:
        source = SerialSource(receiver.device)
        source.cancel()
        started_s = clock.monotonic_s()
        source.open()
        assert clock.monotonic_s() - started_s < 1
        source.close()


# ---- what the user is told


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
    assert text.endswith('at 9600 baud is not NMEA: try another, or "auto" to detect it')


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
