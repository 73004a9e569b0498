"""How each server says no, and what the doctor makes of it."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import Bench
from standins import Asked, Dawarich, PhoneTrack, Recorder, Said, Server, Traccar

from telemetry_agent.doctor.findings import Finding
from telemetry_agent.lab.endpoint import Endpoint


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with contextlib.ExitStack() as cleanup:
        yield Bench(tmp_path, cleanup)


def asked(
    bench: Bench, answer: Callable[[Asked], Said | None], path: str, *, send: bool, **upload: Any
) -> tuple[Finding, Finding]:
    server = bench.cleanup.enter_context(Server(answer))
    bench.url = server.url + path
    bench.upload = {"compression": "none", **upload}
    found = bench.told(send=send)
    return found["authentication"], found["answer"]


def test_traccar_is_not_asked_for_a_device_unless_a_position_is_sent(bench: Bench) -> None:
    traccar = Traccar("van-07")
    _, answer = asked(bench, traccar, "/", send=False, format="osmand")
    assert answer.verdict == "warn"
    assert "400 where no device is named, as Traccar does" in answer.said
    assert answer.remedy == "`telemetry-agent doctor --send` sends one position"
    assert traccar.positions == []


@pytest.mark.parametrize("known", [True, False])
def test_traccar_with_a_position(bench: Bench, known: bool) -> None:
    traccar = Traccar(*(["van-07"] if known else []))
    _, answer = asked(bench, traccar, "/", send=True, format="osmand")
    if known:
        assert (answer.verdict, answer.said) == ("pass", "200: a position was taken")
        # It is the receiver's, not one of nowhere.
        assert [round(p["lat"], 1) for p in traccar.positions] == [48.1]
    else:
        assert (answer.verdict, answer.said) == (
            "fail",
            "400: the server does not know the device van-07",
        )
        assert "add a device with the identifier van-07 in Traccar" in answer.remedy


def test_without_a_position_of_the_receiver_none_is_sent(bench: Bench) -> None:
    bench.source = f"file://{bench.record(b'$GPTXT,01,01,02,ANTSTATUS=OK*3B' + bytes([13, 10]))}"
    traccar = Traccar("van-07")
    asked(bench, traccar, "/", send=True, format="osmand")
    assert traccar.positions == []


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
    assert (answer.verdict, answer.remedy) == (
        "fail",
        "correct upload.url: it ends in /pub for the Recorder",
    )


# What the real ones say; tests/servers has them.
_NO_DATABASE = b'{"error":"database not found: \\"none\\""}'


@pytest.mark.parametrize(
    ("format_", "said", "name", "words", "remedy"),
    [
        ("influx", Said(404, _NO_DATABASE), "answer", "database not found", "create the database"),
        ("influx", Said(401), "authentication", "401", "InfluxDB 2 and 3 want upload.token_file"),
        (
            "clickhouse",
            Said(404, b"Code: 60, e.displayText() = DB::Exception: Table gps.fixes doesn't exist."),
            "answer",
            "Table gps.fixes doesn't exist",
            "create the table as docs/servers.md has it",
        ),
        (
            "clickhouse",
            Said(500, b"", {"X-ClickHouse-Exception-Code": "497"}),
            "authentication",
            "ClickHouse does not let us in",
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
    assert found.said == "the endpoint answers 200 to nonsense: its yes proves nothing"


def test_an_endpoint_that_unpacks_and_refuses_proves_itself(bench: Bench, tmp_path: Path) -> None:
    endpoint = bench.cleanup.enter_context(Endpoint("127.0.0.1:0", tmp_path / "received.db"))
    bench.url = endpoint.url
    found = bench.told(send=True)["proof"]
    assert (found.verdict, found.said) == ("pass", "nonsense is refused, and gzip is unpacked")
    assert endpoint.count() <= 1


@pytest.mark.parametrize(
    "said",
    [
        Said(301, headers={"Location": "https://gps.example.com/v1/fixes"}),
        Said(400, b"<center>The plain HTTP request was sent to HTTPS port</center>"),  # nginx
    ],
)
def test_an_endpoint_that_wants_https(bench: Bench, said: Said) -> None:
    server = bench.cleanup.enter_context(Server(lambda _: said))
    bench.url = server.url + "/"
    found = bench.told(send=False)["answer"]
    assert (found.verdict, found.said) == ("fail", f"{said.status}: the endpoint wants https")
    assert found.remedy.startswith("write https:// in upload.url")
