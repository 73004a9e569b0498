"""Formats with one fix per request, through the real transport and the real queue."""

import contextlib
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from once import mostly_once
from standins import Asked, Recorder, Said, Server, Traccar
from uploading import DEVICE, FIX, Uploading

from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.interfaces import FormatName


@contextlib.contextmanager
def bench(
    folder: Path,
    answer: Callable[[Asked], Said | bytes | None],
    name: FormatName = "osmand",
    path: str = "",
) -> Iterator[Uploading]:
    with Server(answer, latency_s=0.001) as server:
        made = Uploading(folder, server.url + path, name)
        try:
            yield made
        finally:
            made.close()


def test_a_backlog_arrives_once_and_in_its_order(tmp_path: Path) -> None:
    traccar = Traccar(DEVICE)
    with bench(tmp_path, traccar) as b:
        b.put(700)
        assert b.work() is None
        assert b.counts == (0, 0, 700, 0)
    times = [position["time_ms"] for position in traccar.positions]
    assert times == [FIX.time_ms + 1000 * n for n in range(700)]


def test_a_device_that_traccar_does_not_know_holds_and_fills_no_dead_letters(
    tmp_path: Path,
) -> None:
    traccar = Traccar("another")
    with bench(tmp_path, traccar) as b:
        b.put(300)
        assert b.work() == 120.0
        status = b.uploader.status()
        assert status.state == "held"
        assert status.last_error == f"400: the server does not know the device {DEVICE}"
        assert b.counts == (300, 0, 0, 0)
        traccar.devices.add(DEVICE)
        b.clock.advance(300)
        assert b.work() is None
        assert b.counts == (0, 0, 300, 0)


def test_a_proxy_in_front_of_traccar_is_not_taken_for_its_answer_to_an_unknown_device(
    tmp_path: Path,
) -> None:
    with bench(tmp_path, lambda _: Said(413)) as b:
        b.put(3)
        assert b.work() == 120.0
        status = b.uploader.status()
        # The phrase differs between versions of Python.
        assert (status.state, status.last_error) == ("held", f"413 {HTTPStatus(413).phrase}")


def test_a_device_that_is_taken_away_meanwhile_holds_too(tmp_path: Path) -> None:
    traccar = Traccar(DEVICE)

    def answer(asked: Asked) -> Said | None:
        if len(traccar.positions) >= 250:
            traccar.devices.clear()
        return traccar(asked)

    with bench(tmp_path, answer) as b:
        b.put(600)
        assert b.work() == 120.0
        assert b.counts == (350, 0, 250, 0)


@pytest.mark.parametrize("name", ["osmand", "owntracks", "gpslogger"])
@pytest.mark.parametrize(
    ("body", "counts", "waits"),
    [
        (b'{"retry":[5]}', (1, 0, 15, 0), True),
        (b'{"retry":[1,5]}', (2, 0, 14, 0), True),
        (b'{"rejected":[{"seq":5}]}', (0, 0, 15, 1), False),
    ],
)
def test_an_answer_may_keep_or_refuse_its_fix_by_name(
    tmp_path: Path, name: FormatName, body: bytes, counts: tuple[int, ...], waits: bool
) -> None:
    with bench(tmp_path, lambda _: Said(200, body), name) as b:
        b.put(16)
        assert (b.work() is not None) == waits
        assert b.counts == counts


def test_answers_beside_one_too_many_acknowledge_nothing(tmp_path: Path) -> None:
    traccar = Traccar(DEVICE)
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    def answer(asked: Asked) -> bytes:
        traccar(asked)
        return ok * (2 if len(traccar.positions) == 16 else 1)

    with bench(tmp_path, answer) as b:
        b.put(16)
        assert b.work() is not None
        assert b.counts == (0, 16, 0, 0)
        b.clock.advance(300)
        assert b.work() is None
        assert b.counts == (0, 0, 16, 0)
        assert len(traccar.positions) == 32


def test_what_another_device_delivers_is_no_witness(tmp_path: Path) -> None:
    """A renamed device: the server knows the old name, which the backlog still uses."""
    with bench(tmp_path, Traccar("van-06")) as b:
        b.put(3, "van-07")
        b.put(40, "van-06")
        for _ in range(20):
            b.clock.advance(b.work() or 0)
        assert b.counts[3] == 0
        assert b.queue.stats().ready >= 3


