"""Each row of the answer table, through the real transport and the real queue."""

import json
import logging
import threading
from pathlib import Path
from unittest import mock

import pytest
from fakes import AlwaysReachable
from misbehaving import (
    Act,
    Line,
    Request,
    Server,
    answer,
    at_most,
    hang,
    hang_up,
    refusing,
    reset,
    says,
)
from upload.upload_parts import BACKOFF_MAX_S, FakeWay, Journey, bench
from uploading import FIX

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.errors import StorageError
from telemetry_agent.tasks import Beat, run_loop
from telemetry_agent.upload.formats import native
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import UploadPolicy
from telemetry_agent.upload.uploader import Uploader

# The answer table, row by row


@pytest.mark.parametrize("status", [200, 201, 202, 204])
@pytest.mark.parametrize("body", ["", "{}", "ok"])
def test_delivered(tmp_path: Path, status: int, body: str) -> None:
    body = "" if status == 204 else body
    with bench(tmp_path, answer(status, body)) as b:
        b.put_backlog(3)
        assert b.work() is None
        assert b.counts == (0, 0, 3, 0)
        status_now = b.uploader.status()
        assert (status_now.state, status_now.delivered, status_now.requests) == ("ok", 3, 1)
        assert status_now.sent_bytes == b.transport.dialer.sent_bytes > 0


def test_delivered_but_for_names(tmp_path: Path) -> None:
    said = '{"rejected":[{"seq":1,"reason":"no lane"},{"seq":77}],"retry":[2]}'
    with bench(tmp_path, answer(200, said)) as b:
        b.put_backlog(3)
        b.step()
        assert b.counts == (1, 0, 1, 1)
        assert b.queue.stats().dead_letters == {"no lane": 1}
        assert b.uploader.status().unknown_names == 1
        assert b.work() is None
        assert b.counts == (0, 0, 2, 1)


def test_an_answer_that_delivers_nothing_backs_off(tmp_path: Path) -> None:
    with bench(tmp_path, then=answer(200, '{"retry":[1,2]}', store=False)) as b:
        b.put_backlog(2)
        assert [b.step(), b.clock.advance(1) and b.step()] == [1, 2]
        assert b.state == "waiting"
        assert b.counts == (2, 0, 0, 0)


def test_a_portal_is_waited_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    page = answer(200, "<html>Welcome", store=False)
    with bench(tmp_path, page, page, answer(302, headers={"Location": "http://portal/"})) as b:
        b.put_backlog(2)
        for expected_s in (1, 2, 4):
            assert b.step() == expected_s
            assert b.state == "portal"
            assert b.counts == (2, 0, 0, 0)
            b.clock.advance(expected_s)
        assert b.work() is None
        assert b.state == "ok"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "after 7 s (failures: 3)" in caplog.messages[1]


@pytest.mark.parametrize("fault", [answer(200, "<html>", store=False), answer(301)])
def test_somebody_else_behind_verified_tls_is_a_wrong_url(tmp_path: Path, fault: Act) -> None:
    with bench(tmp_path, fault, tls=True) as b:
        b.put_backlog(2)
        assert b.work() == BACKOFF_MAX_S
        assert b.state == "held"
        assert "upload.url is wrong" in (b.uploader.status().last_error or "")
        b.clock.advance(BACKOFF_MAX_S)
        assert b.work() is None
        assert b.counts == (0, 0, 2, 0)


@pytest.mark.parametrize(
    "fault",
    [
        answer(200, "{", {"Content-Type": "application/json"}, store=False),
        answer(203, store=False),
        answer(206, store=False),
    ],
)
def test_unclear_acknowledges_nothing(tmp_path: Path, fault: Act) -> None:
    with bench(tmp_path, fault) as b:
        b.put_backlog(2)
        assert b.work() == 1
        assert b.state == "waiting"
        assert b.counts == (2, 0, 0, 0)


@pytest.mark.parametrize("status", [302, 307, 308])
def test_a_redirect_is_never_followed(tmp_path: Path, status: int) -> None:
    with bench(tmp_path) as b:
        b.server.script(answer(status, headers={"Location": b.server.url + "/else"}))
        b.put_backlog(2)
        assert b.work() == 1
        assert len(b.server.requests) == 1
        assert "/v1/fixes/else" in (b.uploader.status().last_error or "")


