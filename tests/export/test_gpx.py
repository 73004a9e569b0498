"""GPX, checked against its schema and read by gpxpy."""

from itertools import pairwise
from pathlib import Path

import gpxpy
import pytest
from gpxpy.gpx import GPX
from hypothesis import given
from lxml import etree
from stored_fixes import FIXES, HERE, STREAM, after, drive, runs, stored, text_of

from telemetry_agent.ackqueue.stats import Stored
from telemetry_agent.export.track import Gaps
from telemetry_agent.fields import rfc3339
from telemetry_agent.model import Fix

SCHEMA = etree.XMLSchema(etree.parse(Path(__file__).with_name("gpx_tracks.xsd")))
GARMIN = "{http://www.garmin.com/xmlschemas/TrackPointExtension/v2}"


def valid(text: str) -> GPX:
    SCHEMA.assertValid(etree.fromstring(text.encode()))
    return gpxpy.parse(text)


def shape(gpx: GPX) -> list[list[int]]:
    """The number of points in each segment of each track."""
    return [[len(segment.points) for segment in track.segments] for track in gpx.tracks]


@given(runs())
def test_every_fix_comes_back_in_its_place(told: list[Stored]) -> None:
    gpx = valid(text_of("gpx", told))
    points = [point for track in gpx.tracks for seg in track.segments for point in seg.points]
    assert len(points) == len(told)
    for point, (record, _, _) in zip(points, told, strict=True):
        fix = record.fix
        assert round(point.latitude * 1e9) == fix.lat_e9
        assert round(point.longitude * 1e9) in {fix.lon_e9, fix.lon_e9 - 360 * 10**9}
        assert point.elevation == (None if fix.alt_mm is None else fix.alt_mm / 1e3)
        assert point.geoid_height == (None if fix.geoid_sep_mm is None else fix.geoid_sep_mm / 1e3)
        assert point.time is not None
        assert round(point.time.timestamp() * 1000) == fix.time_ms
        assert point.satellites == fix.sats
        assert point.horizontal_dilution == (None if fix.hdop_e2 is None else fix.hdop_e2 / 1e2)
        assert (point.comment or "").split() == list(fix.flags)
    names = [track.name for track in gpx.tracks]
    assert all(name != after for name, after in pairwise(names))
    breaks = sum(Gaps().between(one.record, other.record) for one, other in pairwise(told))
    assert sum(map(len, shape(gpx))) == (breaks + 1 if told else 0)


@given(FIXES)
def test_motion_is_garmins_extension(fix: Fix) -> None:
    root = etree.fromstring(text_of("gpx", [stored(fix)]).encode())
    found = [
        None if (node := root.find(f".//{GARMIN}{name}")) is None else node.text
        for name in ("speed", "course")
    ]
    assert found == [
        None if value is None else str(value / 1e3) for value in (fix.speed_mm_s, fix.course_mdeg)
    ]


def test_segments_and_tracks() -> None:
    told = [
        *drive(HERE, after(1), after(2), after(3602), after(3603)),
        stored(after(3604), stream="b" * 16),
        stored(after(3605), stream="b" * 16, device="van-08"),
        stored(after(3606), stream=STREAM, device="van-08"),
    ]
    gpx = valid(text_of("gpx", told))
    assert shape(gpx) == [[3, 2, 1], [1, 1]]
    assert [track.name for track in gpx.tracks] == ["van-07", "van-08"]


@pytest.mark.parametrize(
    ("quality", "mode", "word"),
    [
        ("gps", 2, "2d"),
        ("gps", 3, "3d"),
        ("rtk", 3, "dgps"),
        ("dgps", 2, "dgps"),
        ("pps", 3, "pps"),
    ],
)
def test_the_kind_of_fix_is_one_of_the_schemas(quality: str, mode: int, word: str) -> None:
    fix = HERE._replace(quality=quality, mode=mode)  # type: ignore[arg-type]
    (point,) = valid(text_of("gpx", [stored(fix)])).tracks[0].segments[0].points
    assert point.type_of_gpx_fix == word


def test_a_name_with_marks_of_xml() -> None:
    (track,) = valid(text_of("gpx", [stored(HERE, device="<A> & ]]>")])).tracks
    assert track.name == "<A> & ]]>"


def test_a_file_of_nothing_is_valid() -> None:
    assert valid(text_of("gpx", [])).tracks == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('lon="11.516667"', 'lon="180"'),
        ('lat="48.1173"', 'lat="4.8e1"'),
        ("<fix>3d</fix>", "<fix>rtk</fix>"),
        (f"<time>{rfc3339(HERE.time_ms)}</time><fix>3d</fix>", "<fix>3d</fix><time>now</time>"),
        ("<trkseg>", "<trkseg><name/>"),
    ],
)
def test_the_schema_finds_what_is_wrong(right: str, wrong: str) -> None:
    text = text_of("gpx", [stored(HERE)])
    assert right in text
    assert not SCHEMA.validate(etree.fromstring(text.replace(right, wrong).encode()))
