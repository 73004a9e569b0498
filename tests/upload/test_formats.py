"""How each server's request looks, in its own units, and what its answers mean."""

import gzip
import json
from urllib.parse import parse_qs

import pytest
from uploading import FIX

from telemetry_agent.model import (
    Answer,
    Batch,
    Deferred,
    Delivered,
    Fix,
    Flag,
    Held,
    Outcome,
    Payload,
    Record,
    Refused,
)
from telemetry_agent.upload.formats.choice import choose
from telemetry_agent.upload.interfaces import Compression, FormatName

STREAM = "9f0c2d0000000000"
FULL = Fix(
    1764426119250,
    48_117300000,
    -11_516667123,
    alt_mm=545_400,
    geoid_sep_mm=46_900,
    speed_mm_s=11_524,
    course_mdeg=359_700,
    mode=3,
    hdop_e2=90,
    vdop_e2=130,
    pdop_e2=158,
    sats=8,
    err_h_mm=2_600,
    err_v_mm=4_100,
    odo_m=1234,
    flags=("jump",),
)


def batch_of(*fixes: Fix, device: str = "van-07") -> Batch:
    records = tuple(Record(STREAM, 17 + n, device, fix) for n, fix in enumerate(fixes))
    return Batch(1, STREAM, device, records, live=False)


def encoded(
    name: FormatName,
    *fixes: Fix,
    url: str = "http://x/",
    username: str = "",
    device: str = "van-07",
    compression: Compression = "none",
) -> Payload:
    batch = batch_of(*fixes, device=device)
    return choose(name, url, username).encode(batch, compression)


def outcome(
    name: FormatName, status: int, body: bytes = b"", headers: dict[str, str] | None = None
) -> Outcome:
    answer = Answer(status, headers or {}, body, verified_tls=False)
    return choose(name, "http://x/").read(answer, batch_of(FIX))


def test_overland() -> None:
    payload = encoded("overland", FULL, FIX, compression="gzip")
    assert payload.headers["Content-Encoding"] == "gzip"
    full, bare = json.loads(gzip.decompress(payload.body))["locations"]
    assert full == {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [-11.516667123, 48.1173]},
        "properties": {
            "timestamp": "2025-11-29T14:21:59.250Z",
            "device_id": "van-07",
            "altitude": 545.4,
            "speed": 11.524,
            "course": 359.7,
            "horizontal_accuracy": 2.6,
            "vertical_accuracy": 4.1,
        },
    }
    assert bare["properties"].keys() == {"timestamp", "device_id", "horizontal_accuracy"}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b'{"result":"ok"}', Delivered),
        (201, b'{"result":"ok", "saved": 2}', Delivered),
        (200, b"", Deferred),
        (204, b"", Deferred),
        (200, b'{"result":"error"}', Deferred),
        (200, b'{"error":"no such user"}', Deferred),
        (200, b"ok", Deferred),
        (200, b"<html>", Deferred),
        (401, b"", Held),
        (400, b"", Refused),
        (500, b'{"error":"Batch creation failed"}', Deferred),
    ],
)
def test_overland_says_yes_in_one_way_only(status: int, body: bytes, kind: type) -> None:
    assert isinstance(outcome("overland", status, body), kind)


def test_osmand_wants_knots_and_milliseconds() -> None:
    payload = encoded("osmand", FULL, compression="gzip")
    assert payload.body == b""
    assert {name: value for name, (value,) in parse_qs(payload.query).items()} == {
        "id": "van-07",
        "timestamp": "1764426119250",
        "lat": "48.1173",
        "lon": "-11.516667123",
        "altitude": "545.4",
        "speed": "22.4009",
        "bearing": "359.7",
        "accuracy": "2.6",
        "hdop": "0.9",
        "vdop": "1.3",
        "pdop": "1.58",
        "sat": "8",
        "odometer": "1234",
    }
    bare = encoded("osmand", FIX._replace(lat_e9=1, lon_e9=0)).query
    assert bare == f"id=van-07&timestamp={FIX.time_ms}&lat=0.000000001&lon=0&accuracy=50.0"


def test_osmand_takes_the_identifier_of_the_url_and_escapes_its_own() -> None:
    assert "id=" not in encoded("osmand", FIX, url="http://x/?id=4711").query
    assert encoded("osmand", FIX, device="a&b c/é").query.startswith("id=a%26b%20c%2F%C3%A9&")