@pytest.mark.parametrize(
    "status", [401, 402, 403, 404, 405, 406, 407, 410, 411, 415, 418, 421, 426, 428, 431, 451]
)
def test_a_wrong_set_up_holds_everything(
    tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with bench(tmp_path, then=answer(status, "no"), compression="none") as b:
        b.put_backlog(20)
        for attempt in range(1, 4):
            assert b.work() == BACKOFF_MAX_S
            assert (b.state, len(b.server.requests)) == ("held", attempt)
            b.clock.advance(BACKOFF_MAX_S)
        assert b.counts == (20, 0, 0, 0)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        b.server.then = answer()
        assert b.work() is None
        assert b.counts == (0, 0, 20, 0)


@pytest.mark.parametrize("status", [408, 409, 423, 424, 425, 429, 500, 502, 503, 504])
def test_later_is_later(tmp_path: Path, status: int) -> None:
    with bench(tmp_path, *[answer(status)] * 11, compression="none") as b:
        b.put_backlog(2)
        waits = []
        for _ in range(11):
            waits.append(b.step())
            b.clock.advance(waits[-1] or 0)
        assert waits == [1, 2, 4, 8, 16, 32, 64, 120, 120, 120, 120]
        assert b.state == "waiting"
        assert b.counts == (2, 0, 0, 0)
        b.work_for(3600)
        assert b.counts == (0, 0, 2, 0)


def test_retry_after_is_obeyed_whatever_the_network_does(tmp_path: Path) -> None:
    with bench(tmp_path, answer(503, headers={"Retry-After": "120"})) as b:
        b.put_backlog(2)
        assert b.work() == 121  # not sooner, and spread over the agents that had the same answer
        b.uploader.network_returned(0)
        b.put(5)
        assert b.work() == 121
        b.clock.advance(120)
        assert b.work() == 1
        b.clock.advance(1)
        assert b.work() is None
        assert b.counts == (0, 0, 7, 0)


@pytest.mark.parametrize("fault", [reset(), reset(after_reading=True), hang_up()])
def test_no_answer_makes_the_rows_unack_and_they_are_resumed(tmp_path: Path, fault: Act) -> None:
    with bench(tmp_path, fault) as b:
        b.put_backlog(2)
        assert b.work() == 1
        assert b.state == "unreachable"
        was_sent = b.transport.dialer.sent_bytes > 0  # an early reset may come before that
        assert was_sent or not b.server.requests
        assert b.counts == ((0, 2, 0, 0) if was_sent else (2, 0, 0, 0))
        b.clock.advance(1)
        assert b.work() is None
        assert b.counts == (0, 0, 2, 0)


def test_the_network_cuts_a_backoff_short(tmp_path: Path) -> None:
    with bench(tmp_path, *[hang_up()] * 6) as b:
        b.put_backlog(2)
        for _ in range(6):
            b.clock.advance(b.work() or 0)
        b.server.script(hang_up())
        assert b.work() == 64
        b.put(1)
        assert b.work() == 64  # a put cannot end the wait
        b.uploader.network_returned(0)
        assert b.work() == 10  # for the live fix to share its batch
        assert b.counts[2] == 2
        b.clock.advance(2)
        b.work()
        assert b.state == "ok"


def test_no_attempt_while_the_way_is_closed_but_one_each_backoff_max(tmp_path: Path) -> None:
    way = FakeWay()
    with bench(tmp_path, hang_up(), way=way) as b:
        b.put_backlog(2)
        way.why = ("no-route", "no route to 192.0.2.1")
        assert b.work() == 1  # the first attempt, whatever the monitor reports
        assert len(b.server.requests) == 1
        b.clock.advance(1)
        assert b.work() == BACKOFF_MAX_S - 1
        assert (b.state, b.uploader.status().last_error) == ("no-route", "no route to 192.0.2.1")
        b.clock.advance(BACKOFF_MAX_S - 1)
        assert b.work() == BACKOFF_MAX_S
        assert len(b.server.requests) == 2
        assert b.state == "ok"
        assert way.heard == ["doubt", "answered"]


def test_the_return_of_the_network_resumes_at_once(tmp_path: Path) -> None:
    way = FakeWay()
    with bench(tmp_path, hang_up(), way=way) as b:
        b.put_backlog(2)
        b.work()
        way.why = ("unreachable", "connection refused")
        b.clock.advance(100)
        assert b.work() == BACKOFF_MAX_S - 100
        way.why = None
        b.uploader.network_returned(0)
        assert b.work() is None
        assert b.counts == (0, 0, 2, 0)


def test_a_closed_way_is_no_trouble_while_nothing_is_pending(tmp_path: Path) -> None:
    way = FakeWay()
    with bench(tmp_path, way=way) as b:
        b.put_backlog(1)
        assert b.work() is None
        way.why = ("no-route", "no route")
        assert b.work() == BACKOFF_MAX_S
        assert b.state == "ok"


def test_a_changed_network_drops_the_kept_connection(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        b.put_backlog(1)
        b.work()
        b.uploader.network_changed()
        b.put_backlog(1)
        b.work()
        assert b.server.connections == 2


def test_a_network_that_changes_at_the_beginning_of_a_step_stops_no_later_request(
    tmp_path: Path,
) -> None:
    with bench(tmp_path) as b:
        abort = b.transport.dialer.abort

        def abort_after_a_step() -> None:
            b.step()
            abort()

        with mock.patch.object(b.transport.dialer, "abort", abort_after_a_step):
            b.uploader.network_changed()
        b.put_backlog(1)
        b.work()
        assert b.counts == (0, 0, 1, 0)


def test_a_network_that_changes_while_a_crashed_uploader_is_built_again_stops_no_request(
    tmp_path: Path,
) -> None:
    with Server() as server:
        journey = Journey(server, tmp_path)
        crashed = journey.uploader
        crashed.close()
        journey.uploader = journey.start()
        crashed.network_changed()  # the monitor still uses the old uploader
        journey.drive(60)
        journey.close()
        assert server.ledger
        assert journey.uploader.status().failed_requests == 0


def test_a_changed_network_ends_the_request_that_hangs_in_the_old_one(tmp_path: Path) -> None:
    way = FakeWay()
    with bench(tmp_path, hang(), way=way, timeout_s=3600.0) as b:
        b.put_backlog(1)
        hanging = threading.Thread(target=b.step)
        hanging.start()
        b.server.wait_for(lambda server: bool(server.requests))
        way.why = ("no-route", "no route to 192.0.2.1")
        b.uploader.network_changed()
        hanging.join(60)
        assert not hanging.is_alive()
        assert b.counts == (0, 1, 0, 0)
        assert b.state == "ok"
        assert way.heard == []
        b.work()
        assert b.counts == (0, 1, 0, 0)
        assert b.state == "no-route"
        way.why = None
        b.uploader.network_returned(0)
        b.work()
        assert b.counts == (0, 0, 1, 0)


@pytest.mark.parametrize("late", [False, True])
def test_what_the_server_stored_without_answering_is_sent_again_under_its_own_key(
    tmp_path: Path, late: bool
) -> None:
    with bench(tmp_path, timeout_s=3.0) as b:

        def answers_late(line: Line, request: Request) -> None:
            b.clock.advance(5)
            line.server.take(request)
            line.hang()

        b.server.script(Act(answers_late) if late else hang_up(store=True))
        b.put_backlog(4)
        b.clock.advance(b.work() or 0)
        assert b.work() is None
        assert set(b.server.ledger.values()) == {2}
        keys = {request.headers["idempotency-key"] for request in b.server.requests}
        assert len(b.server.requests) == 2
        assert len(keys) == 1


# Refused


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("bad", [1, 10, 16])
def test_one_bad_fix_becomes_a_dead_letter_and_costs_little(
    tmp_path: Path, status: int, bad: int
) -> None:
    with bench(tmp_path, then=refusing({bad}, status), compression="none") as b:
        b.put_backlog(16)
        b.work_among_live(5)
        assert b.dead_seqs == {bad}
        assert b.counts == (0, 0, 20, 1)
        assert len(b.server.requests) <= 1 + 2 * 4 + 4 + 5 + 3
        assert b.state == "ok"


@pytest.mark.parametrize("live_first", [True, False])
@pytest.mark.parametrize("refusals", range(1, 14))
def test_after_a_hold_in_the_middle_of_a_search_uploads_go_on(
    tmp_path: Path, refusals: int, live_first: bool
) -> None:
    """No new fix comes, and the search may cover all pending fixes."""
    script = [answer(), *[answer(400)] * refusals, answer(401)]
    with bench(tmp_path, *script, live_first=live_first, compression="none") as b:
        b.put_backlog(1)
        b.work()
        b.put_backlog(40)
        b.work_for(2000)
        assert b.counts == (0, 0, 41, 0)


def test_a_500_in_the_middle_of_a_search_is_later_and_no_refusal(tmp_path: Path) -> None:
    with bench(tmp_path, answer(400), answer(500), then=refusing({3}), compression="none") as b:
        b.put_backlog(8)
        assert b.work() == 1
        assert (len(b.server.requests), b.counts) == (2, (8, 0, 0, 0))


@pytest.mark.parametrize("status", [500, 409])  # 409: INSERT found an existing row
def test_five_times_500_while_others_are_accepted_is_poison(tmp_path: Path, status: int) -> None:
    with bench(tmp_path, then=refusing({3}, status), max_batch=8, compression="none") as b:
        b.put_backlog(8)
        for _ in range(8):
            b.put(1)
            b.work_for(20)
        assert b.dead_seqs == {3}
        b.work_for(60)
        assert b.counts == (0, 0, 15, 1)


def test_a_backlog_that_gets_500_for_ever_delays_no_live_fix(tmp_path: Path) -> None:
    """For example, the oldest partition of the endpoint begins after the backlog."""
    with bench(tmp_path, then=refusing(set(range(1, 201)), 500), compression="none") as b:
        b.put_backlog(200)
        for _ in range(60):
            b.put(1)
            b.work_for(20)
            assert b.queue.backlog().live == 0


@pytest.mark.parametrize("live_first", [True, False])
@pytest.mark.parametrize("status", [502, 504])
def test_a_fix_that_crashes_the_server_behind_a_proxy_holds_up_no_other_and_stays(
    tmp_path: Path, status: int, live_first: bool
) -> None:
    then = refusing({3}, status)
    with bench(tmp_path, then=then, live_first=live_first, compression="none") as b:
        b.put_backlog(40)
        b.work_among_live(200)
        stats = b.queue.stats()
        assert (stats.ready + stats.unack, stats.acked, stats.ack_failed) == (1, 239, 0)
        b.server.then = answer()
        b.work_for(7200)
        assert b.counts == (0, 0, 240, 0)


def wanting_again(seqs: set[int]) -> Act:
    """An endpoint that names these seqs in ``retry``."""

    def run(line: Line, request: Request) -> None:
        again = [seq for _, seq in request.names if seq in seqs]
        line.reply(200, json.dumps({"retry": again}))

    return Act(run)


@pytest.mark.parametrize("flush_every_s", [10.0, 60.0])
@pytest.mark.parametrize("status", [408, 429, 502, 503, 504, "retry"])
def test_a_backlog_that_is_asked_for_later_for_ever_does_not_stop_live_fixes(
    tmp_path: Path, status: int | str, flush_every_s: float
) -> None:
    then = refusing({1}, status) if isinstance(status, int) else wanting_again({1})
    with bench(tmp_path, then=then, compression="none", flush_every_s=flush_every_s) as b:
        b.put_backlog(20)
        for _ in range(100):
            b.put(1)
            b.work_for(20)
            since_s = b.queue.backlog().live_since_s or b.clock.now_s
            assert b.clock.now_s - since_s < 2 * BACKOFF_MAX_S + flush_every_s
        assert b.queue.stats().acked > 80
        assert b.queue.stats().ack_failed == 0


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_backlog_that_is_not_permitted_delays_no_live_fix(tmp_path: Path, status: int) -> None:
    """The device was renamed, and the endpoint no longer knows its old name."""
    with bench(tmp_path, then=refusing(set(range(1, 201)), status), compression="none") as b:
        b.put_backlog(200)
        began_s = b.clock.now_s
        for _ in range(60):
            b.put(1)
            b.work_for(20)
            assert b.queue.backlog().live == 0
        assert len(b.server.requests) < 70 + (b.clock.now_s - began_s) / BACKOFF_MAX_S
        assert b.counts == (200, 0, 60, 0)
        assert b.uploader.status().backlog_error == f"device van-07: {status}: bad fix"
        # One batch first, then one fix at a time.
        sent = [len(r.names) for r in b.server.requests if r.names[0][1] <= 200]
        assert set(sent[1:]) == {1}
        b.server.then = answer()
        b.work_for(2 * BACKOFF_MAX_S)
        assert b.counts == (0, 0, 260, 0)
        assert b.uploader.status().backlog_error is None


def test_haste_tries_although_the_monitor_sees_no_way(tmp_path: Path) -> None:
    way = FakeWay()
    way.why = "unreachable", "no way"
    with bench(tmp_path, way=way) as b:
        b.work_among_live(2)
        assert len(b.server.requests) == 1
        b.uploader.hurry()
        b.work()
        assert len(b.server.requests) == 2


def test_haste_ends_the_pause_of_a_backlog(tmp_path: Path) -> None:
    with bench(tmp_path, then=refusing({1}, 401), compression="none") as b:
        b.put_backlog(1)
        b.work_among_live(1)
        requests = len(b.server.requests)
        b.work()
        assert len(b.server.requests) == requests
        b.uploader.hurry()
        b.work()
        assert len(b.server.requests) == requests + 1


@pytest.mark.parametrize("status", [400, 401, 403, 404])
@pytest.mark.parametrize("old", [1, 200])
def test_a_backlog_under_a_new_name_waits_for_none_under_the_old_name(
    tmp_path: Path, status: int, old: int
) -> None:
    """The device was renamed, and the endpoint knows only its new name."""
    refused = set(range(1, old + 1))
    with bench(tmp_path, then=refusing(refused, status), compression="none") as b:
        b.put_backlog(old, "van-06")
        b.put_backlog(200)
        began_s = b.clock.now_s
        for second in range(60):
            b.put(1)
            b.work_for(20)
            assert b.queue.backlog().live == 0
            if second > 3:
                assert b.queue.stats().acked >= 200
        taken_s = b.clock.now_s - began_s
        refusals = [r for r in b.server.requests if r.names[0][1] <= old]
        assert len(refusals) <= (1 + taken_s / BACKOFF_MAX_S) * (12 if status == 400 else 1)
        stats = b.queue.stats()
        assert (stats.ready, stats.acked, stats.ack_failed) == (old, 260, 0)
        waits_for_witness = (old, status) == (1, 400)  # a refused fix that is alone
        assert f"device van-06: {status}" in str(b.uploader.status().backlog_error)
        b.server.then = answer()
        b.work_for(1000 if waits_for_witness else 2 * BACKOFF_MAX_S)
        assert b.counts == (0, 0, 260 + old, 0)
        assert b.uploader.status().backlog_error is None


@pytest.mark.parametrize("live_first", [True, False])
@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize("old", [1, 13])
def test_a_refused_fix_of_an_old_name_is_tried_again_while_live_fixes_are_taken(
    tmp_path: Path, status: int, live_first: bool, old: int
) -> None:
    """No other fix of its name is left as its witness."""
    then = refusing({old}, status)
    with bench(tmp_path, then=then, live_first=live_first, compression="none") as b:
        b.put_backlog(old, "van-06")
        b.put_backlog(10)
        b.work_among_live(60)
        assert b.queue.stats().acked == old - 1 + 70
        assert len([r for r in b.server.requests if (r.names[0][1], len(r.names)) == (old, 1)]) < 15
        assert f"device van-06: {status}" in str(b.uploader.status().backlog_error)
        b.server.then = answer()
        b.work_among_live(60)
        assert b.queue.stats().acked == old + 130
        assert b.uploader.status().backlog_error is None


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize("bad", [1, 2])
def test_where_the_order_counts_a_blocked_fix_of_an_old_name_holds_up_no_other_of_it(
    tmp_path: Path, status: int, bad: int
) -> None:
    then = refusing(set(range(1, bad + 1)), status)
    with bench(tmp_path, then=then, live_first=False, compression="none") as b:
        b.put_backlog(20, "van-06")
        b.work_among_live(200)
        assert b.counts == (0, bad, 220 - bad, 0)


def refusing_in_two_ways(first: set[int], status: int, second: set[int], other: int) -> Act:
    """Refuse each request with a fix of ``first``, otherwise each with a fix of ``second``."""

    def run(line: Line, request: Request) -> bool | None:
        seqs = {seq for _, seq in request.names}
        if seqs & first:
            line.reply(status)
        elif seqs & second:
            line.reply(other)
        else:
            line.server.take(request)
            line.reply(200)
        return None

    return Act(run)


@pytest.mark.parametrize("live_first", [True, False])
@pytest.mark.parametrize("other", [400, 500])
@pytest.mark.parametrize("status", [400, 403])
def test_bad_fixes_of_the_new_name_are_found_while_the_old_name_is_refused(
    tmp_path: Path, status: int, other: int, live_first: bool
) -> None:
    old, bad = set(range(1, 51)), {60, 61, 70, 90}
    then = refusing_in_two_ways(old, status, bad, other)
    with bench(tmp_path, then=then, live_first=live_first, compression="none") as b:
        b.put_backlog(50, "van-06")
        for _ in range(400):
            b.put(1)
            b.work_for(20)
        stats = b.queue.stats()
        assert stats.ack_failed == len(bad)
        assert stats.acked > 380
        assert {seq for _, seq in b.server.ledger} & (old | bad) == set()


@pytest.mark.parametrize("other", [403, 500])
def test_a_first_fix_that_is_bad_holds_up_no_backlog_behind_a_refused_name(
    tmp_path: Path, other: int
) -> None:
    then = refusing_in_two_ways(set(range(1, 51)), 403, {51}, other)
    with bench(tmp_path, then=then, compression="none") as b:
        b.put_backlog(50, "van-06")
        b.put_backlog(50)
        b.work_for(12 * 3600)
        assert b.queue.stats().acked == 49


def test_a_refused_old_name_is_no_error_while_live_fixes_are_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with bench(tmp_path, then=refusing(set(range(1, 51)), 400), compression="none") as b:
        b.put(1)
        b.put_backlog(49, "van-06")
        b.server.then = refusing(set(range(2, 51)), 400)
        for _ in range(100):
            b.put(1)
            b.work_for(20)
        errors = [record for record in caplog.records if record.levelname == "ERROR"]
        assert len(errors) <= 1
        assert b.state == "ok"


def test_what_is_blocked_now_and_then_is_tried_again_soon(tmp_path: Path) -> None:
    """Each try delays other fixes, so tries become rare, but not for the next blocked fix."""
    with bench(tmp_path, then=refusing({1}, 403), compression="none") as b:
        b.put_backlog(2)
        b.work_among_live(60)
        assert b.counts == (0, 1, 61, 0)
        b.server.then = answer()
        b.work_for(7200)
        assert b.counts == (0, 0, 62, 0)
        b.server.then = refusing({63}, 403)
        b.work_among_live(20)
        assert b.counts == (0, 1, 81, 0)
        b.server.then = answer()
        b.work_for(2 * BACKOFF_MAX_S)
        assert b.counts == (0, 0, 82, 0)


def test_the_neighbours_of_a_blocked_fix_wait_a_few_minutes(tmp_path: Path) -> None:
    then = refusing({205}, 403)
    with bench(tmp_path, then=then, flush_every_s=60.0, compression="none") as b:
        for _ in range(300):
            b.put(1)
            b.work_for(10)
        assert b.queue.stats().acked > 280


@pytest.mark.parametrize("live_first", [True, False])
@pytest.mark.parametrize("status", [400, 403])
def test_no_storm_while_the_disk_refuses_what_waits(
    tmp_path: Path, status: int, live_first: bool
) -> None:
    """The backlog is refused, and live fixes cannot be committed."""
    then = refusing(set(range(1, 21)), status)
    with bench(tmp_path, then=then, live_first=live_first, compression="none") as b:
        b.put_backlog(20)
        b.work_among_live(3)
        began = len(b.server.requests)
        writer = b.queue.shared.writer
        with mock.patch.object(writer, "write", mock.Mock(return_value=StorageError("is full"))):
            for _ in range(30):
                b.put(1)
                b.work_for(20)
        assert len(b.server.requests) - began < 60


@pytest.mark.parametrize("status", [403, 404, 406, 451])
@pytest.mark.parametrize("bad", [{1}, {7}, {1, 2, 3}, {30, 150}])
def test_a_fix_that_a_firewall_blocks_holds_up_no_other_and_stays(
    tmp_path: Path, status: int, bad: set[int]
) -> None:
    with bench(tmp_path, then=refusing(bad, status), compression="none") as b:
        b.put_backlog(200)
        for _ in range(60):
            b.put(1)
            b.work_for(20)
            assert b.queue.backlog().live == 0
        assert b.counts == (0, len(bad), 260 - len(bad), 0)
        assert len(b.server.requests) < 60 + 8 * BACKOFF_MAX_S
        b.server.then = answer()
        b.work_for(7200)
        assert b.counts == (0, 0, 260, 0)


@pytest.mark.parametrize("live_first", [True, False])
def test_a_fix_that_a_firewall_blocks_holds_up_no_backlog_where_no_live_fix_comes(
    tmp_path: Path, live_first: bool
) -> None:
    then = refusing({1, 40}, 403)
    with bench(tmp_path, then=then, live_first=live_first, compression="none") as b:
        b.put_backlog(40)
        b.work_for(7200)
        assert b.queue.stats().acked == 38


@pytest.mark.parametrize("bad", [1, 12])
@pytest.mark.parametrize("live", [0, 1])
def test_blocked_fixes_that_are_batches_of_their_own_hold_up_no_backlog(
    tmp_path: Path, bad: int, live: int
) -> None:
    """Each fix was sent alone without an answer, so it is sent again the same way."""
    then = refusing(range(1, bad + 1), 403)
    with bench(tmp_path, *[hang_up()] * bad, then=then, compression="none") as b:
        for _ in range(bad):
            b.put_backlog(1)
            b.work()
            b.clock.advance(BACKOFF_MAX_S)
        b.put_backlog(40)
        for _ in range(20 * (bad + 3)):
            b.put(live)
            b.work_for(BACKOFF_MAX_S / 10)
        assert b.queue.stats().acked >= 40 + live * (20 * (bad + 3) - 1)


def test_live_fixes_that_a_firewall_blocks_hold_up_no_other(tmp_path: Path) -> None:
    with bench(tmp_path, then=refusing({13}, 403), compression="none") as b:
        for _ in range(60):
            b.put(10)
            b.work_for(20)
        assert b.counts == (0, 1, 599, 0)


def test_no_storm_where_a_firewall_blocks_each_second_fix(tmp_path: Path) -> None:
    with bench(tmp_path, then=refusing(range(1, 601, 2), 403), compression="none") as b:
        b.put_backlog(600)
        end_s = b.clock.now_s + 7200
        while b.clock.now_s < end_s:
            b.clock.advance(b.work(2000) or 60)
        assert (b.queue.stats().acked, b.queue.stats().ack_failed) == (300, 0)
        assert len(b.server.requests) < 2000
        began = len(b.server.requests)
        b.clock.advance(b.work(2000) or 60)
        assert len(b.server.requests) - began < 300


@pytest.mark.parametrize("live", [True, False])
def test_what_a_firewall_says_to_large_batches_makes_them_smaller(
    tmp_path: Path, live: bool
) -> None:
    """One of Amazon's rules answers 403 to each body of more than 8 kB."""
    with bench(tmp_path, then=at_most(30, 403), compression="none") as b:
        b.put(500) if live else b.put_backlog(500)
        b.work_for(3 * BACKOFF_MAX_S)
        assert b.counts == (0, 0, 500, 0)
        b.put(500) if live else b.put_backlog(500)
        b.work_for(3 * BACKOFF_MAX_S)
        assert b.counts == (0, 0, 1000, 0)
        assert sum(len(request.names) > 30 for request in b.server.requests) < 20


@pytest.mark.parametrize("status", [0, 500, 502, 504])
@pytest.mark.parametrize("live", [0, 60])
@pytest.mark.parametrize("live_first", [True, False])
def test_what_a_server_closes_at_large_batches_makes_them_smaller(
    tmp_path: Path, status: int, live: int, *, live_first: bool
) -> None:
    """uWSGI closes without an answer above ``limit-post``; PHP out of memory answers 500."""
    then = at_most(30, status)
    with bench(tmp_path, then=then, live_first=live_first, compression="none") as b:
        b.put_backlog(2000)
        b.work_among_live(live)
        b.work_for(0 if live else 300)
        assert b.counts == (0, 0, 2000 + live, 0)
        assert sum(len(request.names) > 30 for request in b.server.requests) <= 40


@pytest.mark.parametrize("status", [0, 502])
@pytest.mark.parametrize("live_first", [True, False])
@pytest.mark.parametrize("bad", [range(100, 2000, 300), range(500, 510)])
def test_fixes_that_crash_the_server_leave_batches_large_where_no_live_fix_comes(
    tmp_path: Path, status: int, bad: range, *, live_first: bool
) -> None:
    then = refusing(bad, status)
    with bench(tmp_path, then=then, live_first=live_first, compression="none") as b:
        b.put_backlog(3000)
        b.work_for(7200)
        assert b.counts == (0, len(bad), 3000 - len(bad), 0)
        assert len(b.server.requests) < 40 * len(bad)


@pytest.mark.parametrize("fault", [answer(302), answer(404), answer(500), answer(503)])
def test_after_a_fault_the_next_try_may_reach_another_server(tmp_path: Path, fault: Act) -> None:
    """Behind a load balancer, all requests of a connection reach the same server."""
    with bench(tmp_path, answer(), fault) as b:
        for _ in range(2):
            b.put_backlog(1)
            b.work_for(300)
        assert [request.connection for request in b.server.requests] == [1, 1, 2]


def test_an_endpoint_that_asks_to_wait_keeps_its_connection(tmp_path: Path) -> None:
    """A new connection would cost the endpoint more, and it is busy."""
    with bench(tmp_path, answer(), answer(429, headers={"Retry-After": "5"})) as b:
        for _ in range(2):
            b.put_backlog(1)
            b.work_for(300)
        assert [request.connection for request in b.server.requests] == [1, 1, 1]


@pytest.mark.parametrize("status", [403, 500])
@pytest.mark.parametrize("refused", [1, 5, 30])
def test_no_storm_where_a_fix_is_refused_in_two_ways(
    tmp_path: Path, status: int, refused: int
) -> None:
    """First the fixes are refused and wait for a witness; then they are not permitted."""
    bad = set(range(3, 3 + refused))
    with bench(tmp_path, then=refusing(bad, 400), compression="none") as b:
        b.put_backlog(40)
        b.work_among_live(2)
        b.server.then = refusing(bad, status)
        began, began_s = len(b.server.requests), b.clock.now_s
        b.work_among_live(30)
        assert b.queue.backlog().live == 0
        assert len(b.server.requests) - began < 150 + (b.clock.now_s - began_s) / 10


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_is_not_permitted_at_all_is_held(tmp_path: Path, status: int) -> None:
    with bench(tmp_path, then=answer(status), compression="none") as b:
        b.put_backlog(20)
        began_s = b.clock.now_s
        for _ in range(60):
            b.put(1)
            b.work_for(20)
            assert b.state == "held"
        assert len(b.server.requests) < 5 + (b.clock.now_s - began_s) / BACKOFF_MAX_S
        b.queue.commit()
        assert b.counts == (80, 0, 0, 0)


def test_a_500_to_the_backlog_and_to_live_fixes_too_backs_off(tmp_path: Path) -> None:
    with bench(tmp_path, then=answer(500), compression="none") as b:
        b.put_backlog(20)
        began_s = b.clock.now_s
        for _ in range(60):
            b.put(1)
            b.work_for(60)
        assert len(b.server.requests) < 20 + (b.clock.now_s - began_s) / BACKOFF_MAX_S


@pytest.mark.parametrize("live_first", [True, False])
@pytest.mark.parametrize("bad", [1, 3, 40])
def test_a_fix_that_gets_500_holds_up_no_backlog_where_no_live_fix_comes(
    tmp_path: Path, bad: int, live_first: bool
) -> None:
    """The receiver is unplugged, or ``drain`` delivers without a receiver."""
    then = refusing({bad}, 500)
    with bench(tmp_path, then=then, live_first=live_first, compression="none") as b:
        b.put_backlog(40)
        b.work_for(7200)
        assert b.queue.stats().acked == 39


def test_five_times_500_with_nothing_else_pending_tries_single_fixes(tmp_path: Path) -> None:
    with bench(tmp_path, then=refusing({3}, 500), compression="none") as b:
        b.put_backlog(8)
        b.work_for(600)
        b.work_among_live(5)
        assert b.dead_seqs == {3}
        assert b.counts == (0, 0, 12, 1)


def test_an_endpoint_that_is_down_with_500_costs_no_fix_and_no_storm(tmp_path: Path) -> None:
    with bench(tmp_path, then=answer(500), compression="none") as b:
        b.put_backlog(16)
        b.work_for(3600)
        assert b.counts == (16, 0, 0, 0)
        assert b.state == "waiting"
        assert len(b.server.requests) < 10 + 3600 / BACKOFF_MAX_S
        b.server.then = answer()
        b.work_for(3600)
        assert b.counts == (0, 0, 16, 0)


@pytest.mark.parametrize("count", [1, 16])
@pytest.mark.parametrize("status", [400, 413])
def test_an_endpoint_that_is_down_with_500_and_then_refuses_everything_sees_no_storm(
    tmp_path: Path, count: int, status: int
) -> None:
    with bench(tmp_path, *[answer(500)] * 5, then=answer(status), compression="none") as b:
        b.put_backlog(count)
        b.work_for(3600)
        assert b.counts == (count, 0, 0, 0)
        assert b.state == "held"
        assert len(b.server.requests) < 20 + 3600 / BACKOFF_MAX_S
        b.server.then = answer()
        b.work_for(3600)
        assert b.counts == (0, 0, count, 0)


# What it reports


def test_an_outage_is_two_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with bench(tmp_path, hang_up(), answer(503), hang_up(), answer(429)) as b:
        b.put_backlog(2)
        b.work_for(100)
        assert b.state == "ok"
    begin, end = caplog.messages
    assert begin.startswith("cannot deliver (unreachable): the server closed the")
    assert end == "delivering again after 15 s (failures: 4)"


def test_the_status_tells_since_when_and_until(tmp_path: Path) -> None:
    with bench(tmp_path, answer(503), answer(503)) as b:
        b.put_backlog(2)
        b.clock.advance(7)
        began_s = b.clock.now_s
        b.clock.advance(b.work() or 0)
        b.work()
        status = b.uploader.status()
        assert (status.state, status.since_s) == ("waiting", began_s)
        assert status.next_attempt_s == b.clock.now_s + 2
        assert status.last_error == "503 Service Unavailable"
        b.clock.advance(2)
        b.work()
        status = b.uploader.status()
        assert (status.state, status.since_s, status.next_attempt_s) == ("ok", b.clock.now_s, None)
        assert status.last_delivery_s == b.clock.now_s


# Stopping, and internal errors


def test_close_ends_a_request_in_flight(tmp_path: Path) -> None:
    with bench(tmp_path, hang(), timeout_s=3600.0) as b:
        b.put_backlog(2)
        thread = threading.Thread(target=b.step)
        thread.start()
        b.server.wait_for(lambda server: bool(server.requests))
        b.uploader.close()
        thread.join(60)
        assert not thread.is_alive()
        assert b.step() is None
        b.uploader.last_upload(1)  # the last exchange failed
        assert len(b.server.requests) == 1
        assert b.counts == (2, 0, 0, 0)


def test_a_last_upload_sends_nothing_beside_a_request_that_does_not_end(tmp_path: Path) -> None:
    with bench(tmp_path, answer(), hang(), timeout_s=3600.0, live_first=False) as b:
        b.put_backlog(2)
        b.work()
        b.put_backlog(1)
        thread = threading.Thread(target=b.step)
        thread.start()
        b.server.wait_for(lambda server: len(server.requests) == 2)
        b.uploader.last_upload(0.01)
        assert (len(b.server.requests), b.queue.stats().in_flight) == (2, 1)
        b.uploader.close()
        thread.join(60)
        assert not thread.is_alive()
        assert b.counts == (1, 0, 2, 0)


def test_an_uploader_works_after_another_one_was_closed(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        b.uploader.close()
        b.uploader = Uploader(
            b.queue,
            native.FORMAT,
            b.transport,
            UploadPolicy(),
            reachability=AlwaysReachable,
            clock=b.clock,
        )
        b.put_backlog(2)
        assert b.work() is None
        assert b.counts == (0, 0, 2, 0)


def test_nothing_is_sent_while_a_secret_is_missing_and_all_once_it_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with bench(tmp_path, answer()) as b:
        b.put_backlog(3)
        b.missing = "upload.token_file: cannot read /token"
        for _ in range(100):
            assert b.work() == 10
            b.clock.advance(10)
        status = b.uploader.status()
        assert (status.state, status.last_error) == ("held", b.missing)
        assert caplog.text.count("uploads are held") == 1
        b.uploader.last_upload(3)
        assert not b.server.requests
        assert b.queue.stats().ready == 3
        b.missing = None
        b.work()
        assert b.uploader.status().state == "ok"
        assert len(b.server.ledger) == 3


def test_a_queue_that_cannot_be_read_is_waited_for(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        b.put_backlog(3)
        with mock.patch.object(b.queue.shared, "read", side_effect=StorageError("cannot read")):
            assert b.work() == 1
            assert b.uploader.status().state == "held"
            assert "cannot read" in str(b.uploader.status().last_error)
        b.clock.now_s += 20
        b.work()
        assert b.uploader.status().state == "ok"
        assert len(b.server.ledger) == 3


def test_the_last_upload_sends_the_newest(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        b.put_backlog(2)
        assert b.work() is None
        b.put(3)
        b.uploader.close()
        assert b.step() is None
        b.uploader.last_upload(3)
        assert b.counts == (0, 0, 5, 0)


def test_the_last_upload_ends_by_its_deadline(tmp_path: Path) -> None:
    with bench(tmp_path, answer(), hang()) as b:
        b.put_backlog(2)
        b.work()
        b.put(1)
        b.uploader.close()
        b.uploader.last_upload(0.2)
        assert b.counts == (0, 1, 2, 0)


def test_garbage_makes_no_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    garbage = [
        says(b"\0\1\2"),
        says(b"HTTP/1.1 999 \xff\r\n\r\n"),
        says(b"HTTP/9.9 200 OK\r\n\r\n"),
    ]
    with bench(tmp_path, *garbage) as b:
        b.put_backlog(2)
        b.work_for(100)
        assert b.counts == (0, 0, 2, 0)
    assert all(record.exc_info is None for record in caplog.records)


def test_as_a_task_it_delivers_what_rings_and_ends_when_asked(tmp_path: Path) -> None:
    taken = threading.Event()

    def run(line: Line, request: Request) -> None:
        line.server.take(request)
        line.reply(200)
        taken.set()

    with Server(then=Act(run)) as server, AckQueue(tmp_path / "queue.db") as queue:
        transport = Transport(server.url)
        uploader = Uploader(
            queue,
            native.FORMAT,
            transport,
            UploadPolicy(flush_every_s=0.05),
            reachability=AlwaysReachable,
        )
        queue.watch(uploader.bell.ring)
        stop, beat, clock = threading.Event(), Beat(), Clock()
        thread = threading.Thread(target=run_loop, args=(uploader, stop, beat, clock))
        thread.start()
        for _ in range(2):
            queue.put(FIX, "van-07")
            assert taken.wait(60)
            taken.clear()
        stop.set()
        uploader.wake()
        thread.join(60)
        assert not thread.is_alive()
        assert sum(server.ledger.values()) == 2
        transport.close()
