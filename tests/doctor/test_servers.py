"""How each server refuses, and what the doctor reports."""

import contextlib
import json
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench import Bench, answers
from standins import Asked, Dawarich, PhoneTrack, Recorder, Said, Server, Traccar

from telemetry_agent import __version__
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.daemon.commands import queue_commands
from telemetry_agent.doctor.findings import Finding
from telemetry_agent.lab.endpoint import Endpoint
from telemetry_agent.tasks import Bell


def asked(
    bench: Bench, answer: Callable[[Asked], Said | None], path: str, *, send: bool, **upload: Any
) -> tuple[Finding, Finding]:
    server = bench.cleanup.enter_context(Server(answer))
    bench.url = server.url + path
    bench.upload = {"compression": "none", **upload}
    if send and not bench.queue.exists():
        bench.recorded(1)
    found = bench.told(send=send)
    return found["authentication"], found["answer"]


def test_traccar_is_not_asked_for_a_device_unless_a_position_is_sent(bench: Bench) -> None:
    traccar = Traccar("van-07")
    _, answer = asked(bench, traccar, "/", send=False, format="osmand")
    assert answer.verdict == "warn"
    assert "400, Traccar's answer to a request without a device" in answer.said
    assert (
        answer.remedy == "`sudo telemetry-agent doctor --send` sends the newest recorded position"
    )
    assert traccar.positions == []


@pytest.mark.parametrize("known", [True, False])
def test_traccar_with_a_position(bench: Bench, known: bool) -> None:
    traccar = Traccar(*(["van-07"] if known else []))
    _, answer = asked(bench, traccar, "/", send=True, format="osmand")
    if known:
        assert (answer.verdict, answer.said) == ("pass", "200: a position was accepted")
        # The position was recorded, and it is a real one.
        assert [round(p["lat"], 1) for p in traccar.positions] == [48.1]
    else:
        assert (answer.verdict, answer.said) == (
            "fail",
            "400: the server does not know the device van-07",
        )
        assert "add a device with the identifier van-07 in Traccar" in answer.remedy


def test_the_page_at_the_root_is_asked_for_without_a_secret(bench: Bench, tmp_path: Path) -> None:
    requests: list[Asked] = []

    def refuse(request: Asked) -> Said:
        requests.append(request)
        return Said(404)

    (tmp_path / "token").write_text("a-token")
    asked(bench, refuse, "/fixes", send=False, token_file=str(tmp_path / "token"))
    (root,) = [request for request in requests if request.path == "/"]
    assert "a-token" not in str(root.headers)
    others = [request for request in requests if request.path != "/"]
    assert others
    assert all("a-token" in str(request.headers) for request in others)


def test_traccar_knows_a_device_by_the_name_that_was_sent(bench: Bench) -> None:
    bench.device = "van-08"  # renamed after it recorded as van-07
    _, answer = asked(bench, Traccar(), "/", send=True, format="osmand")
    assert "add a device with the identifier van-07 in Traccar" in answer.remedy


def test_traccar_knows_a_device_by_the_identifier_in_the_url(bench: Bench) -> None:
    _, answer = asked(bench, Traccar("van-07"), "/?id=8613", send=True, format="osmand")
    assert answer.said == "400: the server does not know the device 8613"
    assert "add a device with the identifier 8613 in Traccar" in answer.remedy


def test_without_a_recorded_position_none_is_sent(bench: Bench) -> None:
    traccar = Traccar("van-07")
    bench.url = bench.cleanup.enter_context(Server(traccar)).url
    bench.upload = {"format": "osmand"}
    assert bench.told(send=True)["answer"].verdict == "warn"
    assert traccar.positions == []


@pytest.mark.parametrize("running", [True, False])
def test_the_newest_recorded_position_is_sent_under_its_own_name(
    bench: Bench, tmp_path: Path, running: bool
) -> None:
    bench.recorded(3)
    bench.source = "/dev/none"  # the check works without a receiver
    with AckQueue(bench.queue) as queue:
        newest = queue.newest(1)[0]
        if running:
            bench.ask = answers(status=[STATUS], **{"queue newest": newest_of(queue)})
    endpoint = bench.cleanup.enter_context(Endpoint("127.0.0.1:0", tmp_path / "received.db"))
    bench.url = endpoint.url
    for _ in range(2):
        assert bench.told(send=True)["answer"].said == "200: a position was accepted"
    with contextlib.closing(sqlite3.connect(tmp_path / "received.db")) as database:
        stored = database.execute("SELECT stream, seq, lat FROM fixes").fetchall()
    assert stored == [(newest.stream, newest.seq, newest.fix.lat_e9 / 1e9)]


def newest_of(queue: AckQueue) -> list[dict[str, Any]]:
    """The answer of a running agent."""
    return list(queue_commands(queue)["queue newest"]({"limit": 100}, Bell()))


STATUS = {
    "running": True,
    "version": __version__,
    "pid": os.getpid(),
    "uptime_s": 7300.0,
    "receiver": {"source": "/dev/none", "state": "absent"},
    "upload": {"state": "ok", "last_delivery_s": 4.0},
    "queue": {"pending": 3, "delivered": 90, "dead_letters": {}, "lost": {}},
}


