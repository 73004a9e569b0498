"""GPSLogger in Home Assistant's variant: a form."""

from urllib.parse import parse_qs

from upload.upload_parts import FULL, encoded
from uploading import FIX


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
    assert b"battery" not in worded.body  # Home Assistant takes only a number here
