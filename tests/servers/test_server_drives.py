"""A drive to each server, with two cuts and a kill of server and agent, is read back equal."""

from pathlib import Path

import pytest
from destinations import (
    DESTINATIONS,
    PHP,
    TOKEN,
    BehindCaddy,
    BehindNginx,
    ClickHouse,
    DawarichStandIn,
    Destination,
    Django,
    FastAPI,
    Flask,
    HomeAssistant,
    HomeAssistantGPSLogger,
    InfluxDB,
    RealRecorder,
    TraccarBehindNginx,
    equal,
    seen_once,
)
from drives import FIXES, drive_to
from judge import audit
from once import mostly_once
from rig import simulated, started, stats, write_config
from standins import Compass, Recorder, Server
from uploading import Uploading

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.lab.endpoint import Endpoint

# Each format, each proxy, and each server that is written in Python.
FIRST: tuple[type[Destination], ...] = (
    *(PHP, Flask, FastAPI, Django, BehindNginx, BehindCaddy),
    *(InfluxDB, ClickHouse, TraccarBehindNginx, RealRecorder),
    *(HomeAssistantGPSLogger, DawarichStandIn),
)
LATER = [kind for kind in DESTINATIONS if kind not in FIRST]
ALIKE = pytest.mark.once("another server for requests that one on every Python gets")


@pytest.mark.parametrize(
    "kind", mostly_once([*FIRST, *LATER], len(FIRST), ALIKE), ids=lambda kind: kind.__name__
)
def test_a_drive_is_read_back_equal(kind: type[Destination], tmp_path: Path, backlog: Path) -> None:
    for name in ("server", "agent"):
        (tmp_path / name).mkdir()
    server = kind(tmp_path / "server")
    sent = drive_to(
        server.running,
        tmp_path / "agent",
        backlog,
        cut_after=server.cut_after,
        is_complete=server.is_complete,
        **server.upload,
    )
    assert len(sent) == FIXES
    with server.running() as url:
        stored = server.stored(url)
    assert equal(server, sent, stored)
    assert len(stored) - len(seen_once(stored)) <= server.repeats
    names = [(row["stream"], row["seq"]) for row in stored if "stream" in row and "seq" in row]
    if names:  # the server keeps the names, so it can be audited
        with AckQueue(tmp_path / "agent" / "queue.db") as queue:
            queue.shared.ledger.streams.reopen(1, queue.last_row())
            said = audit(queue.accounts()[0], names)
        assert said["complete"]
        assert sum(stream["expected"] for stream in said["streams"]) == FIXES


def test_the_recorder_keeps_up_with_a_receiver(tmp_path: Path) -> None:
    """A receiver ten times faster than most; each answer takes half of the time between fixes."""
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


def test_the_reference_endpoint_earns_gzip_with_its_first_answer(tmp_path: Path) -> None:
    endpoint = Endpoint("127.0.0.1:0", tmp_path / "received.db")
    with endpoint:
        uploading = Uploading(tmp_path, endpoint.url, "native")
        uploading.put(500)
        assert uploading.work() is None
        sent = uploading.uploader.status().sent_bytes
        assert endpoint.count() == 500
        uploading.close()
    # 64 fixes plain, the rest compressed: a plain fix takes more than 60 bytes.
    assert sent < 64 * 120 + 436 * 40


def test_what_a_server_cannot_take_is_held_and_nothing_is_lost(tmp_path: Path) -> None:
    """Compass answers 200 to a wrong token; Home Assistant's GPSLogger needs a form."""
    with Server(Compass(TOKEN)) as server:
        made = Uploading(tmp_path, f"{server.url}/api/input?token=wrong", "overland")
        made.put(5)
        assert made.work() is not None
        assert made.counts == (5, 0, 0, 0)
        assert "invalid token" in str(made.uploader.status().last_error)
        made.transport.close()
    home_assistant = HomeAssistant(tmp_path)
    with home_assistant.running() as url:
        reason = made.held_at(url.replace("owntracks?u=jane", "gpslogger"))
        assert reason.startswith("422: required key not provided")
        made.close()
        # It answers 200 to each webhook, to hide which webhooks exist.
        (tmp_path / "unknown").mkdir()
        unknown = Uploading(tmp_path / "unknown", url.replace("owntracks?", "x?"), "owntracks")
        unknown.put(5)
        assert unknown.work() is not None
        assert unknown.counts == (5, 0, 0, 0)
        assert "Home Assistant does not know the webhook" in str(
            unknown.uploader.status().last_error
        )
        unknown.close()
