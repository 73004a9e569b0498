"""A fix as a row of the database: typed integers, and a checksum over all of them.

SQLite notices damage to the structure of its pages, not to the values in them, so each row
carries its own proof. The checksum is the CRC-32 of the row's numbers as little-endian 64-bit
integers in the order of ``COLUMNS`` (an absent one as -2**63, which no quantity reaches),
followed by the device in UTF-8. The local row number is left out: the content, found anywhere,
proves itself.
"""

import struct
import zlib
from collections.abc import Sequence
from typing import Any, cast, get_args

from telemetry_agent.model import Fix, Flag, Quality, Record

Row = tuple[Any, ...]
"""The values of ``COLUMNS``. What comes from a damaged file can be of any type."""

COLUMNS = ("id", "device", "stream", "seq", *Fix._fields, "crc")

QUALITIES = cast("tuple[Quality, ...]", get_args(Quality))
"""A quality is stored as its place in this tuple: it only ever grows at its end."""
FLAGS = cast("tuple[Flag, ...]", get_args(Flag))
"""A flag is stored as the bit of its place in this tuple: it only ever grows at its end."""

_QUALITY_CODES = {quality: code for code, quality in enumerate(QUALITIES)}
_FLAG_BITS = {flag: 1 << place for place, flag in enumerate(FLAGS)}
_FLAG_SETS = tuple(
    tuple(flag for flag in FLAGS if mask & _FLAG_BITS[flag]) for mask in range(1 << len(FLAGS))
)
_ABSENT = -(2**63)
_pack = struct.Struct(f"<{len(COLUMNS) - 3}q").pack
_QUALITY = Fix._fields.index("quality")


def stream_from_int(number: int) -> str:
    """The 16 hex digits of a stream that is stored as a signed 64-bit integer."""
    return f"{number & 0xFFFF_FFFF_FFFF_FFFF:016x}"


def encode(row_id: int, stream: int, seq: int, device: str, fix: Fix) -> Row:
    """Make the row of a fix.

    Raises:
        ValueError: A value cannot be stored: it is no integer of 64 bits, or no known word.
    """
    try:
        numbers: tuple[Any, ...] = (  # what is no integer does not pack
            stream,
            seq,
            *fix[:_QUALITY],
            _QUALITY_CODES[fix.quality],
            *fix[_QUALITY + 1 : -1],
            sum(_FLAG_BITS[flag] for flag in set(fix.flags)) if fix.flags else 0,
        )
        crc = _checksum(device, numbers)
    except (struct.error, KeyError) as error:
        raise ValueError(f"this fix cannot be stored ({error}): {fix}") from error
    return (row_id, device, *numbers, crc)


def is_sound(row: Row) -> bool:
    """Whether the row still holds what was stored."""
    try:
        return bool(_checksum(row[1], row[2:-1]) == row[-1])
    except (struct.error, AttributeError):  # no integer where one was, no text for the device
        return False


def to_record(row: Row, stream: str) -> Record:
    """Make a sound row a record again; ``stream`` is its stream in hex digits.

    Flags come back in the order of ``FLAGS``.
    """
    first = 4
    quality = first + _QUALITY
    fix = Fix._make(
        (
            *row[first:quality],
            QUALITIES[row[quality]],
            *row[quality + 1 : -2],
            _FLAG_SETS[row[-2]],
        )
    )
    return Record(stream, row[3], row[1], fix)


def _checksum(device: str, numbers: Sequence[int | None]) -> int:
    packed = _pack(*[_ABSENT if number is None else number for number in numbers])
    return zlib.crc32(device.encode(), zlib.crc32(packed))
