"""Marks and runs of a stream as rows of the database, each with the CRC-32 of its text."""

import zlib
from collections.abc import Sequence
from typing import Any

from telemetry_agent.ackqueue.file.rows import Row
from telemetry_agent.ackqueue.ranges import Span
from telemetry_agent.ackqueue.row_states import DAMAGED, RowState, State, StreamRun

MARK_COLUMNS = ("lo", "hi", "state", "reason", "batch", "crc")
STREAM_COLUMNS = ("lo", "stream", "first_seq", "reported", "crc")

_STATES = {int(state): state for state in State}
_DAMAGED_BEFORE_3 = -1
"""A state that files had up to schema version 2, where a damaged row stayed in its place."""


def mark_row(span: Span[RowState]) -> Row:
    """Make the row of a mark."""
    values = span.lo, span.hi, *span.value
    return (*values, _checksum(*values))


def read_mark(row: Sequence[Any]) -> Span[RowState] | None:
    """A row of the table ``mark``; ``None``: it is damaged."""
    lo, hi, state, reason, batch, crc = row
    try:
        if crc != _checksum(lo, hi, state, reason, batch) or not 0 < lo <= hi:
            return None
        if not isinstance(hi, int) or not isinstance(batch, int | None):
            return None
        if state == _DAMAGED_BEFORE_3:
            return Span(lo, hi, DAMAGED)
        return Span(lo, hi, RowState(_STATES[state], reason, batch))
    except (KeyError, TypeError, ValueError):  # no state, no number, or a text that is not UTF-8
        return None


def stream_row(run: StreamRun) -> Row:
    """Make the row of a run."""
    return (*run, _checksum(*run))


def read_stream(row: Sequence[Any]) -> StreamRun | None:
    """A row of the table ``stream``; ``None``: it is damaged."""
    *values, crc = row
    if any(type(value) is not int for value in values):
        return None
    return StreamRun(*values) if crc == _checksum(*values) else None


def _checksum(*values: object) -> int:
    return zlib.crc32(" ".join(map(str, values)).encode())
