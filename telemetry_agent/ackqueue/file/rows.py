"""A fix, a mark and a run of a stream as rows of the database, each with a checksum.

SQLite notices damage to the structure of its pages, not to the values in them, so each row
carries its own proof. That of a mark or of a run is the CRC-32 of its values as text.

A fix is typed integers. Its checksum is the CRC-32 of the numbers of ``FIRST`` as little-endian
64-bit integers (an absent one as -2**63, which no quantity reaches), followed by the device and by
each value of ``LATER`` that is there, as text in UTF-8. It is exclusive-ored with the row's local
number, folded to 32 bits. So a row proves its content and its place. (Rows of files that began
with schema version 1 or 2 can be without the number: they prove their content alone.)
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast, get_args

from telemetry_agent.ackqueue.ranges import Span
from telemetry_agent.ackqueue.row_states import DAMAGED, RowState, State, StreamRun
from telemetry_agent.fields import FIELDS, written_out
from telemetry_agent.model import Fix, Flag, Quality, Record

Row = tuple[Any, ...]
"""The values of ``COLUMNS``. What comes from a damaged file can be of any type."""

_STORED = tuple(field.stored for field in FIELDS)
FIRST = ("stream", "seq", *_STORED[: _STORED.index("extra")])
"""The numbers that every file has."""
LATER = _STORED[_STORED.index("extra") :]
"""The columns that came later. Absent, they leave the checksum as it was without them."""
COLUMNS = ("id", "device", *FIRST, "crc", *LATER)
ALWAYS = {field.stored for field in FIELDS if field.always} | {"stream", "seq", "flags"}
"""The columns that every fix fills."""
MARK_COLUMNS = ("lo", "hi", "state", "reason", "batch", "crc")
STREAM_COLUMNS = ("lo", "stream", "first_seq", "reported", "crc")

QUALITIES = cast("tuple[Quality, ...]", get_args(Quality))
"""A quality is stored as its place in this tuple: it only ever grows at its end."""
FLAGS = cast("tuple[Flag, ...]", get_args(Flag))
"""A flag is stored as the bit of its place in this tuple: it only ever grows at its end."""

_QUALITY_CODES = {quality: code for code, quality in enumerate(QUALITIES)}
_FLAG_BITS = {flag: 1 << place for place, flag in enumerate(FLAGS)}
_FLAG_SETS = tuple(
    tuple(flag for flag in FLAGS if mask & _FLAG_BITS[flag]) for mask in range(1 << len(FLAGS))
)
_STATES = {int(state): state for state in State}
_DAMAGED_BEFORE_3 = -1
"""A state that files had up to schema version 2, where a damaged row stayed in its place."""
_ABSENT = -(2**63)
_32_BITS = 0xFFFF_FFFF
_CRC = COLUMNS.index("crc")
STREAM, SEQ, TIME_MS, LAT_E9, LON_E9 = map(
    COLUMNS.index, ("stream", "seq", "time_ms", "lat_e9", "lon_e9")
)
"""Places in a row."""

_pack = struct.Struct(f"<{len(FIRST)}q").pack
_crc32 = zlib.crc32
_QUALITY, _FLAGS = Fix._fields.index("quality"), Fix._fields.index("flags")


@lru_cache(maxsize=16)  # a batch asks a thousand times for the same
def stream_from_int(number: int) -> str:
    """The 16 hex digits of a stream that is stored as a signed 64-bit integer."""
    return f"{number & 0xFFFF_FFFF_FFFF_FFFF:016x}"


def stream_to_int(stream: str) -> int:
    """As it is stored."""
    return int.from_bytes(bytes.fromhex(stream), signed=True)


def encode(row_id: int, stream: int, seq: int, device: str, fix: Fix) -> Row:
    """Make the row of a fix.

    Raises:
        ValueError: A value cannot be stored: it is not an integer of 64 bits, or an unknown word.
    """
    if fix.extra == "":
        raise ValueError(f"this fix cannot be stored (its extra is empty, not None): {fix}")
    later = fix[_FLAGS + 1 :]
    try:
        numbers: tuple[Any, ...] = (  # what is not an integer does not pack
            stream,
            seq,
            *fix[:_QUALITY],
            _QUALITY_CODES[fix.quality],
            *fix[_QUALITY + 1 : _FLAGS],
            sum(_FLAG_BITS[flag] for flag in set(fix.flags)) if fix.flags else 0,
        )
        crc = _checksum(device, numbers, later) ^ _folded(row_id)
    except (struct.error, KeyError) as error:
        raise ValueError(f"this fix cannot be stored ({error}): {fix}") from error
    return (row_id, device, *numbers, crc, *later)


def at_place(row: Row, row_id: int) -> Row:
    """A sound row, with another number."""
    crc = _checksum(row[1], row[2:_CRC], row[_CRC + 1 :]) ^ _folded(row_id)
    return (row_id, *row[1:_CRC], crc, *row[_CRC + 1 :])


def _as_bytes(name: str) -> str:
    """What of a later column goes into the checksum, as source: one type raises on another."""
    return f"{name}.encode()" if name == "extra" else f"b'%d' % {name}"


def _decode_source() -> str:
    """``decode`` with every column written out: a batch of a thousand spends its time here."""
    numbers = [
        name if name in ALWAYS else f"absent if {name} is None else {name}" for name in FIRST
    ]
    values = {"quality": "qualities[quality]", "flags": "flag_sets[flags]"}
    later = "".join(
        f"        if {name} is not None:\n            proof = crc32({_as_bytes(name)}, proof)\n"
        for name in LATER
    )
    return f"""
