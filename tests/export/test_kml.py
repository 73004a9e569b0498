"""KML as other programs read it."""

import xml.etree.ElementTree as ET

from telemetry_agent.ackqueue.row_states import State
from telemetry_agent.ackqueue.stats import Stored
from telemetry_agent.export import file_name
from telemetry_agent.export.kml import kml
from telemetry_agent.export.track import Gaps
from telemetry_agent.model import Fix, Record

START_MS = 1_795_435_200_000
KML, GX = "{http://www.opengis.net/kml/2.2}", "{http://www.google.com/kml/ext/2.2}"


def stored(second: int, alt_mm: int | None = None, device: str = "van <7>") -> Stored:
    fix = Fix(START_MS + 1000 * second, 48_117_300_000, -11_516_667_000, alt_mm=alt_mm)
    return Stored(Record("9f0c2d0000000000", second + 1, device, fix), State.ACKED, None)


def tracks(fixes: list[Stored]) -> list[ET.Element]:
    text = "".join(kml([fixes[:3], fixes[3:]], Gaps()))
    return list(ET.fromstring(text).iter(f"{GX}Track"))


def test_a_track_for_each_segment_with_its_times_and_places() -> None:
    fixes = [stored(second) for second in (0, 1, 2, 3, 5000, 5001)]
    one, two = tracks(fixes)
    assert next(when.text for when in one.iter(f"{KML}when")) == "2026-11-23T12:00:00.000Z"
    coordinates = [place.text for place in one.iter(f"{GX}coord")]
    assert coordinates == ["-11.516667 48.1173 0"] * 4
    assert len(list(two.iter(f"{KML}when"))) == len(list(two.iter(f"{GX}coord"))) == 2


def test_altitudes_where_all_are_known() -> None:
    (track,) = tracks([stored(second, 545_400) for second in range(4)])
    assert track.findtext(f"{KML}altitudeMode") == "absolute"
    assert track.findtext(f"{GX}coord") == "-11.516667 48.1173 545.4"
    (track,) = tracks([stored(0, 545_400), stored(1)])
    assert track.find(f"{KML}altitudeMode") is None


def test_a_long_piece_goes_on_from_the_same_position() -> None:
    found = tracks([stored(second) for second in range(10_002)])
    times = [[when.text for when in track.iter(f"{KML}when")] for track in found]
    assert list(map(len, times)) == [10_000, 3]
    assert times[0][-1] == times[1][0]


def test_nothing_is_a_file_too() -> None:
    assert tracks([]) == []


def test_a_file_is_named_by_device_and_days() -> None:
    day_ms = 86_400_000
    assert file_name("van-07", "gpx", START_MS, START_MS + 1) == "van-07-2026-11-23.gpx"
    assert (
        file_name("van 07/ü", "kml", START_MS, START_MS + 2 * day_ms)
        == "van-07-2026-11-23-2026-11-25.kml"
    )
    midnight_ms = START_MS // day_ms * day_ms
    assert file_name("a", "gpx", midnight_ms, midnight_ms + day_ms) == "a-2026-11-23.gpx"
    assert file_name("..", "csv", None, None) == "track.csv"
