"""One row or line for each fix, with every field: CSV (RFC 4180) and newline-delimited JSON."""

import csv as csv_writer
import io
import json
from collections.abc import Iterator
from typing import Any

from telemetry_agent.ackqueue.stats import Stored
from telemetry_agent.export.track import Chunks, Gaps
from telemetry_agent.fields import FIELDS, Field, degrees, fix_json, rfc3339

_COLUMNS = ("stream", "seq", "device", "state", *(field.name for field in FIELDS))


def csv(chunks: Chunks, _gaps: Gaps) -> Iterator[str]:
    """See ``Format.pieces``. An unknown value is an empty field; ``extra`` is JSON."""
    text = io.StringIO()
    rows = csv_writer.writer(text)  # its default is RFC 4180
    rows.writerow(_COLUMNS)
    yield text.getvalue()
    for chunk in chunks:
        text.seek(0)
        text.truncate()
        rows.writerows(map(_row, chunk))
        yield text.getvalue()


def _row(stored: Stored) -> tuple[object, ...]:
    record = stored.record
    state = stored.state.name.lower()
    cells = [_cell(field, value) for field, value in zip(FIELDS, record.fix, strict=True)]
    return (record.stream, record.seq, record.device, state, *cells)


def _cell(field: Field, value: Any) -> object:
    if value is None:
        return None
    if field.kind == "time":
        return rfc3339(value)
    if field.kind == "flags":
        return " ".join(value)
    if field.name in {"lat", "lon"}:
        return degrees(value)
    return value if field.per_unit == 1 else value / field.per_unit


def ndjson(chunks: Chunks, _gaps: Gaps) -> Iterator[str]:
    """See ``Format.pieces``."""
    for chunk in chunks:
        yield "".join(
            [
                f'{{"stream":"{stored.record.stream}","seq":{stored.record.seq},'
                f'"device":{json.dumps(stored.record.device)},'
                f'"state":"{stored.state.name.lower()}",{fix_json(stored.record.fix)}}}\n'
                for stored in chunk
            ]
        )
