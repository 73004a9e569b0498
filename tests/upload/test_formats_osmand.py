"""OsmAnd in Traccar's variant: one fix, in the query."""

from urllib.parse import parse_qs

import pytest
from upload.upload_parts import FULL, batch_of, encoded
from uploading import FIX

from telemetry_agent.model import Answer, Payload, Refused
from telemetry_agent.upload.formats.choice import choose


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
    assert encoded("osmand", FIX, url="http://x/?key=4711").query.startswith("id=van-07&")
    assert encoded("osmand", FIX, device="a&b c/é").query.startswith("id=a%26b%20c%2F%C3%A9&")


@pytest.mark.parametrize(
    ("url", "body", "reason"),
    [
        ("http://x/", b"", "400: the server does not know the device van-07"),
        ("http://x/?id=4711", b"", "400: the server does not know the device 4711"),
        ("http://x/", b"no such time", "400: no such time"),
    ],
)
def test_a_400_without_a_reason_is_a_device_that_the_server_does_not_know(
    url: str, body: bytes, reason: str
) -> None:
    got = choose("osmand", url).read(Answer(400, {}, body, verified_tls=False), batch_of(FIX))
    assert isinstance(got, Refused)
    assert got.reason == reason


def test_osmand_of_nothing_names_no_device() -> None:
    assert encoded("osmand") == Payload(b"", {})