@pytest.mark.parametrize(
    ("err_h_mm", "hdop_e2", "metres", "whole_metres"),
    [
        (2_600, 90, 2.6, 3),  # what the receiver says goes first
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
    """Home Assistant and Reitti drop a position without it, and say yes."""
    fix = FIX._replace(err_h_mm=err_h_mm, hdop_e2=hdop_e2)
    (feature,) = json.loads(encoded("overland", fix).body)["locations"]
    assert feature["properties"]["horizontal_accuracy"] == metres
    assert parse_qs(encoded("osmand", fix).query)["accuracy"] == [str(metres)]
    assert parse_qs(encoded("gpslogger", fix).body.decode())["accuracy"] == [str(metres)]
    assert json.loads(encoded("owntracks", fix).body)["acc"] == whole_metres


def test_gpslogger_has_only_the_fields_that_home_assistant_knows() -> None:
    own = '{"battery":81,"provider":"gps","door":"half open"}'
    payload = encoded("gpslogger", FULL._replace(extra=own), device="a&b/é", compression="gzip")
    assert payload.headers == {"Content-Type": "application/x-www-form-urlencoded"}
    assert {name: value for name, (value,) in parse_qs(payload.body.decode()).items()} == {
        "device": "a&b/é",
        "latitude": "48.1173",
        "longitude": "-11.516667123",
        "accuracy": "2.6",
        "altitude": "545.4",
        "speed": "11.524",
        "direction": "359.7",
        "battery": "81",
        "provider": "gps",
    }
    worded = encoded("gpslogger", FIX._replace(extra='{"battery":"low"}'))
    assert b"battery" not in worded.body  # a number there, or the position is refused


@pytest.mark.parametrize("url", ["http://x/api/webhook/0123?u=jane", "https://hooks.nabu.casa/gA"])
@pytest.mark.parametrize("name", ["gpslogger", "osmand", "owntracks"])
def test_home_assistant_says_nothing_to_a_webhook_that_it_does_not_know(
    name: FormatName, url: str
) -> None:
    """It answers 200 with an empty body, also where its own code fails."""
    batch = batch_of(FIX)
    read = choose(name, url).read
    said = read(Answer(200, {}, b"", verified_tls=False), batch)
    assert isinstance(said, Deferred)
    assert "Home Assistant does not know the webhook" in said.reason
    # OwnTracks' webhook says [] also to what it cannot read.
    other = read(Answer(200, {}, b"[]", verified_tls=False), batch)
    assert isinstance(other, Delivered) is (name == "owntracks")
    word = b"[]" if name == "owntracks" else b"Setting location for van07"
    assert isinstance(read(Answer(200, {}, word, verified_tls=False), batch), Delivered)


def test_osmand_of_nothing_names_no_device() -> None:
    assert encoded("osmand") == Payload(b"", {})


def test_owntracks_is_one_object_of_integers() -> None:
    payload = encoded("owntracks", FULL, url="http://x/pub?u=jane", compression="gzip")
    assert not payload.compressed
    assert json.loads(payload.body) == {
        "_type": "location",
        "tst": 1764426119,
        "lat": 48.1173,
        "lon": -11.516667123,
        "alt": 545,
        "vel": 41,
        "cog": 0,
        "acc": 3,
        "vac": 4,
        "tid": "07",
        "topic": "owntracks/jane/van-07",
    }
    assert payload.headers["X-Limit-U"] == "jane"
    assert payload.headers["X-Limit-D"] == "van-07"
    assert encoded("owntracks").body == b""  # an empty publish is not stored


@pytest.mark.parametrize(
    ("url", "username", "device", "topic"),
    [
        ("http://x/pub", "", "van-07", "owntracks/owntracks/van-07"),
        ("http://x/pub", "jane", "van-07", "owntracks/jane/van-07"),
        ("http://x/pub?u=kim&d=car", "jane", "van-07", "owntracks/kim/car"),
        ("http://x/pub", "jane", "a/b c+#é", "owntracks/jane/a_b_c___"),
    ],
)
def test_owntracks_topics(url: str, username: str, device: str, topic: str) -> None:
    payload = encoded("owntracks", FIX, url=url, username=username, device=device)
    assert json.loads(payload.body)["topic"] == topic


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"[]", Delivered),
        (b'{"_type":"cmd"}', Delivered),
        (b"", Delivered),  # Traccar
        (b"no way", Deferred),
        (b"<html>", Deferred),
    ],
)
def test_owntracks_servers_say_json_or_nothing(body: bytes, kind: type) -> None:
    assert isinstance(outcome("owntracks", 200, body), kind)


