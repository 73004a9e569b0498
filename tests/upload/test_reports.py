"""When the agent reports about itself, and that no fix suffers from a report."""

import logging
from pathlib import Path
from typing import Any

import pytest
from misbehaving import Act, Line, Request, Server, answer, hang_up, no_gzip, refusing
from upload.upload_parts import Bench

from telemetry_agent.model import Batch, Deferred, Delivered
from telemetry_agent.upload.formats import native
from telemetry_agent.upload.reports import AgentReports

BATCH = Batch(0, "0" * 16, "van-07", (), live=True)


class Said:
    """The agent's report about itself, set by the test."""

    def __init__(self) -> None:
        self.words: tuple[str, ...] = ("3d", "ok", "")
        self.asked = 0

    def fields(self) -> dict[str, object]:
        self.asked += 1
        return {"receiver": self.words[0], "number": self.asked}


def reports(said: Said, now_s: float = 0.0, heartbeat_s: float = 900.0) -> AgentReports:
    name = (BATCH.stream, BATCH.device)
    return AgentReports(name, lambda: said.words, said.fields, native.encode, now_s, heartbeat_s)


def tell(schedule: AgentReports, now_s: float, *, taken: bool = True) -> float:
    schedule.encode(BATCH, "none")
    return schedule.ended(now_s, Delivered() if taken else Deferred("503"))


# The schedule


def test_the_first_rides_at_once_and_goes_alone_after_a_while() -> None:
    schedule = reports(Said(), now_s=100.0)
    assert schedule.due(100.0)
    assert schedule.alone_in_s(100.0) == 10.0
    assert schedule.alone_in_s(110.0) == 0.0


def test_without_a_change_each_heartbeat() -> None:
    schedule = reports(Said())
    tell(schedule, 10.0)
    assert not schedule.due(909.0)
    assert schedule.alone_in_s(909.0) == 1.0
    assert schedule.due(910.0)
    assert schedule.alone_in_s(910.0) == 0.0


def test_a_change_rides_at_once_and_goes_alone_once_a_minute_at_most() -> None:
    said = Said()
    schedule = reports(said)
    tell(schedule, 10.0)
    said.words = ("no-fix", "ok", "OPEN")
    assert schedule.due(11.0)
    assert schedule.alone_in_s(11.0) == 59.0
    assert schedule.alone_in_s(500.0) == 0.0
    said.words = ("3d", "ok", "")  # back before anything was reported
    assert not schedule.due(12.0)


def test_a_change_does_not_put_off_the_heartbeat() -> None:
    said = Said()
    schedule = reports(said, heartbeat_s=30.0)
    tell(schedule, 10.0)
    said.words = ("no-fix", "ok", "OPEN")
    assert schedule.alone_in_s(11.0) == 29.0


def test_what_is_told_are_the_words_of_the_report_that_went() -> None:
    said = Said()
    schedule = reports(said)
    schedule.encode(BATCH, "none")
    said.words = ("silent", "ok", "")
    schedule.ended(10.0, Delivered())
    assert schedule.due(11.0)


def test_a_receiver_that_wavers_costs_a_request_a_minute() -> None:
    said = Said()
    schedule = reports(said)
    sent = 0
    for second in range(600):
        said.words = (("3d", "no-fix")[second % 2], "ok", "")
        if schedule.alone_in_s(second) == 0:
            tell(schedule, second)
            sent += 1
    assert sent == 10


def test_after_failures_the_wait_grows_up_to_the_heartbeat() -> None:
    schedule = reports(Said())
    now_s, waits = 10.0, []
    for _ in range(6):
        next_s = tell(schedule, now_s, taken=False)
        assert not schedule.due(next_s - 1)
        waits.append(schedule.alone_in_s(now_s))
        assert waits[-1] == next_s - now_s
        now_s = next_s
    assert waits == [60, 120, 240, 480, 900, 900]
    for _ in range(2000):  # three weeks without the network
        next_s = tell(schedule, now_s, taken=False)
    assert next_s == now_s + 900
    tell(schedule, now_s)
    assert tell(schedule, now_s, taken=False) == now_s + 60


def test_the_return_of_the_network_ends_a_wait() -> None:
    schedule = reports(Said())
    tell(schedule, 10.0, taken=False)
    schedule.network_returned()
    assert schedule.alone_in_s(20.0) == 0.0


