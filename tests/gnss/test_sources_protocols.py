"""Binary protocols by their frames, and why bytes have no sentence."""

import pytest
from nmea import rmc

from telemetry_agent.gnss.sources.protocols import may_be_binary, protocol, unreadable

FRAMES = {
    "UBX": bytes.fromhex("B562 0608 0600 C800 0100 0100 DE6A"),
    "SiRF": bytes.fromhex("A0A2 0003 0B 81 00 008C B0B3"),
    "SkyTraq": bytes.fromhex("A0A1 0002 83 02 81 0D0A"),
    "RTCM": bytes.fromhex("D300 13 3ED7D3020298 0EDEEF34B4BD 62AC094198 6F33 360B98"),
    "CASIC": bytes.fromhex("BACE 0400 06 00 E8030000 EC030600"),
}


@pytest.mark.parametrize(("name", "frame"), FRAMES.items())
def test_a_protocol_is_named_by_a_whole_frame(name: str, frame: bytes) -> None:
    noise = frame[:2] + b"\x01\x00\x02\x00\x07" * 3
    assert protocol(noise + frame + noise) == name
    assert protocol(noise + frame[:-1]) is None
    for i in range(2, len(frame)):
        broken = bytearray(frame)
        broken[i] ^= 0x10
        assert protocol(bytes(broken)) is None


@pytest.mark.parametrize("frame", FRAMES.values())
def test_the_beginning_of_a_frame_may_be_one(frame: bytes) -> None:
    assert may_be_binary(b"\x00" + frame[:2])
    assert not may_be_binary(rmc("120000"))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (FRAMES["UBX"], "binary"),
        (rmc("120000").partition(b"*")[0] + b"\r\n", "no-checksum"),
        (b"\x80\xf3\x0f" * 30, "wrong-baud"),
        (b"", "wrong-baud"),
    ],
)
def test_why_bytes_have_no_sentence(data: bytes, why: str) -> None:
    assert unreadable(data) == why
