"""InfluxDB: line protocol, and the errors that blame a fix."""

import gzip

import pytest
from upload.upload_parts import FULL, STREAM, encoded, outcome
from uploading import FIX

from telemetry_agent.model import Deferred, Delivered, Held, Record, Refused
from telemetry_agent.upload.formats.choice import choose


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
        # InfluxDB 2.0
        (500, b'{"message":"unexpected error: partial write: points beyond retention"}', Refused),
        (500, b'{"message":"unexpected error writing points: field type conflict"}', Held),
        (500, b'{"code":"internal error","message":"engine: timeout"}', Deferred),
        (500, b'{"error":"partial write"}', Deferred),  # a cluster with a missing node
        (401, b"", Held),
        (404, b'{"error":"database not found"}', Held),
        (413, b"", Refused),
        (429, b"", Deferred),
        (503, b"", Deferred),
    ],
)
def test_influx_answers(status: int, body: bytes, kind: type) -> None:
    assert isinstance(outcome("influx", status, body), kind)