# Through the uploader


def report_bench(server: Server, folder: Path, **policy: Any) -> tuple[Bench, Said]:
    made = Bench(server, folder, **policy)
    said = Said()
    made.uploader._reports = reports(said, made.clock.now_s)
    return made, said


def fixes_and_report(request: Request) -> tuple[int, bool]:
    return len(request.json["fixes"]), "agent" in request.json


def test_it_rides_with_fixes_once_all_goes_well(tmp_path: Path) -> None:
    with Server() as server:
        made, said = report_bench(server, tmp_path, max_batch=10)
        made.put_backlog(30)
        made.work()
        assert [fixes_and_report(r) for r in server.requests] == [
            (10, False),
            (10, True),
            (10, False),
        ]
        made.put(10)
        made.work()
        said.words = ("2d", "ok", "")
        made.put(10)
        made.work()
        assert [fixes_and_report(r) for r in server.requests[3:]] == [(10, False), (10, True)]
        assert server.requests[-1].json["agent"]["receiver"] == "2d"
        made.close()


def test_a_time_out_with_a_report_shows_nothing_about_the_size(tmp_path: Path) -> None:
    with Server() as server:
        made, _ = report_bench(server, tmp_path, timeout_s=3.0)

        def run(line: Line, request: Request) -> None:
            if "agent" in request.json:  # a path that does not carry larger bodies
                made.clock.advance(5)
                line.hang()
            line.server.take(request)
            line.reply()

        server.then = Act(run)
        made.put_backlog(300)
        made.work_for(30)
        sent = [fixes_and_report(r) for r in server.requests]
        assert sent[:3] == [(16, False), (32, True), (32, False)]
        assert sent[3:] == [(32, False), (64, False), (128, False), (28, False)]


def test_a_413_to_a_batch_with_a_report_shows_nothing_about_the_size(tmp_path: Path) -> None:
    with Server() as server:
        made, _ = report_bench(server, tmp_path, max_batch=10)

        def run(line: Line, request: Request) -> None:
            if "agent" in request.json:
                line.reply(413)
            else:
                line.server.take(request)
                line.reply()

        server.then = Act(run)
        made.put_backlog(40)
        made.work()
        sent = [fixes_and_report(r) for r in server.requests]
        assert sent == [(10, False), (10, True), (10, False), (10, False), (10, False)]
        made.close()


def test_without_fixes_it_goes_alone_with_a_key_of_its_own(tmp_path: Path) -> None:
    with Server() as server:
        made, _ = report_bench(server, tmp_path)
        assert made.work() == 10.0
        made.work_for(1000)
        assert [fixes_and_report(r) for r in server.requests] == [(0, True)] * 2
        assert server.requests[0].json["stream"] == BATCH.stream
        keys = {request.headers["idempotency-key"] for request in server.requests}
        assert len(keys) == 2
        status = made.uploader.status()
        assert (status.delivered, status.last_delivery_s) == (0, None)
        assert made.state == "ok"
        made.close()


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500])
def test_an_endpoint_that_refuses_reports_gets_every_fix(status: int, tmp_path: Path) -> None:
    """A refused report causes neither dead letters nor a hold, and it is not a witness."""

    def run(line: Line, request: Request) -> None:
        if "agent" in request.json:
            line.reply(status, "no such field")
        else:
            line.server.take(request)
            line.reply()

    with Server(then=Act(run)) as server:
        made, _ = report_bench(server, tmp_path, backoff_max_s=60.0)
        began_s = made.clock.now_s
        for _ in range(40):
            made.put(1)
            made.work_for(150)
        assert len(server.ledger) == 40
        assert made.counts == (0, 0, 40, 0)
        assert made.state == "ok"
        refused = sum("agent" in request.json for request in server.requests)
        assert 4 < refused <= 5 + (made.clock.now_s - began_s) / 900
        made.close()


def test_a_refused_report_alone_holds_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Server(answer(401), answer(400)) as server:
        made, _ = report_bench(server, tmp_path)
        made.work_for(100)
        assert len(server.requests) == 2
        assert made.state == "ok"
        made.put(1)
        made.work_for(20)
        assert made.counts == (0, 0, 1, 0)
        made.close()
    assert [record.getMessage() for record in caplog.records] == [
        "the endpoint does not accept reports without fixes (401 Unauthorized)"
    ]


