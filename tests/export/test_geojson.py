"""GeoJSON, as RFC 7946 has it."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from stored_fixes import HERE, START_MS, after, drive, runs, stored, text_of

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


def parts_of(feature: dict[str, Any]) -> list[list[tuple[list[float], str]]]:
    """Lines of positions with their times, whatever the geometry."""
    coordinates = feature["geometry"]["coordinates"]
    times = feature["properties"]["coordTimes"]
    kind = feature["geometry"]["type"]
    if kind == "Point":
        coordinates, times = [[coordinates]], [[times]]
    elif kind == "LineString":
        coordinates, times = [coordinates], [times]
    else:
        assert (kind, len(coordinates) > 1) == ("MultiLineString", True)
    assert kind == "Point" or all(len(line) >= 2 for line in coordinates)
    return [list(zip(*both, strict=True)) for both in zip(coordinates, times, strict=True)]


def lons(feature: dict[str, Any]) -> list[list[float]]:
    return [[position[0] for position, _ in part] for part in parts_of(feature)]


@given(runs())
def test_every_fix_comes_back_and_no_line_crosses_the_antimeridian(told: list[Stored]) -> None:
    found = features(told)
    breaks = [Gaps().between(one.record, other.record) for one, other in pairwise(told)]
    assert len(found) == (sum(breaks) + 1 if told else 0)
    left = list(told)
    for feature in found:
        for part in parts_of(feature):
            for (start, _), (end, _) in pairwise(part):
                assert abs(start[0] - end[0]) <= 180
            for position, time in part:
                if left and is_of(left[0].record.fix, position, time):
                    left.pop(0)
                else:
                    assert abs(position[0]) == 180
    assert left == []


def is_of(fix: Fix, position: list[float], time: str) -> bool:
    lon_e9, lat_e9 = round(position[0] * 1e9), round(position[1] * 1e9)
    both_sides = abs(fix.lon_e9) == abs(lon_e9) == 180 * 10**9
    height = []
    if fix.alt_mm is not None and fix.geoid_sep_mm is not None:
        height = [(fix.alt_mm + fix.geoid_sep_mm) / 1e3]
    return (
        (lat_e9 == fix.lat_e9 and (lon_e9 == fix.lon_e9 or both_sides))
        and position[2:] == height
        and time == rfc3339(fix.time_ms)
    )


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


@pytest.mark.parametrize("east", [1, -1])
def test_it_is_cut_between_the_fixes_on_both_sides(east: int) -> None:
    start = AT._replace(lon_e9=east * 179_900000000)
    end = after(4, AT, lon_e9=-east * 179_700000000, lat_e9=10_400000000, alt_mm=104_000)
    (feature,) = features(drive(start, end))
    assert parts_of(feature) == [
        [
            ([east * 179.9, 10, 70.0], rfc3339(START_MS)),
            ([east * 180, 10.1, 71.0], rfc3339(START_MS + 1000)),
        ],
        [
            ([-east * 180, 10.1, 71.0], rfc3339(START_MS + 1000)),
            ([-east * 179.7, 10.4, 74.0], rfc3339(START_MS + 4000)),
        ],
    ]


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ([179, 180, -179], [[179, 180], [-180, -179]]),
        ([179, -180, -179], [[179, 180], [-180, -179]]),
        ([180, -179], [[-180, -179]]),
        ([180, -180], [[180, 180]]),
        ([-179, -180, 180, -180], [[-179, -180, -180, -180]]),
        ([179, -179, 179], [[179, 180], [-180, -179, -180], [180, 179]]),
        ([90, -90], [[90, -90]]),
    ],
)
def test_a_fix_on_the_antimeridian_lies_on_both_sides(
    path: list[int], parts: list[list[int]]
) -> None:
    fixes = [after(n, AT, lon_e9=lon * 10**9) for n, lon in enumerate(path)]
    (feature,) = features(drive(*fixes))
    assert lons(feature) == parts


def test_a_line_that_begins_on_the_antimeridian_keeps_its_height() -> None:
    start = AT._replace(lon_e9=-180 * 10**9)
    [line] = features(drive(start, after(1, AT._replace(lon_e9=1, geoid_sep_mm=None))))
    assert line["geometry"]["coordinates"] == [[180, 10, 70.0], [1e-9, 10]]


def test_a_long_line_goes_on_where_it_ended() -> None:
    told = drive(*(after(n / 10, AT, lon_e9=n * 1000) for n in range(25_000)))
    found = features(told)
    parts = [part for feature in found for part in parts_of(feature)]
    assert [len(part) for part in parts] == [10_000, 10_000, 5_002]
    assert [part[0] for part in parts[1:]] == [part[-1] for part in parts[:-1]]


def test_a_file_of_nothing_is_valid() -> None:
    assert features([]) == []