@pytest.mark.parametrize("send", [True, False])
def test_dawarich(bench: Bench, send: bool) -> None:
    dawarich, path = Dawarich("k3y-1"), "/api/v1/overland/batches"
    who, answer = asked(bench, dawarich, path, send=send, format="overland")
    assert who.verdict == "fail"
    assert who.remedy.startswith("put Dawarich's API key into upload.token_file")
    assert answer.verdict == "skip"
    who, answer = asked(bench, dawarich, f"{path}?api_key=k3y-1", send=send, format="overland")
    assert (who.verdict, answer.verdict) == ("pass", "pass")
    assert len(dawarich.points) == int(send)
    who, answer = asked(bench, dawarich, "/api/v2?api_key=k3y-1", send=send, format="overland")
    assert answer.verdict == "fail"
    assert "it ends in /api/v1/overland/batches for Dawarich" in answer.remedy


def test_phonetrack_and_the_recorder_say_yes_to_everything(bench: Bench) -> None:
    path = "/apps/phonetrack/log/overland/0123456789abcdef01234567/van"
    _, answer = asked(bench, PhoneTrack("other"), path, send=True, format="overland")
    assert answer.verdict == "pass"
    recorder = Recorder()
    _, answer = asked(bench, recorder, "/pub", send=False, format="owntracks")
    assert (answer.verdict, recorder.locations) == ("pass", {})
    _, answer = asked(bench, recorder, "/pub", send=True, format="owntracks")
    assert (answer.verdict, list(recorder.locations)) == ("pass", ["owntracks/owntracks/van-07"])
    _, answer = asked(bench, recorder, "/", send=True, format="owntracks")
    assert answer.verdict == "fail"
    assert "it ends in /pub for the Recorder" in answer.remedy


# The answers of the real servers, as in tests/servers.
_NO_DATABASE = b'{"error":"database not found: \\"none\\""}'


@pytest.mark.parametrize(
    ("format_", "said", "name", "words", "remedy"),
    [
        ("influx", Said(404, _NO_DATABASE), "answer", "database not found", "create the database"),
        ("influx", Said(401), "authentication", "401", "InfluxDB 2 and 3 need upload.token_file"),
        (
            "clickhouse",
            Said(404, b"Code: 60, e.displayText() = DB::Exception: Table gps.fixes doesn't exist."),
            "answer",
            "Table gps.fixes doesn't exist",
            "create the table as in docs/servers.md",
        ),
        (
            "clickhouse",
            Said(500, b"", {"X-ClickHouse-Exception-Code": "497"}),
            "authentication",
            "ClickHouse does not accept the user",
            "grant it INSERT",
        ),
    ],
)
def test_databases(
    bench: Bench, format_: str, said: Said, name: str, words: str, remedy: str
) -> None:
    found = asked(bench, lambda _: said, "/write?db=none", send=False, format=format_)
    (told,) = [finding for finding in found if finding.name == name]
    assert told.verdict == "fail"
    assert re.search(words, told.said), told
    assert told.remedy.startswith(remedy) or remedy in told.remedy


def test_a_native_endpoint_gets_one_position_when_that_is_asked(bench: Bench) -> None:
    bodies: list[Any] = []

    def answer(request: Asked) -> Said:
        try:
            bodies.append(json.loads(request.body))
        except ValueError:  # the two bodies that must be refused
            return Said(400)
        return Said()

    for send in (False, True):
        _, found = asked(bench, answer, "/", send=send)
        assert found.verdict == "pass"
    assert [len(body["fixes"]) for body in bodies] == [0, 1]


def says_yes_to_anything(asked: Asked) -> Said:
    return Said(200, b"ok")


def test_a_yes_to_nonsense_proves_nothing(bench: Bench) -> None:
    server = bench.cleanup.enter_context(Server(says_yes_to_anything))
    bench.url = server.url + "/"
    found = bench.told(send=True)["proof"]
    assert found.verdict == "warn"
    assert found.said == "the endpoint accepts nonsense (200): its acceptance proves nothing"


def test_an_endpoint_that_unpacks_and_refuses_proves_itself(bench: Bench, tmp_path: Path) -> None:
    endpoint = bench.cleanup.enter_context(Endpoint("127.0.0.1:0", tmp_path / "received.db"))
    bench.url = endpoint.url
    found = bench.told(send=True)["proof"]
    assert (found.verdict, found.said) == ("pass", "nonsense is refused, and gzip is unpacked")
    assert endpoint.count() <= 1


def test_it_tells_how_to_offer_gzip(bench: Bench) -> None:
    def strict(asked: Asked) -> Said:
        try:
            json.loads(asked.body)
        except ValueError:
            return Said(400)
        return Said(200)

    bench.url = bench.cleanup.enter_context(Server(strict)).url
    found = bench.told(send=True)["proof"]
    assert found.verdict == "pass"
    assert found.said.startswith(
        "nonsense is refused; requests stay plain: `Accept-Encoding: gzip` in an answer of the "
        "endpoint turns gzip on"
    )


@pytest.mark.parametrize(
    ("engine", "verdict"),
    [
        ("ReplacingMergeTree PARTITION BY x ORDER BY y SETTINGS index_granularity = 8192", "warn"),
        ("MergeTree ORDER BY y SETTINGS non_replicated_deduplication_window = 10000", "pass"),
        ("ReplicatedReplacingMergeTree('/a', '{replica}') ORDER BY y", "pass"),
        ("Distributed('fleet', 'gps', 'fixes', rand())", "pass"),
        ("", "pass"),  # the user may not read the system table
    ],
)
def test_clickhouse_is_asked_whether_its_table_knows_what_comes_again(
    bench: Bench, engine: str, verdict: str
) -> None:
    def answer(asked: Asked) -> Said:
        if asked.body.startswith(b"SELECT engine_full FROM system.tables"):
            assert asked.query == [("database", "gps")]
            return Said(200, engine.encode())
        return Said(200)

    _, found = asked(bench, answer, "/?database=gps", send=False, format="clickhouse")
    assert found.verdict == verdict