def test_a_report_is_no_witness(tmp_path: Path) -> None:
    """The endpoint refuses everything but reports, so no fix is at fault."""

    def run(line: Line, request: Request) -> None:
        line.reply(400 if request.names else 200)

    with Server(then=Act(run)) as server:
        made, _ = report_bench(server, tmp_path)
        made.work_for(30)
        made.put(8)
        made.work_for(3000)
        assert made.state == "held"
        assert made.counts == (8, 0, 0, 0)
        made.close()


def test_a_report_that_finds_no_network_tells_the_state_and_delays_no_fix(tmp_path: Path) -> None:
    with Server(hang_up()) as server:
        made, _ = report_bench(server, tmp_path, flush_every_s=1.0)
        made.clock.advance(10)
        made.work()
        assert made.state == "unreachable"
        assert made.uploader.status().next_attempt_s is not None
        made.put(1)
        assert made.work() == 1.0
        made.clock.advance(1.0)
        made.work()
        assert made.counts == (0, 0, 1, 0)
        assert made.state == "ok"
        made.close()


def test_an_imposed_wait_is_kept_by_reports_too(tmp_path: Path) -> None:
    with Server(answer(429, headers={"Retry-After": "1000"})) as server:
        made, _ = report_bench(server, tmp_path)
        made.put_backlog(1)
        made.work_for(900)
        assert len(server.requests) == 1
        made.work_for(200)
        assert made.counts == (0, 0, 1, 0)
        made.close()


def test_a_wait_that_was_imposed_on_a_report_is_kept_by_fixes_whatever_the_network_does(
    tmp_path: Path,
) -> None:
    with Server(answer(429, headers={"Retry-After": "1000"})) as server:
        made, _ = report_bench(server, tmp_path)
        made.clock.advance(10)
        assert made.work() == 1001
        assert (len(server.requests), made.state) == (1, "waiting")
        made.put(1)
        made.uploader.network_returned(0)
        made.work_for(900)
        assert len(server.requests) == 1
        made.work_for(200)
        assert made.counts == (0, 0, 1, 0)
        made.close()


def test_reports_go_plain_until_gzip_was_taken(tmp_path: Path) -> None:
    with Server(then=no_gzip(415)) as server:
        made, _ = report_bench(server, tmp_path, compression="gzip")
        made.work_for(20)
        made.put_backlog(20)
        made.work_for(1000)
        reports = [request for request in server.requests if not request.names]
        assert reports
        assert all("content-encoding" not in request.headers for request in reports)
        assert made.counts == (0, 0, 20, 0)
        made.close()


def test_a_bad_fix_is_found_with_reports_on(tmp_path: Path) -> None:
    with Server(then=refusing({13})) as server:
        made, _ = report_bench(server, tmp_path, max_batch=20)
        made.put_backlog(40)
        made.work_among_live(5)
        assert made.dead_seqs == {13}
        assert made.counts == (0, 0, 44, 1)
        made.close()


# Urgent fixes


def test_haste_sends_fresh_fixes_without_company(tmp_path: Path) -> None:
    with Server() as server:
        made = Bench(server, tmp_path)
        haste = False
        made.uploader._selection._urgent = lambda: haste
        made.put(1)
        assert made.work() == 10.0
        haste = True
        made.work()
        assert made.counts == (0, 0, 1, 0)
        made.close()


def test_hurry_cuts_a_backoff_but_not_what_the_endpoint_asked(tmp_path: Path) -> None:
    later = answer(503, headers={"Retry-After": "1000"})
    with Server(answer(503), answer(401), later) as server:
        made = Bench(server, tmp_path, backoff_max_s=300.0)
        made.put_backlog(1)
        made.work()
        for requests in (2, 3, 3):
            made.uploader.hurry()
            made.work()
            assert len(server.requests) == requests
        assert made.uploader.status().waits == 3
        made.clock.advance(1001)
        made.work()
        assert made.counts == (0, 0, 1, 0)
        made.close()


def test_each_step_is_told(tmp_path: Path) -> None:
    with Server() as server:
        made = Bench(server, tmp_path)
        seen: list[int] = []
        made.uploader._on_step = lambda: seen.append(made.queue.stats().acked)
        made.put_backlog(1)
        made.work()
        assert seen == [1, 1]
        made.close()