@pytest.mark.parametrize("status", mostly_once([400, 401, 404], 2))
@pytest.mark.parametrize("recorded", [0, 5])
def test_a_device_that_was_renamed_waits_for_no_fix_under_its_old_name(
    tmp_path: Path, status: int, recorded: int
) -> None:
    traccar = Traccar("van-07")
    refused = 0

    def answer(asked: Asked) -> Said | None:
        nonlocal refused
        said = traccar(asked)
        if said is None or said.status == 200:
            return said
        refused += 1
        return Said(status)

    with bench(tmp_path, answer) as b:
        b.put(3000, "van-06")
        if recorded:
            b.put(recorded, "van-07")
        b.work()
        hour: list[float] = []
        for n in range(recorded, 365):
            b.queue.put(FIX._replace(time_ms=FIX.time_ms + 1000 * n), "van-07")
            now_s = b.clock.monotonic_s()
            while b.clock.monotonic_s() < now_s + 10:
                wait_s = b.work()
                b.clock.advance(min(wait_s or 10, now_s + 10 - b.clock.monotonic_s()))
            b.work()
            hour.append(len(traccar.positions) - n - 1)
        # Each arrives within 10 s of its recording, and in order.
        assert set(hour) == {0}
        times = [position["time_ms"] for position in traccar.positions]
        assert times == [FIX.time_ms + 1000 * n for n in range(365)]
        # For each ``backoff_max`` of the hour: one refusal, or the number that puts the setup in
        # doubt.
        assert refused <= 31 * (1 if status != 400 else 6)
        assert b.counts == (3000, 0, 365, 0)
        said = b.uploader.status()
        assert (said.state, str(said.backlog_error)[:18]) == ("ok", f"device van-06: {status}")
        traccar.devices.add("van-06")
        b.clock.advance(120)
        assert b.work() is None
        assert b.counts == (0, 0, 3365, 0)
        assert b.uploader.status().backlog_error is None


def test_the_good_fixes_of_another_name_are_found_behind_bad_ones(tmp_path: Path) -> None:
    traccar = Traccar("van-06", "van-07")
    bad = {FIX.time_ms + 1000 * n for n in range(40)}

    def answer(asked: Asked) -> Said | None:
        refused = int(dict(asked.query)["timestamp"]) in bad
        return Said(400, b"bad position") if refused else traccar(asked)

    with bench(tmp_path, answer) as b:
        b.put(60, "van-06")
        for n in range(1, 61):
            b.queue.put(FIX._replace(time_ms=FIX.time_ms + 100_000 * n), "van-07")
            b.clock.advance(120)
            b.work()
        assert len(traccar.positions) == 80


def test_one_that_is_refused_among_others_becomes_a_dead_letter(tmp_path: Path) -> None:
    bad = {FIX.time_ms + 1000 * n for n in (1, 7, 8, 63, 299)}
    traccar = Traccar(DEVICE)

    def answer(asked: Asked) -> Said | None:
        refused = int(dict(asked.query)["timestamp"]) in bad
        return Said(400, b"bad position") if refused else traccar(asked)

    with bench(tmp_path, answer) as b:
        b.put(300)
        for _ in range(5):
            b.work()
            b.put(1)
        b.work()
        assert b.counts == (0, 0, 300, 5)
        assert b.reasons == {"400: bad position"}
    assert len(traccar.positions) == 300


def test_a_break_costs_nothing_that_had_its_answer(tmp_path: Path) -> None:
    traccar = Traccar(DEVICE)
    broken: list[Asked] = []

    def answer(asked: Asked) -> Said | None:
        if len(traccar.positions) == 90 and not broken:
            broken.append(asked)
            return None
        return traccar(asked)

    with bench(tmp_path, answer) as b:
        b.put(200)
        assert b.work() == 1.0
        ready, unack, acked, _ = b.counts
        assert acked == 90
        assert 1 <= unack <= 128
        assert ready + unack + acked == 200
        b.clock.advance(1)
        assert b.work() is None
        assert b.counts == (0, 0, 200, 0)
    assert len(traccar.positions) == 200


def test_later_is_heeded_and_what_was_taken_stays_taken(tmp_path: Path) -> None:
    traccar = Traccar(DEVICE)
    busy = [Said(503, b"", {"Retry-After": "7"})]

    def answer(asked: Asked) -> Said | None:
        if len(traccar.positions) == 50 and busy:
            return busy.pop()
        return traccar(asked)

    with bench(tmp_path, answer) as b:
        b.put(60)
        assert b.work() == 8.0
        assert b.uploader.status().last_error == "503 Service Unavailable"
        b.clock.advance(8)
        assert b.work() is None
        assert b.counts == (0, 0, 60, 0)
    assert len(traccar.positions) == 60


