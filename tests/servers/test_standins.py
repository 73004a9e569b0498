"""Stand-ins for Traccar, OwnTracks Recorder, Dawarich and PhoneTrack, which cannot be had here."""

from datetime import datetime
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from drives import FIXES, drive_to
from rig import simulated, started, stats, write_config
from standins import Dawarich, PhoneTrack, Recorder, Server, Traccar

CUT_AFTER = {"osmand": 300_000, "owntracks": 300_000, "overland": 300_000}


def at_ms(fix: dict[str, Any]) -> int:
    return round(datetime.fromisoformat(fix["time"]).timestamp() * 1000)


def accuracy_m(fix: dict[str, Any]) -> float:
    """The simulated receiver tells its HDOP, and no error."""
    assert "err_h" not in fix
    return max(1.0, round(5 * float(fix["hdop"]), 3))


def in_order(times: list[int]) -> list[int]:
    """Each time once, where it came first."""
    return list(dict.fromkeys(times))


def test_traccar(tmp_path: Path, backlog: Path) -> None:
    traccar = Traccar("van-07")
    with Server(traccar, latency_s=0.002) as server:
        sent = drive_to(
            server.url, tmp_path, backlog, cut_after=CUT_AFTER["osmand"], format="osmand"
        )
    assert len(sent) == FIXES
    assert in_order([p["time_ms"] for p in traccar.positions]) == [at_ms(fix) for fix in sent]
    # Only what was under way when the way was cut, or was not noted before the kill, comes twice.
    assert len(traccar.positions) - FIXES <= 2 * 128 + 200
    stored = {position["time_ms"]: position for position in traccar.positions}
    for fix in sent:
        position = stored[at_ms(fix)]
        assert (position["lat"], position["lon"]) == (fix["lat"], fix["lon"])
        assert position["altitude"] == fix["alt"]
        assert position["accuracy"] == accuracy_m(fix)
        assert position.get("course") == fix.get("course")
        assert position["speed_kn"] == pytest.approx(fix["speed"] / 0.514444, abs=1e-3)
        kept = {name: fix[name] for name in ("hdop", "vdop", "pdop")}
        assert position["attributes"] == {**kept, "sat": fix["sats"], "odometer": fix["odo"]}


def test_the_recorder(tmp_path: Path, backlog: Path) -> None:
    recorder = Recorder()
    with Server(recorder) as server:
        url = f"{server.url}/pub?u=jane"
        sent = drive_to(
            url, tmp_path, backlog, cut_after=CUT_AFTER["owntracks"], format="owntracks"
        )
    (topic, stored), *others = recorder.locations.items()
    assert (topic, others) == ("owntracks/jane/van-07", [])
    assert in_order([said["tst"] for said in stored]) == [at_ms(fix) // 1000 for fix in sent]
    # The one under way at each cut, and what was not noted before the kill, comes twice.
    assert len(stored) - FIXES <= 2 + 200
    locations = {said["tst"]: said for said in stored}
    for fix in sent:
        course = {"cog": round(fix["course"]) % 360} if "course" in fix else {}
        assert locations[at_ms(fix) // 1000] == {
            **course,
            "_type": "location",
            "tst": at_ms(fix) // 1000,
            "lat": fix["lat"],
            "lon": fix["lon"],
            "acc": ceil(accuracy_m(fix)),
            "alt": round(fix["alt"]),
            "vel": round(fix["speed"] * 3.6),
            "tid": "07",
            "topic": topic,
        }


def test_the_recorder_keeps_up_with_a_receiver(tmp_path: Path) -> None:
    """Ten times faster than most, and each answer takes half of the time that there is."""
    recorder = Recorder()
    with Server(recorder, latency_s=0.05) as server, simulated(tmp_path, 60, rate_hz=10) as gps:
        config = write_config(
            tmp_path, str(gps.device), f"{server.url}/pub", upload={"format": "owntracks"}
        )
        with started(config) as agent:
            server.wait_for(lambda: server.requests >= 60)
            assert agent.end() == 0
    left = stats(tmp_path)
    assert (left.ready, left.unack, left.ack_failed) == (0, 0, 0)
    (stored,) = recorder.locations.values()
    assert len(stored) == left.acked == 60
    assert server.most_under_way == 1


def features(sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [fix["lon"], fix["lat"]]},
            "properties": {
                "timestamp": fix["time"],
                "device_id": "van-07",
                "altitude": fix["alt"],
                "speed": fix["speed"],
                "horizontal_accuracy": accuracy_m(fix),
                **({"course": fix["course"]} if "course" in fix else {}),
            },
        }
        for fix in sent
    ]


def test_dawarich(tmp_path: Path, backlog: Path) -> None:
    dawarich = Dawarich("k3y")
    token = tmp_path / "token"
    token.write_text("k3y")
    with Server(dawarich, latency_s=0.002) as server:
        url = f"{server.url}/api/v1/overland/batches"
        upload = {"format": "overland", "token_file": str(token)}
        sent = drive_to(url, tmp_path, backlog, cut_after=CUT_AFTER["overland"], **upload)
    stored = sorted(
        dawarich.points.values(), key=lambda point: str(point["properties"]["timestamp"])
    )
    assert stored == features(sent)
    assert len(stored) == FIXES


def test_phonetrack(tmp_path: Path, backlog: Path) -> None:
    phonetrack = PhoneTrack("0123456789abcdef0123456789abcdef")
    with Server(phonetrack, latency_s=0.002) as server:
        url = (
            f"{server.url}/index.php/apps/phonetrack/log/overland/{next(iter(phonetrack.points))}/x"
        )
        sent = drive_to(url, tmp_path, backlog, cut_after=CUT_AFTER["overland"], format="overland")
    (points,) = phonetrack.points.values()
    times = [point["properties"]["timestamp"] for point in points]
    assert sorted(set(times)) == [fix["time"] for fix in sent]
    assert len(times) - FIXES <= 2 * 1000  # what had no answer comes twice, and is stored twice
    assert {point["device"] for point in points} == {"van-07"}
