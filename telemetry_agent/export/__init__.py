"""Stored fixes -> files: one pure generator for each format."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from telemetry_agent.export.geojson import geojson
from telemetry_agent.export.gpx import gpx
from telemetry_agent.export.kml import kml
from telemetry_agent.export.tables import csv, ndjson
from telemetry_agent.export.track import Chunks, Gaps
from telemetry_agent.fields import rfc3339


class Format(NamedTuple):
    """One kind of file, in UTF-8."""

    pieces: Callable[[Chunks, Gaps], Iterator[str]]
    """Yields the text of the file: one piece for each chunk, empty or not, to count progress by."""
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
