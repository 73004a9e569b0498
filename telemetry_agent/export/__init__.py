"""Stored fixes -> files: one pure generator for each format."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from telemetry_agent.export.geojson import geojson
from telemetry_agent.export.gpx import gpx
from telemetry_agent.export.kml import kml
from telemetry_agent.export.tables import csv, ndjson
from telemetry_agent.fields import rfc3339

if TYPE_CHECKING:
    from telemetry_agent.ackqueue.stats import Stored
    from telemetry_agent.export.track import Gaps


class Format(NamedTuple):
    """One kind of file, in UTF-8."""

    pieces: "Callable[[Iterable[Sequence[Stored]], Gaps], Iterator[str]]"
    """Takes fixes in the order of recording, some at a time, and where the track breaks.

    Yields the text of the file in pieces: one for each sequence, empty or not, so that a caller can
    count its progress.
    """
    media_type: str


FORMATS: Mapping[str, Format] = {
    "gpx": Format(gpx, "application/gpx+xml"),
    "geojson": Format(geojson, "application/geo+json"),
    "kml": Format(kml, "application/vnd.google-earth.kml+xml"),
    "csv": Format(csv, "text/csv; charset=utf-8; header=present"),
    "ndjson": Format(ndjson, "application/x-ndjson"),
}
"""By name, which is also the suffix of the file."""


def file_name(device: str, kind: str, first_ms: int | None, last_ms: int | None) -> str:
    """Such as ``van-07-2026-11-23.gpx``.

    Args:
        device: its name.
        kind: the suffix.
        first_ms: GNSS time of the beginning, milliseconds since 1970; ``None``: unknown.
        last_ms: of the end, which is not included.
    """
    days = [rfc3339(ms)[:10] for ms in (first_ms, last_ms and last_ms - 1) if ms is not None]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", device).strip("-.") or "track"
    return "-".join([name, *dict.fromkeys(days)]) + f".{kind}"
