"""One row or line for each fix, with every field: CSV (RFC 4180) and newline-delimited JSON."""

import csv as csv_writer
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from telemetry_agent.export.track import Gaps
from telemetry_agent.fixjson import degrees, fix_json, rfc3339

if TYPE_CHECKING:
    from telemetry_agent.ackqueue.stats import Stored

_COLUMNS = (
    *("stream", "seq", "device", "state", "time", "lat", "lon", "alt", "geoid_sep"),
    *("speed", "course", "mode", "quality", "hdop", "vdop", "pdop", "sats"),
    *("err_h", "err_v", "odo", "flags", "extra"),
)


def csv(chunks: Iterable[Sequence["Stored"]], _gaps: Gaps) -> Iterator[str]:
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


def _row(stored: "Stored") -> tuple[object, ...]:
    record, fix = stored.record, stored.record.fix
    return (
        record.stream,
        record.seq,
        record.device,
        stored.state.name.lower(),
        rfc3339(fix.time_ms),
        degrees(fix.lat_e9),
        degrees(fix.lon_e9),
        None if fix.alt_mm is None else fix.alt_mm / 1e3,
        None if fix.geoid_sep_mm is None else fix.geoid_sep_mm / 1e3,
        None if fix.speed_mm_s is None else fix.speed_mm_s / 1e3,
        None if fix.course_mdeg is None else fix.course_mdeg / 1e3,
        fix.mode,
        fix.quality,
        None if fix.hdop_e2 is None else fix.hdop_e2 / 1e2,
        None if fix.vdop_e2 is None else fix.vdop_e2 / 1e2,
        None if fix.pdop_e2 is None else fix.pdop_e2 / 1e2,
        fix.sats,
        None if fix.err_h_mm is None else fix.err_h_mm / 1e3,
        None if fix.err_v_mm is None else fix.err_v_mm / 1e3,
        fix.odo_m,
        " ".join(fix.flags),
        fix.extra,
    )


def ndjson(chunks: Iterable[Sequence["Stored"]], _gaps: Gaps) -> Iterator[str]:
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