def decode(row):
    {", ".join(COLUMNS)} = row
    try:
        proof = crc32(device.encode(), crc32(pack({", ".join(numbers)})))
{later}        if proof ^ (id ^ id >> 32) & {_32_BITS} != crc and proof != crc or extra == "":
            return None
    except (error, AttributeError, TypeError, UnicodeError):  # another type, or not UTF-8
        return None
    fix = new(Fix, ({", ".join(values.get(name, name) for name in _STORED)},))
    return new(Record, (hex_of(stream), seq, device, fix))
"""


decode: Callable[[Row], Record | None] = written_out(
    "decode",
    _decode_source(),
    {
        "crc32": _crc32,
        "pack": _pack,
        "absent": _ABSENT,
        "error": struct.error,
        "new": tuple.__new__,  # a named tuple's own constructor takes twice as long
        "Fix": Fix,
        "Record": Record,
        "qualities": QUALITIES,
        "flag_sets": _FLAG_SETS,
        "hex_of": stream_from_int,
    },
)
"""Make a row a record again; ``None``: it is damaged. Flags come back in the order of ``FLAGS``."""


def is_sound(row: Row) -> bool:
    """Whether the row still holds what was stored."""
    return decode(row) is not None


def proves_its_number(row: Row) -> bool:
    """Whether it is sound, and its checksum is that of this number."""
    return is_sound(row) and bool(row == at_place(row, row[0]))


def _folded(row_id: int) -> int:
    return (row_id ^ row_id >> 32) & _32_BITS


def _checksum(device: str, numbers: Sequence[int | None], later: Sequence[object]) -> int:
    packed = _pack(*[_ABSENT if number is None else number for number in numbers])
    proof = _crc32(device.encode(), _crc32(packed))
    for value in later:
        if value is not None:
            proof = _crc32(str(value).encode(), proof)
    return proof


def with_checksum(*values: object) -> Row:
    """Make the row of a mark, or of a run, of its values."""
    return (*values, _crc32(" ".join(map(str, values)).encode()))


def mark_row(mark: Span[RowState]) -> Row:
    """A row of the table ``mark``."""
    lo, hi, value = mark
    # The column ``batch`` holds a row number, which means something else in an AWAY mark.
    row_id = value.oldest_pending if value.state is State.AWAY else value.batch
    return with_checksum(lo, hi, value.state, value.reason, row_id)


def read_mark(row: Row) -> Span[RowState] | None:
    """The opposite of ``mark_row``; ``None``: the row is damaged."""
    lo, hi, state, reason, row_id, _ = row
    try:
        if row != with_checksum(*row[:-1]) or not 0 < lo <= hi:
            return None
        if not isinstance(hi, int) or not isinstance(row_id, int | None):
            return None
        if state == _DAMAGED_BEFORE_3:
            return Span(lo, hi, DAMAGED)
        if state == State.AWAY:
            return Span(lo, hi, RowState(State.AWAY, reason, oldest_pending=row_id))
        return Span(lo, hi, RowState(_STATES[state], reason, batch=row_id))
    except (KeyError, TypeError, ValueError):  # no state, no number, or a text that is not UTF-8
        return None


def read_stream(row: Row) -> StreamRun | None:
    """A row of the table ``stream``; ``None``: it is damaged."""
    values = row[:-1]
    if any(type(value) is not int for value in values):
        return None
    return StreamRun(*values) if row == with_checksum(*values) else None
