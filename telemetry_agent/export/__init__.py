"""Stored fixes -> the files that people open: one pure generator for each format."""

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

    Gives the file's text piece by piece. There is one for each sequence, empty or not, so that
    whoever counts what was taken can tell how far it is.
    """
    media_type: str


FORMATS: Mapping[str, Format] = {
    "gpx": Format(gpx, "application/gpx+xml"),
    "geojson": Format(geojson, "application/geo+json"),
    "kml": Format(kml, "application/vnd.google-earth.kml+xml"),
    "csv": Format(csv, "text/csv; charset=utf-8; header=present"),
    "ndjson": Format(ndjson, "application/x-ndjson"),
}
"""By name, which is also how such a file's name ends."""


def file_name(device: str, kind: str, first_ms: int | None, last_ms: int | None) -> str:
    """Such as ``van-07-2026-11-23.gpx``.

    Args:
        device: its name.
        kind: how the name ends.
        first_ms: GNSS time of the beginning; ``None``: not known.
        last_ms: of the end, which is not included.
    """
    days = [rfc3339(ms)[:10] for ms in (first_ms, last_ms and last_ms - 1) if ms is not None]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", device).strip("-.") or "track"
    return "-".join([name, *dict.fromkeys(days)]) + f".{kind}"
