"""OwnTracks: one object of integers, under its topic."""

import json

import pytest
from upload.upload_parts import FULL, encoded, outcome
from uploading import FIX

from telemetry_agent.model import Deferred, Delivered, Held


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
    assert isinstance(outcome("owntracks", 401, body), Held)
