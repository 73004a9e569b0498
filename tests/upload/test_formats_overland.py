"""Overland: GeoJSON, and a single answer that means success."""

import gzip
import json

import pytest
from upload.upload_parts import FULL, encoded, outcome
from uploading import FIX

from telemetry_agent.model import Deferred, Delivered, Held, Refused


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
        (200, b'{"received":1}', Delivered),
        (200, b'{"saved": 2}', Deferred),
        (200, b"[" * 100_000, Deferred),
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
