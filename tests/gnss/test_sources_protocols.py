"""Detection of binary protocols, and why data contains no sentences."""

import time

import pytest
from nmea import line, rmc

from telemetry_agent.gnss.diagnosis import Diagnosis, diagnosis
from telemetry_agent.gnss.sources.protocols import (
    is_speed_right,
    protocol,
    ubx_checksum,
    unreadable,
)

EPOCH = rmc("120000") + line("GPVTG,084.4,T,,M,022.4,N,041.5,K,A")
UBX_BODY = bytes.fromhex("0107 0400 01020304")
UBX = b"\xb5\x62" + UBX_BODY + ubx_checksum(UBX_BODY)
FRAMES = {
    "UBX": bytes.fromhex("B562 0608 0600 C800 0100 0100 DE6A"),
    "SiRF": bytes.fromhex("A0A2 0003 0B 81 00 008C B0B3"),
    "SkyTraq": bytes.fromhex("A0A1 0002 83 02 81 0D0A"),
    "RTCM": bytes.fromhex("D300 13 3ED7D3020298 0EDEEF34B4BD 62AC094198 6F33 360B98"),
    "CASIC": bytes.fromhex("BACE 0400 06 00 E8030000 EC030600"),
    "SBF": bytes.fromhex("2440 F8CD A70F 0C00 01020304"),
}
AIS = b"!AIVDM,1,1,,A,15RTgt0PAso;90TKcjM8h6g208CQ,0*4A\r\n"
LOGS = "NovAtel or Unicore logs"
NOVATEL = bytes.fromhex(
    "AA4412 1C 2A00 02 20 0400 0000 00 B4 3808 80841300 00004002 0000 0000 01020304 DD059BDD"
)
UNICORE = bytes.fromhex(
    "AA44B5 00 CC03 0400 00 C9 0100 50690F00 00000000 00 12 0200 01020304 41D2FE07"
)
TEXT_LOG = (
    b"#BESTNAVA,97,GPS,FINE,2294,472312000,0,0,18,16;SOL_COMPUTED,SINGLE,48.1173,11.5167*3d781d55"
)
TAIP = b">RPV73511+4549542-0736643100035822;*7F<"
TEXTS = [
    (LOGS, TEXT_LOG),
    ("TAIP", TAIP),
    ("TAIP", b">RPV56655+4549542-0736643300000002;ID=ADAM12;*5E<"),
]


@pytest.mark.parametrize(
    ("name", "frame"), [*FRAMES.items(), (LOGS, NOVATEL), (LOGS, UNICORE), *TEXTS]
)
def test_a_protocol_is_named_by_a_whole_frame(name: str, frame: bytes) -> None:
    noise = frame[:2] + b"\x01\x00\x02\x00\x07" * 3
    assert protocol(noise + frame + noise) == name
    assert protocol(noise + frame[:-1]) is None
    for i in range(2, len(frame)):
        broken = bytearray(frame)
        broken[i] ^= 0x10
        assert protocol(bytes(broken)) is None


@pytest.mark.parametrize(
    "begin", [*(frame[:2] for frame in FRAMES.values()), b"#AA,", b">RPV", b"!AIVDM,", b"$GPRMC,"]
)
def test_beginnings_without_an_end_take_no_time(begin: bytes) -> None:
    data = begin * (65536 // len(begin)) + b"*"
    started_s = time.process_time()
    assert protocol(data) is None
    assert unreadable(data) in {"wrong-baud", diagnosis("text")}
    assert time.process_time() - started_s < 2


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (FRAMES["UBX"], "binary"),
        (TEXT_LOG + b"\r\n", "binary"),  # text that is not NMEA: same remedy
        (TAIP * 2, "binary"),
        (rmc("120000").partition(b"*")[0] + b"\r\n", diagnosis("no-checksum")),
        (AIS, diagnosis("ais")),
        (AIS[:-4] + b"\r\n", diagnosis("text")),
        (b'{"lat":48.1173,"lon":11.5167,"speed":11.5}\r\n', diagnosis("text")),
        (b"\r\n+CGPSINFO: ,,,,,,,,\r\n", "wrong-baud"),  # too short
        (b"\x80\xf3\x0f" * 30, "wrong-baud"),
        (b"$@" + bytes(100), "wrong-baud"),  # an empty frame has checksum 0
        (b"", "wrong-baud"),
    ],
)
def test_why_bytes_have_no_sentence(data: bytes, why: str | Diagnosis) -> None:
    assert unreadable(data) == why


# ---- the test of one speed


def test_a_sentence_proves_the_speed() -> None:
    assert is_speed_right(b"\x80,,A*6C\r\n" + EPOCH[:40]) is None
    assert is_speed_right(b"\x80,,A*6C\r\n" + EPOCH) is True
    assert is_speed_right(line("GPGLL,,,,,,V")) is True


# AIS, NMEA without checksums, another device. At a wrong speed NMEA never looks like so much text.
@pytest.mark.parametrize("text", [AIS, b"$GPGLL,4807.038,N,01131.000,E\r\n" * 2, b"hello\r\n" * 6])
def test_much_text_proves_the_speed(text: bytes) -> None:
    assert is_speed_right(text[:39]) is None
    assert is_speed_right(text[:40]) is True
    assert is_speed_right(text[:39] + b"\x80") is None


def test_a_whole_binary_frame_proves_the_speed() -> None:
    assert is_speed_right(UBX[:-1]) is None
    assert is_speed_right(UBX) is True


# Message 1005 of the RTCM standard, and a frame without a message.
RTCM = (
    bytes.fromhex("D3 00 13 3E D7 D3 02 02 98 0E DE EF 34 B4 BD 62 AC 09 41 98 6F 33 36 0B 98"),
    bytes.fromhex("D3 00 00 47 EA 4B"),
)


@pytest.mark.parametrize("frame", RTCM)
def test_corrections_before_the_sentences_prove_it_too(frame: bytes) -> None:
    before = bytes(range(128, 228))
    assert is_speed_right(before + frame[:2]) is None
    assert is_speed_right(before + frame[:-1]) is None
    assert is_speed_right(before + frame) is True
    damaged = frame[:-1] + bytes((frame[-1] ^ 1,))
    assert is_speed_right(damaged * 2) is None
    assert unreadable(frame) == "binary"
    assert unreadable(damaged) == "wrong-baud"


def test_noise_disproves_it_soon() -> None:
    assert is_speed_right(b"\x80\xf3\x0f" * 10) is None
    assert is_speed_right(b"\x80\xf3\x0f" * 22) is False


def test_a_mixture_disproves_it_late() -> None:
    assert is_speed_right(b"hello, world\r\n\x80" * 100) is None
    assert is_speed_right(b"hello, world\r\n\x80" * 200) is False
