"""What several formats share: accuracy, user attributes, times in doubt, gzip."""

import gzip
import json
from urllib.parse import parse_qs

import pytest
from upload.upload_parts import STREAM, batch_of, encoded
from uploading import FIX

from telemetry_agent.model import Batch, Flag, Record
from telemetry_agent.upload.formats.choice import choose
from telemetry_agent.upload.formats.native import encode
from telemetry_agent.upload.interfaces import FormatName


@pytest.mark.parametrize(
    ("err_h_mm", "hdop_e2", "metres", "whole_metres"),
    [
        (2_600, 90, 2.6, 3),  # the receiver's own value comes first
        (14, 60, 1.0, 1),
        (0, None, 1.0, 1),
        (1_001, None, 1.001, 2),
        (None, 90, 4.5, 5),
        (None, 1, 1.0, 1),
        (None, 113, 5.7, 6),
        (None, 9999, 500.0, 500),
        (None, None, 50.0, 50),
    ],
)
def test_accuracy_is_always_sent(
    err_h_mm: int | None, hdop_e2: int | None, metres: float, whole_metres: int
) -> None:
    """Home Assistant and Reitti drop a position without accuracy, and answer with success."""
    fix = FIX._replace(err_h_mm=err_h_mm, hdop_e2=hdop_e2)
    (feature,) = json.loads(encoded("overland", fix).body)["locations"]
    assert feature["properties"]["horizontal_accuracy"] == metres
    assert parse_qs(encoded("osmand", fix).query)["accuracy"] == [str(metres)]
    assert parse_qs(encoded("gpslogger", fix).body.decode())["accuracy"] == [str(metres)]
    assert json.loads(encoded("owntracks", fix).body)["acc"] == whole_metres


@pytest.mark.parametrize(
    ("name", "carries_it"),
    [
        ("native", True),
        ("clickhouse", True),
        ("influx", False),
        ("osmand", False),
        ("overland", False),
        ("owntracks", False),
        ("gpslogger", False),
    ],
)
def test_a_time_in_doubt_goes_only_where_it_can_be_said(name: FormatName, carries_it: bool) -> None:
    unfit = choose(name, "http://x/").unfit
    doubtful: tuple[Flag, ...] = ("jump", "time")
    assert (unfit(Record(STREAM, 1, "v", FIX._replace(flags=doubtful))) is None) is carries_it
    assert unfit(Record(STREAM, 1, "v", FIX._replace(flags=("jump",)))) is None


EXTRA = '{"cpu_temp_C":48.3,"door":"half \\"open\\"","battery":81,"battery_state":"discharging"}'
BATCH = batch_of(FIX, FIX, FIX)


def test_every_format_carries_the_users_own_attributes() -> None:
    fix = FIX._replace(extra=EXTRA)
    (native,) = json.loads(encoded("native", fix).body)["fixes"]
    assert native["extra"] == json.loads(EXTRA)
    row = json.loads(encoded("clickhouse", fix).body)
    assert json.loads(row["extra"]) == json.loads(EXTRA)
    (feature,) = json.loads(encoded("overland", fix).body)["locations"]
    said = feature["properties"]
    assert (said["battery_level"], said["battery_state"]) == (0.81, "unplugged")
    assert (said["cpu_temp_C"], said["door"]) == (48.3, 'half "open"')
    location = json.loads(encoded("owntracks", fix).body)
    assert (location["batt"], location["bs"], location["cpu_temp_C"]) == (81, 1, 48.3)
    query = parse_qs(encoded("osmand", fix).query)
    assert (query["batt"], query["cpu_temp_C"], query["door"]) == (
        ["81"],
        ["48.3"],
        ['half "open"'],
    )
    assert b',cpu_temp_C=48.3,door="half \\"open\\"",battery=81.0,' in encoded("influx", fix).body


def test_gzip_holds_the_same_body_and_says_so() -> None:
    plain, packed = (encode(BATCH, compression=how) for how in ("none", "gzip"))
    assert packed.compressed
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body)
    assert packed == encode(BATCH, compression="gzip")


def test_what_gzip_would_not_make_smaller_goes_plain() -> None:
    payload = encode(Batch(1, STREAM, "v", (), live=False), compression="gzip")
    assert not payload.compressed
    assert "Content-Encoding" not in payload.headers
    assert json.loads(payload.body)["fixes"] == []