def test_influx() -> None:
    payload = encoded("influx", FULL, FIX)
    assert payload.query == "precision=ms"
    assert payload.body.decode() == (
        "gps,device=van-07 lat=48.1173,lon=-11.516667123,alt=545.4,geoid_sep=46.9,speed=11.524,"
        'course=359.7,mode=3i,quality="gps",hdop=0.9,vdop=1.3,pdop=1.58,sats=8i,err_h=2.6,'
        'err_v=4.1,odo=1234i,flags="jump",seq=17i 1764426119250\n'
        'gps,device=van-07 lat=48.1173,lon=11.516667,mode=2i,quality="gps",seq=18i 1764426119000\n'
    )
    packed = encoded("influx", *[FULL] * 20, compression="gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == encoded("influx", *[FULL] * 20).body


def test_influx_escapes_a_device_and_refuses_what_cannot_be_escaped() -> None:
    line = encoded("influx", FIX, device="a b,c=d\\e").body.decode()
    assert line.startswith("gps,device=a\\ b\\,c\\=d\\e lat=")
    unfit = choose("influx", "http://x/").unfit
    assert "backslash" in (unfit(Record(STREAM, 1, "a\\", FIX)) or "")
    assert unfit(Record(STREAM, 1, "a\\b", FIX)) is None


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (204, b"", Delivered),
        (200, b"", Delivered),
        (400, b'{"error":"partial write: points beyond retention policy dropped=1"}', Refused),
        (422, b'{"code":"unprocessable entity","message":"retention policy"}', Refused),
        (400, b'{"error":"partial write: field type conflict: input field"}', Held),
        (400, b'{"code":"invalid","message":"error in line 1: cast error"}', Held),
        (401, b"", Held),
        (404, b'{"error":"database not found"}', Held),
        (413, b"", Refused),
        (429, b"", Deferred),
        (503, b"", Deferred),
    ],
)
def test_influx_answers(status: int, body: bytes, kind: type) -> None:
    assert isinstance(outcome("influx", status, body), kind)


def test_clickhouse() -> None:
    payload = encoded("clickhouse", FULL)
    query = {name: value for name, (value,) in parse_qs(payload.query).items()}
    token = query.pop("insert_deduplication_token")
    assert query == {
        "query": "INSERT INTO fixes FORMAT JSONEachRow",
        "date_time_input_format": "best_effort",
        "input_format_skip_unknown_fields": "0",
    }
    (row,) = payload.body.decode().splitlines()
    assert json.loads(row) == {
        "device": "van-07",
        "stream": STREAM,
        "seq": 17,
        "time": "2025-11-29T14:21:59.250Z",
        "lat": 48.1173,
        "lon": -11.516667123,
        "alt": 545.4,
        "geoid_sep": 46.9,
        "speed": 11.524,
        "course": 359.7,
        "mode": 3,
        "quality": "gps",
        "hdop": 0.9,
        "vdop": 1.3,
        "pdop": 1.58,
        "sats": 8,
        "err_h": 2.6,
        "err_v": 4.1,
        "odo": 1234,
        "flags": ["jump"],
    }
    assert token in encoded("clickhouse", FULL, compression="gzip").query
    assert token not in encoded("clickhouse", FULL, FIX).query


def test_clickhouse_leaves_what_the_url_says() -> None:
    url = "http://x/?query=INSERT%20INTO%20t%20FORMAT%20JSONEachRow&input_format_skip_unknown_fields=1"
    query = parse_qs(encoded("clickhouse", FIX, url=url).query)
    assert query.keys() == {"date_time_input_format", "insert_deduplication_token"}


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (200, None, Delivered),
        (404, 60, Held),
        (500, 117, Held),
        (401, 193, Held),
        (403, 516, Held),
        (500, 497, Held),
        (400, 27, Refused),
        (500, 41, Refused),
        (500, 252, Deferred),  # too many parts
        (500, 242, Deferred),  # the replica only reads
        (500, 241, Deferred),  # memory
        (404, 999, Deferred),  # keeper
    ],
)
@pytest.mark.parametrize("where", ["header", "body"])
def test_clickhouse_codes_decide_whatever_the_status_is(
    status: int, code: int | None, kind: type, where: str
) -> None:
    said = f"Code: {code}. DB::Exception: words".encode() if code else b""
    headers = {"x-clickhouse-exception-code": str(code)} if code and where == "header" else {}
    assert isinstance(outcome("clickhouse", status, said, headers), kind)


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
