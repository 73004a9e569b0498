"""A fix as a row of the database: typed integers, and a checksum over all of them.

SQLite notices damage to the structure of its pages, not to the values in them, so each row
carries its own proof. The checksum is the CRC-32 of the row's numbers as little-endian 64-bit
integers in the order of ``COLUMNS`` (an absent one as -2**63, which no quantity reaches),
followed by the device and by ``extra``, if it is there, in UTF-8; and with the row's local number,
folded to 32 bits, it is exclusive-ored. So a row proves its content and its place. (Rows of files
that began with schema version 1 or 2 can be without the number: they prove their content alone.)
"""

import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast, get_args

from telemetry_agent.model import Fix, Flag, Quality, Record

Row = tuple[Any, ...]
"""The values of ``COLUMNS``. What comes from a damaged file can be of any type."""

COLUMNS = ("id", "device", "stream", "seq", *Fix._fields[:-1], "crc", "extra")

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
_32_BITS = 0xFFFF_FFFF
_DEVICE, _CRC = COLUMNS.index("device"), COLUMNS.index("crc")
TIME_MS, LAT_E9, LON_E9 = map(COLUMNS.index, ("time_ms", "lat_e9", "lon_e9"))
"""Places in a row."""

_pack = struct.Struct(f"<{len(COLUMNS) - 4}q").pack
_crc32 = zlib.crc32
_new_tuple = tuple.__new__  # a named tuple's own constructor takes twice as long
_QUALITY = Fix._fields.index("quality")


@lru_cache(maxsize=16)  # a batch asks a thousand times for the same
def stream_from_int(number: int) -> str:
    """The 16 hex digits of a stream that is stored as a signed 64-bit integer."""
    return f"{number & 0xFFFF_FFFF_FFFF_FFFF:016x}"


def encode(row_id: int, stream: int, seq: int, device: str, fix: Fix) -> Row:
    """Make the row of a fix.

    Raises:
        ValueError: A value cannot be stored: it is no integer of 64 bits, or no known word.
    """
    if fix.extra == "":
        raise ValueError(f"this fix cannot be stored (its extra is empty, not None): {fix}")
    try:
        numbers: tuple[Any, ...] = (  # what is no integer does not pack
            stream,
            seq,
            *fix[:_QUALITY],
            _QUALITY_CODES[fix.quality],
            *fix[_QUALITY + 1 : -2],
            sum(_FLAG_BITS[flag] for flag in set(fix.flags)) if fix.flags else 0,
        )
        crc = _checksum(device, numbers, fix.extra) ^ _folded(row_id)
    except (struct.error, KeyError) as error:
        raise ValueError(f"this fix cannot be stored ({error}): {fix}") from error
    return (row_id, device, *numbers, crc, fix.extra)


def at_place(row: Row, row_id: int) -> Row:
    """A sound row, with another number."""
    crc = _checksum(row[_DEVICE], row[_DEVICE + 1 : _CRC], row[-1]) ^ _folded(row_id)
    return (row_id, *row[1:_CRC], crc, row[-1])


def decode(row: Row) -> Record | None:
    """Make a row a record again; ``None``: it is damaged.

    Flags come back in the order of ``FLAGS``. Written out column by column: a batch of a thousand
    spends its time here, and this is twice as fast as any loop over the columns.
    """
    (
        row_id,
        device,
        stream,
        seq,
        time_ms,
        lat_e9,
        lon_e9,
        alt_mm,
        geoid_sep_mm,
        speed_mm_s,
        course_mdeg,
        mode,
        quality,
        hdop_e2,
        vdop_e2,
        pdop_e2,
        sats,
        err_h_mm,
        err_v_mm,
        odo_m,
        flags,
        crc,
        extra,
    ) = row
    try:
        packed = _pack(
            stream,
            seq,
            time_ms,
            lat_e9,
            lon_e9,
            _ABSENT if alt_mm is None else alt_mm,
            _ABSENT if geoid_sep_mm is None else geoid_sep_mm,
            _ABSENT if speed_mm_s is None else speed_mm_s,
            _ABSENT if course_mdeg is None else course_mdeg,
            mode,
            quality,
            _ABSENT if hdop_e2 is None else hdop_e2,
            _ABSENT if vdop_e2 is None else vdop_e2,
            _ABSENT if pdop_e2 is None else pdop_e2,
            _ABSENT if sats is None else sats,
            _ABSENT if err_h_mm is None else err_h_mm,
            _ABSENT if err_v_mm is None else err_v_mm,
            _ABSENT if odo_m is None else odo_m,
            flags,
        )
        proof = _crc32(device.encode(), _crc32(packed))
        if extra is not None:
            proof = _crc32(extra.encode(), proof)
        if proof ^ (row_id ^ row_id >> 32) & _32_BITS != crc and proof != crc:
            return None
        if extra == "":  # its checksum is that of none
            return None
    except (struct.error, AttributeError, UnicodeError):  # another type, or no UTF-8
        return None
    fix = _new_tuple(
        Fix,
        (
            time_ms,
            lat_e9,
            lon_e9,
            alt_mm,
            geoid_sep_mm,
            speed_mm_s,
            course_mdeg,
            mode,
            QUALITIES[quality],
            hdop_e2,
            vdop_e2,
            pdop_e2,
            sats,
            err_h_mm,
            err_v_mm,
            odo_m,
            _FLAG_SETS[flags],
            extra,
        ),
    )
    return _new_tuple(Record, (stream_from_int(stream), seq, device, fix))


def is_sound(row: Row) -> bool:
    """Whether the row still holds what was stored."""
    return decode(row) is not None


def _folded(row_id: int) -> int:
    return (row_id ^ row_id >> 32) & _32_BITS


def _checksum(device: str, numbers: Sequence[int | None], extra: str | None) -> int:
    packed = _pack(*[_ABSENT if number is None else number for number in numbers])
    proof = _crc32(device.encode(), _crc32(packed))
    return proof if extra is None else _crc32(extra.encode(), proof)
