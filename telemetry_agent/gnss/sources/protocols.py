"""What a receiver's bytes show: its protocol, and whether the line has the right speed.

The first bytes of a frame prove nothing: text that is read at a wrong speed contains them too. So a
protocol is recognized by a whole frame with the right checksum, and a speed is right when a whole
sentence or frame arrives, or much text, of another device perhaps. It is wrong as soon as most
bytes are not text. A pause shows nothing, because most receivers send once a second and are silent
in between.
"""

import re
from binascii import crc32, crc_hqx
from collections.abc import Callable
from functools import reduce
from itertools import islice
from operator import xor
from typing import Literal

from telemetry_agent.gnss.diagnosis import Diagnosis, diagnosis
from telemetry_agent.gnss.framing import TEXT, Framer, unchecked

BAUD_RATES = (9600, 38400, 115200, 4800, 57600, 19200, 230400, 460800, 921600)
"""The most likely first."""

_ENOUGH_BYTES = 64
_ENOUGH_TEXT = 40  # read at a wrong speed, NMEA is text for 27 bytes at most
_TOO_MANY_BYTES = 2048
_LOGS = "NovAtel or Unicore logs"
_HEADERS_AT_MOST = 50  # that are tried: the first whole frame comes early
_AIS = re.compile(rb"![A-Z]{2}VD[MO],[ \"-)+-~]+\*[0-9A-F]{2}")
_LOG = re.compile(rb"#([A-Z0-9]+A,[ -\"$-)+-~]+)\*([0-9a-fA-F]{8})")
_TAIP = re.compile(rb"(>R[A-Z]{2}[ -)+-;=?-~]*;\*)([0-9A-F]{2})<")


def is_speed_right(received: bytes) -> bool | None:
    """Whether bytes were received at the right speed; ``None`` while that is not decided."""
    if _is_much_text(received) or Framer().feed(received) or protocol(received):
        return True
    if len(received) < _ENOUGH_BYTES:
        return None
    noise = len(received.translate(None, TEXT))
    begins = any(header in received for header, _ in _PROTOCOLS.values())
    if noise * 4 > len(received) and not begins:
        return False
    return False if len(received) > _TOO_MANY_BYTES else None


def _is_much_text(data: bytes) -> bool:
    """Whether ``data`` is text only, and so much that its speed must be right."""
    return len(data) >= _ENOUGH_TEXT and not data.translate(None, TEXT)


def protocol(data: bytes) -> str | None:
    """The name of the protocol of which ``data`` contains a whole frame; else None."""
    for name, (header, is_frame) in _PROTOCOLS.items():
        found = islice(re.finditer(re.escape(header), data), _HEADERS_AT_MOST)
        if any(is_frame(data[each.start() :]) for each in found):
            return name
    if any(_crc(text) == int(crc, 16) for text, crc in _LOG.findall(data)):
        return _LOGS
    for text, checksum in _TAIP.findall(data):
        if int(checksum, 16) in {reduce(xor, text), reduce(xor, text[:-1])}:  # some leave the * out
            return "TAIP"
    return None


def unreadable(data: bytes) -> Literal["binary", "wrong-baud"] | Diagnosis:
    """Why ``data`` has no valid sentence; a diagnosis if no other speed would help."""
    if protocol(data) is not None:
        return "binary"
    if reason := unchecked(data):
        return diagnosis(reason)
    if _AIS.search(data):
        return diagnosis("ais")
    return diagnosis("text") if _is_much_text(data) else "wrong-baud"


def nmea_sentence(body: str) -> bytes:
    """A sentence with its checksum and line end."""
    return f"${body}*{reduce(xor, body.encode()):02X}\r\n".encode()


def ubx_checksum(body: bytes) -> bytes:
    """The Fletcher checksum over class, id, length and payload."""
    a = b = 0
    for byte in body:
        a = a + byte & 0xFF
        b = b + a & 0xFF
    return bytes((a, b))


def _is_ubx(frame: bytes) -> bool:
    end = 6 + int.from_bytes(frame[4:6], "little")
    return frame[end : end + 2] == ubx_checksum(frame[2:end])


def _is_sirf(frame: bytes) -> bool:
    end = 4 + int.from_bytes(frame[2:4], "big")
    checksum = (sum(frame[4:end]) & 0x7FFF).to_bytes(2, "big")
    return frame[end : end + 4] == checksum + b"\xb0\xb3"


def _is_skytraq(frame: bytes) -> bool:
    end = 4 + int.from_bytes(frame[2:4], "big")
    return frame[end : end + 3] == bytes((reduce(xor, frame[4:end], 0),)) + b"\r\n"


def _is_casic(frame: bytes) -> bool:
    end = 6 + int.from_bytes(frame[2:4], "little")
    words = [int.from_bytes(frame[at : at + 4], "little") for at in range(6, end, 4)]
    # Length, class and id are two words of 16 bits that count as one of 32.
    checksum = sum(words) + int.from_bytes(frame[2:6], "little") & 0xFFFFFFFF
    return frame[end : end + 4] == checksum.to_bytes(4, "little")


def _is_sbf(frame: bytes) -> bool:
    end = int.from_bytes(frame[6:8], "little")
    return 8 <= end <= len(frame) and crc_hqx(frame[4:end], 0).to_bytes(2, "little") == frame[2:4]


def _is_log(frame: bytes) -> bool:
    unicore = frame[2:3] == b"\xb5"
    header, length_at = (24, 6) if unicore else (int.from_bytes(frame[3:4], "big"), 8)
    end = header + int.from_bytes(frame[length_at : length_at + 2], "little")
    return frame[end : end + 4] == _crc(frame[:end]).to_bytes(4, "little")


def _crc(data: bytes) -> int:
    return crc32(data, 0xFFFFFFFF) ^ 0xFFFFFFFF


def _is_rtcm(frame: bytes) -> bool:
    remainder = 0  # CRC-24Q; over the message and its checksum it is 0
    for byte in frame[: 6 + int.from_bytes(frame[2:3])]:
        remainder ^= byte << 16
        for _ in range(8):
            remainder = remainder << 1 ^ (0x1864CFB if remainder & 0x800000 else 0)
    return remainder == 0


_PROTOCOLS: dict[str, tuple[bytes, Callable[[bytes], bool]]] = {
    "UBX": (b"\xb5\x62", _is_ubx),
    "SiRF": (b"\xa0\xa2", _is_sirf),
    "SkyTraq": (b"\xa0\xa1", _is_skytraq),
    "CASIC": (b"\xba\xce", _is_casic),
    "SBF": (b"$@", _is_sbf),
    _LOGS: (b"\xaa\x44", _is_log),
    "RTCM": (b"\xd3\x00", _is_rtcm),  # frames of up to 255 bytes, which every stream has
}
