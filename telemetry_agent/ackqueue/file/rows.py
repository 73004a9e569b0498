"""A fix, a mark and a run of a stream as rows of the database, each with a checksum.

SQLite notices damage to the structure of its pages, not to the values in them, so each row
carries its own proof. That of a mark or of a run is the CRC-32 of its values as text.

A fix is typed integers. Its checksum is the CRC-32 of the numbers of ``FIRST`` as little-endian
64-bit integers (an absent one as -2**63, which no quantity reaches), followed by the device and by
each value of ``LATER`` that is there, as text in UTF-8. It is exclusive-ored with the row's local
number, folded to 32 bits. So a row proves its content and its place.
"""

import re
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast, get_args

from telemetry_agent.ackqueue.ranges import Span
from telemetry_agent.ackqueue.row_states import RowState, State, StreamRun
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

_FLAG_BITS = {flag: 1 << place for place, flag in enumerate(FLAGS)}
_FLAG_SETS = tuple(
    tuple(flag for flag in FLAGS if mask & _FLAG_BITS[flag]) for mask in range(1 << len(FLAGS))
)
_STATES = {int(state): state for state in State}
STREAM, SEQ, TIME_MS, LAT_E9, LON_E9 = map(
    COLUMNS.index, ("stream", "seq", "time_ms", "lat_e9", "lon_e9")
)
"""Places in a row."""


@lru_cache(maxsize=16)  # a batch asks a thousand times for the same
def stream_from_int(number: int) -> str:
    """The 16 hex digits of a stream that is stored as a signed 64-bit integer."""
    return f"{number & 0xFFFF_FFFF_FFFF_FFFF:016x}"


def stream_to_int(stream: str) -> int:
    """As it is stored; raises ValueError if it is not a stream."""
    if re.fullmatch("[0-9a-fA-F]{16}", str(stream)) is None:
        raise ValueError(f"{stream!r} is not a stream: 16 hex digits, as in `queue list`")
    return int.from_bytes(bytes.fromhex(stream), signed=True)


# Both ways with every column written out: puts, and batches of a thousand, spend their time here.
_EVERY_VALUE = ", ".join(_STORED)
_NUMBERS = ", ".join(
    name if name in ALWAYS else f"absent if {name} is None else {name}" for name in FIRST
)
_LATER = "".join(
    f"""
        if {name} is not None:
            proof = crc32({f"{name}.encode()" if name == "extra" else f"b'%d' % {name}"}, proof)"""
    for name in LATER  # as text, and so that a value of another type raises
)
_PROVE = f"""
        proof = crc32(device.encode(), crc32(pack({_NUMBERS}))){_LATER}
        placed = proof ^ (id ^ id >> 32) & {0xFFFF_FFFF}
"""
_OF_ANOTHER_TYPE = (struct.error, AttributeError, TypeError, UnicodeError)  # or not UTF-8
_USES: dict[str, Any] = {
    "crc32": zlib.crc32,
    "pack": struct.Struct(f"<{len(FIRST)}q").pack,
    "absent": -(2**63),
    "errors": _OF_ANOTHER_TYPE,
    "not_stored": (KeyError, *_OF_ANOTHER_TYPE),
    "new": tuple.__new__,  # a named tuple's own constructor takes twice as long
    "Fix": Fix,
    "Record": Record,
    "quality_codes": {quality: code for code, quality in enumerate(QUALITIES)},
    "qualities": QUALITIES,
    "flag_bits": _FLAG_BITS,
    "flag_sets": _FLAG_SETS,
    "hex_of": stream_from_int,
}

encode: Callable[[int, int, int, str, Fix], Row] = written_out(
    "encode",
    f"""
def encode(id, stream, seq, device, fix):
    {_EVERY_VALUE} = fix
    try:
        quality = quality_codes[quality]
        flags = sum(flag_bits[flag] for flag in set(flags)) if flags else 0
{_PROVE}
    except not_stored as error:
        raise ValueError(f"this fix cannot be stored ({{error}}): {{fix}}") from error
    if extra == "":
        raise ValueError(f"this fix cannot be stored (its extra is empty, not None): {{fix}}")
    return ({", ".join("placed" if name == "crc" else name for name in COLUMNS)})
""",
    _USES,
)
"""Make the row of a fix: of the row's number, stream, seq, device and fix.

Raises:
    ValueError: A value cannot be stored: it is not an integer of 64 bits, or an unknown word.
"""

decode: Callable[[Row], Record | None] = written_out(
    "decode",
    f"""
def decode(row):
    {", ".join(COLUMNS)} = row
    try:
{_PROVE}
    except errors:
        return None
    if placed != crc or extra == "":
        return None
    quality, flags = qualities[quality], flag_sets[flags]
    return new(Record, (hex_of(stream), seq, device, new(Fix, ({_EVERY_VALUE},))))
""",
    _USES,
)
"""Make a row a record again; ``None``: it is damaged. Flags come back in the order of ``FLAGS``."""


def at_place(row: Row, row_id: int) -> Row:
    """A sound row, with another number."""
    record = cast("Record", decode(row))
    return encode(row_id, row[STREAM], *record[1:])


def is_sound(row: Row) -> bool:
    """Whether the row still holds what was stored."""
    return decode(row) is not None


def with_checksum(*values: object) -> Row:
    """Make the row of a mark, or of a run, of its values."""
    return (*values, zlib.crc32(" ".join(map(str, values)).encode()))


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
