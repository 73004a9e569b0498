"""GeoJSON as specified by RFC 7946."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from stored_fixes import HERE, after, drive, runs, stored, text_of

from telemetry_agent.ackqueue.stats import Stored
from telemetry_agent.export.track import Gaps
from telemetry_agent.fields import rfc3339
from telemetry_agent.model import Fix

AT = HERE._replace(alt_mm=100_000, geoid_sep_mm=-30_000, lat_e9=10_000000000)


def features(told: list[Stored]) -> list[dict[str, Any]]:
    collection = json.loads(text_of("geojson", told))
    assert collection.keys() == {"type", "features"}  # no crs
    assert collection["type"] == "FeatureCollection"
    found: list[dict[str, Any]] = collection["features"]
    assert all(feature["type"] == "Feature" for feature in found)
    return found


def points_of(feature: dict[str, Any]) -> list[tuple[list[float], str]]:
    """Positions with their times, for any geometry."""
    coordinates = feature["geometry"]["coordinates"]
    times = feature["properties"]["coordTimes"]
    if feature["geometry"]["type"] == "Point":
        return [(coordinates, times)]
    assert (feature["geometry"]["type"], len(coordinates) > 1) == ("LineString", True)
    return list(zip(coordinates, times, strict=True))


def is_cut(start: Fix, end: Fix) -> bool:
    return abs(start.lon_e9 - end.lon_e9) > 180 * 10**9


@given(runs())
def test_every_fix_comes_back_and_no_line_crosses_the_antimeridian(told: list[Stored]) -> None:
    found = features(told)
    records = [stored.record for stored in told]
    breaks = [
        Gaps().between(one, other) or is_cut(one.fix, other.fix) for one, other in pairwise(records)
    ]
    assert len(found) == (sum(breaks) + 1 if told else 0)
    points = [point for feature in found for point in points_of(feature)]
    assert [as_told(record.fix) for record in records] == points
    for feature in found:
        for (start, _), (end, _) in pairwise(points_of(feature)):
            assert abs(start[0] - end[0]) <= 180


def as_told(fix: Fix) -> tuple[list[float], str]:
    height = []
    if fix.alt_mm is not None and fix.geoid_sep_mm is not None:
        height = [(fix.alt_mm + fix.geoid_sep_mm) / 1e3]
    return [fix.lon_e9 / 1e9, fix.lat_e9 / 1e9, *height], rfc3339(fix.time_ms)


def test_a_segment_is_a_line_and_a_lone_fix_a_point() -> None:
    line, point = features(drive(AT, after(1, AT), after(3600, AT)))
    assert line["geometry"] == {
        "type": "LineString",
        "coordinates": [[11.516667, 10, 70.0], [11.516667, 10, 70.0]],
    }
    assert line["properties"] == {
        "device": "van-07",
        "stream": "00000000000000aa",
        "start": "2026-11-23T12:00:00.000Z",
        "end": "2026-11-23T12:00:01.000Z",
        "coordTimes": ["2026-11-23T12:00:00.000Z", "2026-11-23T12:00:01.000Z"],
    }
    assert point["geometry"]["type"] == "Point"
    assert point["properties"]["coordTimes"] == "2026-11-23T13:00:00.000Z"


def test_height_is_above_the_ellipsoid_or_left_out() -> None:
    (feature,) = features([stored(AT._replace(geoid_sep_mm=None))])
    assert feature["geometry"]["coordinates"] == [11.516667, 10]


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ([179, -179, -178], [[179], [-179, -178]]),
        ([-178, -179, 179], [[-178, -179], [179]]),
        ([179, 180, -179], [[179, 180], [-179]]),
        ([90, -90], [[90, -90]]),
    ],
)
def test_a_line_is_cut_at_the_antimeridian(path: list[int], parts: list[list[int]]) -> None:
    fixes = [after(n, AT, lon_e9=lon * 10**9) for n, lon in enumerate(path)]
    found = features(drive(*fixes))
    assert [[position[0] for position, _ in points_of(each)] for each in found] == parts


def test_a_long_line_goes_on_where_it_ended() -> None:
    told = drive(*(after(n / 10, AT, lon_e9=n * 1000) for n in range(25_000)))
    found = features(told)
    parts = [points_of(feature) for feature in found]
    assert [len(part) for part in parts] == [10_000, 10_000, 5_002]
    assert [part[0] for part in parts[1:]] == [part[-1] for part in parts[:-1]]


def test_a_file_of_nothing_is_valid() -> None:
    assert features([]) == []