@pytest.mark.parametrize("name", ["osmand", "native"])
def test_a_peer_that_says_the_request_back_shows_no_secret(
    tmp_path: Path, name: FormatName
) -> None:
    token = "the-token-of-van-07"
    line = f"POST /?token={token} HTTP/1.1 {'x' * 10_000}\r\n\r\n".encode()
    with Server(lambda _: line) as server:
        made = Uploading(tmp_path, server.url, name, Credentials({"X-Api-Key": token}))
        made.put(1)
        made.work()
        said = made.uploader.status().last_error or ""
        made.close()
    assert said.startswith("what came back is not HTTP")
    assert "?token=***" in said
    assert len(said) < 500


def test_a_refused_fix_that_could_not_be_sent_again_is_tried_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = str(FIX.time_ms + 3000)

    def answer(asked: Asked) -> Said:
        return Said(400 if dict(asked.query)["timestamp"] == refused else 200)

    with bench(tmp_path, answer) as b:
        b.put(10)
        b.uploader.step(b.clock.now_s)
        assert b.counts == (1, 0, 9, 0)
        with monkeypatch.context() as stalled:  # half of the time is over before the first request
            stalled.setattr(b.transport, "series", lambda *_, **__: (None, 0))
            b.uploader.step(b.clock.now_s)
        for day in range(1, 7):
            b.put(2, fix=FIX._replace(time_ms=FIX.time_ms + day * 86_400_000))
            b.work()
        assert b.counts == (0, 0, 21, 1)


@pytest.mark.parametrize("name", ["osmand", "overland", "owntracks", "influx"])
def test_a_fix_whose_time_is_in_doubt_is_not_sent(tmp_path: Path, name: FormatName) -> None:
    with bench(tmp_path, lambda _: Said(200, b'{"result":"ok"}'), name) as b:
        b.put(20, flagged={0, 5, 6, 19})
        assert b.work() is None
        assert b.counts == (0, 0, 16, 4)
        assert b.reasons == {"its time is in doubt, and this upload.format cannot carry that"}


def test_the_recorder_gets_one_location_after_the_other(tmp_path: Path) -> None:
    recorder = Recorder()
    with bench(tmp_path, recorder, "owntracks", "/pub?u=jane") as b:
        b.put(300)
        assert b.work() is None
        assert b.counts == (0, 0, 300, 0)
    stored = recorder.locations[f"owntracks/jane/{DEVICE}"]
    assert [said["tst"] for said in stored] == [FIX.time_ms // 1000 + n for n in range(300)]


def test_the_order_outlasts_a_server_that_is_away(tmp_path: Path) -> None:
    traccar = Traccar(DEVICE)
    away = [None] * 3

    def answer(asked: Asked) -> Said | None:
        return away.pop() if away and len(traccar.positions) >= 10 else traccar(asked)

    with bench(tmp_path, answer) as b:
        b.put(100)
        for _ in range(8):
            b.clock.advance(b.work() or 0)
        assert b.counts == (0, 0, 100, 0)
    times = [position["time_ms"] for position in traccar.positions]
    assert times == sorted(times)


def test_a_fix_on_which_the_server_breaks_off_does_not_block_the_others(tmp_path: Path) -> None:
    traccar = Traccar(DEVICE)

    def answer(asked: Asked) -> Said | None:
        return None if f"timestamp={FIX.time_ms}&" in asked.target else traccar(asked)

    with bench(tmp_path, answer) as b:
        b.put(100)
        for _ in range(12):
            b.clock.advance(b.work() or 0)
        assert len({position["time_ms"] for position in traccar.positions}) == 99
        assert b.counts[2:] == (99, 0)


def test_at_most_200_fixes_would_arrive_twice_if_the_agent_were_killed(tmp_path: Path) -> None:
    in_flight: list[int] = []

    def said(asked: Asked) -> Said:
        in_flight.append(b.queue.stats().in_flight)
        return Said()

    with bench(tmp_path, said) as b:
        b.put(1000)
        assert b.work() is None
        assert (len(in_flight), max(in_flight)) == (1000, 200)


def test_the_last_upload_keeps_the_order_too(tmp_path: Path) -> None:
    traccar = Traccar(DEVICE)
    with bench(tmp_path, traccar) as b:
        b.put(1)
        assert b.work() is None
        b.put(300)
        b.uploader.close()
        b.uploader.last_upload(3)
    times = [position["time_ms"] for position in traccar.positions[1:]]
    assert times == [FIX.time_ms + 1000 * n for n in range(len(times))]
    assert times
