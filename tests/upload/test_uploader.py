"""Each row of the answer table, through the real transport and the real queue."""

import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Iterator
from math import ceil, log2
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from fakes import AlwaysReachable, FakeClock, Longest
from misbehaving import (
    Act,
    Line,
    Request,
    Server,
    answer,
    at_most,
    hang,
    hang_up,
    no_gzip,
    refusing,
    reset,
    says,
    tls_server_context,
    trusting,
)

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.errors import StorageError
from telemetry_agent.model import Answer, Fix, Payload, UploadState
from telemetry_agent.tasks import Beat, run_loop
from telemetry_agent.upload.formats import native
from telemetry_agent.upload.formats.choice import choose
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import (
    CompressionSetting,
    FormatName,
    NoAnswer,
    UploadPolicy,
    WireFormat,
)
from telemetry_agent.upload.uploader import Uploader

FIX = Fix(1764426119000, 48_117300000, 11_516667000)
BACKOFF_MAX_S = UploadPolicy().backoff_max_s


class FakeWay:
    """The way to the endpoint as the test wants it."""

    def __init__(self) -> None:
        self.why: tuple[UploadState, str] | None = None
        self.heard: list[str] = []

    def closed(self) -> tuple[UploadState, str] | None:
        return self.why

    def doubt(self) -> None:
        self.heard.append("doubt")

    def answered(self) -> None:
        self.heard.append("answered")


class Bench:
    """A queue, an uploader and a server, and a clock that the test moves."""

    def __init__(
        self,
        server: Server,
        folder: Path,
        way: "FakeWay | None" = None,
        wire_format: WireFormat = native.FORMAT,
        **policy: Any,
    ) -> None:
        self.missing: str | None = None
        self.server = server
        self.clock = FakeClock()
        self.queue = AckQueue(folder / "queue.db", clock=self.clock)
        access = trusting() if server.url.startswith("https") else None
        self.transport = Transport(server.url, credentials=access)
        self.uploader = Uploader(
            self.queue,
            wire_format,
            self.transport,
            UploadPolicy(**{"timeout_s": 5.0, "flush_every_s": 10.0, **policy}),
            reachability=lambda: way or AlwaysReachable(),
            missing=lambda: self.missing,
            clock=self.clock,
            rng=Longest(),
        )
        self.put_names: list[tuple[str, int]] = []

    def put(self, count: int) -> None:
        for number in range(count):
            record = self.queue.put(FIX._replace(time_ms=FIX.time_ms + 1000 * number), "van-07")
            self.put_names.append((record.stream, record.seq))

    def put_backlog(self, count: int) -> None:
        """Fixes that were handed out before."""
        self.put(count)
        batch = self.queue.lease(count)
        assert batch is not None
        self.queue.release(batch)

    def step(self) -> float | None:
        return self.uploader.step(self.clock.monotonic_s())

    def work(self, steps: int = 500) -> float | None:
        """Step until there is something to wait for."""
        for _ in range(steps):
            wait_s = self.step()
            if wait_s != 0:
                return wait_s
        raise AssertionError("it never waits")

    def work_for(self, seconds: float) -> None:
        """Step and wait, as the loop does."""
        end_s = self.clock.now_s + seconds
        while self.clock.now_s < end_s:
            wait_s = self.work()
            if wait_s is None:
                return
            self.clock.advance(wait_s)

    def work_among_live(self, count: int) -> None:
        """One live fix after the other, each sent by itself."""
        for _ in range(count):
            self.put(1)
            self.work_for(20)

    @property
    def state(self) -> str:
        return self.uploader.status().state

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """ready, unack, acked, dead."""
        stats = self.queue.stats()
        assert not stats.in_flight
        return stats.ready, stats.unack, stats.acked, stats.ack_failed

    @property
    def dead_seqs(self) -> set[int]:
        return {
            stored.record.seq for stored in self.queue.stored() if stored.state.name == "ACK_FAILED"
        }

    def close(self) -> None:
        self.transport.close()
        self.queue.close()


@contextlib.contextmanager
def bench(
    folder: Path, *script: Act, then: Act | None = None, tls: bool = False, **seams: Any
) -> Iterator[Bench]:
    with Server(*script, then=then, tls=tls_server_context() if tls else None) as server:
        made = Bench(server, folder, **seams)
        try:
            yield made
        finally:
            made.close()


# When it sends


def test_live_fixes_wait_for_company_and_a_full_batch_waits_no_more(tmp_path: Path) -> None:
    with bench(tmp_path, max_batch=5) as b:
        assert b.work() is None
        b.put(1)
        assert b.work() == 10
        b.clock.advance(4)
        b.put(3)
        assert b.work() == 6
        assert not b.server.requests
        b.put(1)
        assert b.work() is None
        assert b.counts == (0, 0, 5, 0)
        b.put(2)
        b.clock.advance(10)
        assert b.work() is None
        assert [len(request.names) for request in b.server.requests] == [5, 2]
        assert b.state == "ok"


def test_a_backlog_is_sent_at_once_and_live_fixes_that_are_due_come_first(tmp_path: Path) -> None:
    with bench(tmp_path, max_batch=4) as b:
        b.put_backlog(8)
        b.put(1)
        b.step()
        b.clock.advance(10)
        b.step()
        b.work()
        sent = [[seq for _, seq in request.names] for request in b.server.requests]
        assert sent == [[1, 2, 3, 4], [9], [5, 6, 7, 8]]


def test_a_backlog_drains_also_if_live_fixes_are_due_again_after_each_exchange(
    tmp_path: Path,
) -> None:
    with bench(tmp_path, max_batch=4, flush_every_s=1.0) as b:
        b.put_backlog(8)
        for _ in range(6):
            b.put(1)
            b.clock.advance(2)  # the exchange before took so long
            b.step()
        sent = [[seq for _, seq in request.names] for request in b.server.requests]
        assert sent == [[9], [1, 2, 3, 4], [10, 11], [5, 6, 7, 8], [12, 13], [14]]


def test_oldest_first_keeps_the_order(tmp_path: Path) -> None:
    with bench(tmp_path, max_batch=4, live_first=False) as b:
        b.put_backlog(6)
        b.put(1)
        b.clock.advance(10)
        b.work()
        sent = [seq for request in b.server.requests for _, seq in request.names]
        assert sent == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "act",
    [
        hang_up(),
        reset(),
        *(answer(status) for status in (302, 400, 401, 413, 500, 503)),
        answer(200, "error"),
    ],
)
@pytest.mark.parametrize("max_batch", [1, 4])
def test_oldest_first_keeps_the_order_after_an_outage(
    tmp_path: Path, act: Act, max_batch: int
) -> None:
    with bench(tmp_path, then=act, max_batch=max_batch, live_first=False) as b:
        b.put_backlog(20)
        # The twelfth wait is not one of those after which another fix is tried.
        while b.uploader.status().waits < 12:
            b.clock.advance(b.work() or 0)
        b.server.requests.clear()
        b.server.then = answer()
        b.put(2)
        b.work_for(4000)
        assert b.counts == (0, 0, 22, 0)
        sent = [seq for request in b.server.requests for _, seq in request.names]
        assert sent == list(range(1, 23))


@pytest.mark.parametrize("max_batch", [1, 4])
@pytest.mark.parametrize("bad", [{1}, {3}, {1, 2}])
def test_oldest_first_is_not_held_up_by_fixes_that_get_no_answer(
    tmp_path: Path, bad: set[int], max_batch: int
) -> None:
    def run(line: Line, request: Request) -> bool:
        if any(seq in bad for _, seq in request.names):
            return False
        line.server.take(request)
        line.reply(200)
        return True

    with bench(tmp_path, then=Act(run), max_batch=max_batch, live_first=False) as b:
        b.put_backlog(20)
        b.work_for(1000)
        assert b.counts == (0, len(bad), 20 - len(bad), 0)


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
        assert status_now.sent_bytes == b.transport.sent_bytes > 0


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
        assert b.work() == 121  # not sooner, and not in step with all who were told the same
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
        was_sent = b.transport.sent_bytes > 0  # an early reset may come before that
        assert was_sent or not b.server.requests
        assert b.counts == ((0, 2, 0, 0) if was_sent else (2, 0, 0, 0))
        b.clock.advance(1)
        assert b.work() is None
        assert b.counts == (0, 0, 2, 0)


def test_what_was_never_sent_is_not_unack(tmp_path: Path) -> None:
    """So a month offline can be thinned: what got no answer stays whole."""
    with bench(tmp_path) as b:
        b.transport.close()
        b.transport = Transport("http://127.0.0.1:1/")
        b.uploader._transport = b.uploader._sender._transport = b.transport
        b.put_backlog(2)
        assert b.work() == 1
        assert (b.state, b.counts) == ("unreachable", (2, 0, 0, 0))


def test_a_time_out_is_no_answer(tmp_path: Path) -> None:
    with bench(tmp_path, hang(), timeout_s=1.0) as b:
        b.put_backlog(2)
        assert b.work() == 1
        assert b.uploader.status().last_error == "no answer within 1 s"
        assert b.counts == (0, 2, 0, 0)


def test_a_batch_that_is_too_long_for_the_deadline_is_sent_in_parts(tmp_path: Path) -> None:
    with bench(tmp_path, timeout_s=2.0) as b:

        def run(line: Line, request: Request) -> None:
            b.clock.advance(0.3 * len(request.names))  # a slow link
            if len(request.names) > 6:
                line.hang()
            else:
                line.server.take(request)
                line.reply(200)

        b.server.then = Act(run)
        b.put_backlog(16)
        b.work_for(60)
        assert b.counts == (0, 0, 16, 0)
        sizes = [len(request.names) for request in b.server.requests]
        assert sizes[:4] == [16, 16, 8, 4]
        assert max(sizes[4:]) == 4


def test_a_tls_error_is_no_answer(tmp_path: Path) -> None:
    with bench(tmp_path, tls=True) as b:
        b.transport.close()
        b.transport = Transport(b.server.url)  # trusts the public authorities only
        b.uploader._transport = b.uploader._sender._transport = b.transport
        b.put_backlog(2)
        assert b.work() == 1
        assert (b.state, b.counts) == ("unreachable", (0, 2, 0, 0))
        assert "certificate not trusted" in (b.uploader.status().last_error or "")


def test_the_network_cuts_a_backoff_short(tmp_path: Path) -> None:
    with bench(tmp_path, *[hang_up()] * 6) as b:
        b.put_backlog(2)
        for _ in range(6):
            b.clock.advance(b.work() or 0)
        b.server.script(hang_up())
        assert b.work() == 64
        b.put(1)
        assert b.work() == 64  # a put cannot
        b.uploader.network_returned(0)
        assert b.work() == 10  # for the live one to gather company
        assert b.counts[2] == 2
        b.clock.advance(2)
        b.work()
        assert b.state == "ok"


def test_no_attempt_while_the_way_is_closed_but_one_each_backoff_max(tmp_path: Path) -> None:
    way = FakeWay()
    with bench(tmp_path, hang_up(), way=way) as b:
        b.put_backlog(2)
        way.why = ("no-route", "no route to 192.0.2.1")
        assert b.work() == 1  # the first attempt, whatever the monitor thinks
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


def test_after_the_return_the_backlog_takes_turns_and_fresh_fixes_do_not_wait(
    tmp_path: Path,
) -> None:
    with bench(tmp_path, max_batch=10) as b:
        b.put_backlog(100)
        b.uploader.network_returned(15)
        assert b.work() == 16
        b.put(1)
        assert b.work() == 10
        b.clock.advance(10)
        assert b.work() == 6
        sent = [[seq for _, seq in request.names] for request in b.server.requests]
        assert sent == [[*range(1, 11)], [101]]
        b.work_for(600)
        assert b.counts == (0, 0, 101, 0)


def test_a_closed_way_is_no_trouble_while_nothing_is_pending(tmp_path: Path) -> None:
    way = FakeWay()
    with bench(tmp_path, way=way) as b:
        b.put_backlog(1)
        assert b.work() is None
        way.why = ("no-route", "no route")
        assert b.work() == BACKOFF_MAX_S
        assert b.state == "ok"


def test_unanswered_rows_stay_unack_while_there_is_something_else_to_try(tmp_path: Path) -> None:
    with bench(tmp_path, hang_up(), hang_up(), max_batch=2) as b:
        b.put_backlog(6)
        b.clock.advance(b.work() or 0)
        assert b.counts == (4, 2, 0, 0)
        b.clock.advance(b.work() or 0)
        assert b.counts == (2, 4, 0, 0)
        assert b.work() is None  # the third is answered: there is hope for the others
        assert b.counts == (0, 0, 6, 0)
        sent = [request.headers["idempotency-key"] for request in b.server.requests]
        assert len(sent) == 5
        assert len(set(sent)) == 3


def test_a_changed_network_drops_the_kept_connection(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        b.put_backlog(1)
        b.work()
        b.uploader.network_changed()
        b.put_backlog(1)
        b.work()
        assert b.server.connections == 2


def test_a_changed_network_ends_the_request_that_hangs_in_the_old_one(tmp_path: Path) -> None:
    way = FakeWay()
    with bench(tmp_path, hang(), way=way, timeout_s=60.0) as b:
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
        assert len(b.server.requests) <= 1 + 2 * 4 + 4 + 5
        assert b.state == "ok"


@pytest.mark.parametrize("count", [1, 2, 3, 16, 100])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_an_endpoint_that_refuses_everything_kills_nothing(
    tmp_path: Path, count: int, compression: str
) -> None:
    with bench(tmp_path, then=answer(400), compression=compression) as b:
        b.put_backlog(count)
        assert b.work() == BACKOFF_MAX_S
        assert b.state == "held"
        before_alarm = len(b.server.requests)
        each_time = 2 if compression == "gzip" else 1  # packed, and once more plain
        assert before_alarm <= (ceil(log2(count)) + 3) * each_time
        b.work_for(3600)
        assert b.counts == (count, 0, 0, 0)
        for request in b.server.requests[before_alarm:]:
            assert len(request.names) == 1
        assert len(b.server.requests) - before_alarm <= 3600 / BACKOFF_MAX_S * each_time
        b.server.then = answer()
        b.clock.advance(BACKOFF_MAX_S)
        assert b.work() is None
        assert b.counts == (0, 0, count, 0)


def test_a_bad_fix_that_is_alone_waits_for_a_witness(tmp_path: Path) -> None:
    with bench(tmp_path, then=refusing({1})) as b:
        b.put_backlog(1)
        assert b.work() == BACKOFF_MAX_S
        assert (b.state, b.counts) == ("held", (1, 0, 0, 0))
        b.work_for(1000)
        assert b.counts == (1, 0, 0, 0)
        b.work_among_live(4)
        assert b.dead_seqs == set()
        b.work_among_live(2)
        assert b.dead_seqs == {1}
        assert b.counts == (0, 0, 6, 1)


@pytest.mark.parametrize("live_first", [True, False])
@pytest.mark.parametrize("refusals", range(1, 14))
def test_after_a_hold_in_the_middle_of_a_search_uploads_go_on(
    tmp_path: Path, refusals: int, live_first: bool
) -> None:
    """No new fix comes, and all that are pending may be in the search."""
    script = [answer(), *[answer(400)] * refusals, answer(401)]
    with bench(tmp_path, *script, live_first=live_first, compression="none") as b:
        b.put_backlog(1)
        b.work()
        b.put_backlog(40)
        b.work_for(2000)
        assert b.counts == (0, 0, 41, 0)


def test_a_run_without_a_witness_is_tried_again(tmp_path: Path) -> None:
    with bench(tmp_path, answer(), then=answer(400), compression="none") as b:
        b.put_backlog(1)
        b.work()
        b.put_backlog(40)
        b.work_for(2000)
        assert b.queue.stats().acked == 1
        b.server.then = answer()
        b.work_for(2000)
        assert b.counts == (0, 0, 41, 0)


def test_two_bad_fixes_in_front_of_everything_do_not_block_for_ever(tmp_path: Path) -> None:
    with bench(tmp_path, then=refusing({1, 2, 30}), max_batch=50) as b:
        b.put_backlog(40)
        b.work_for(3600)
        b.work_among_live(5)
        assert b.dead_seqs == {1, 2, 30}
        assert b.counts == (0, 0, 42, 3)


def test_live_fixes_do_not_wait_for_a_search(tmp_path: Path) -> None:
    with bench(tmp_path, then=refusing({1}), max_batch=64, compression="none") as b:
        b.put_backlog(64)
        b.step()
        b.step()
        b.put(1)
        b.clock.advance(10)
        b.step()
        assert [seq for _, seq in b.server.requests[-1].names] == [65]
        b.work()
        assert b.dead_seqs == {1}
        assert len(b.server.requests) <= 2 + 2 * 6 + 4


def test_a_search_that_is_broken_off_gives_everything_back(tmp_path: Path) -> None:
    gone = [hang_up(), hang_up()]  # on the kept connection, and on a fresh one
    with bench(tmp_path, answer(400), answer(400), *gone, compression="none") as b:
        b.put_backlog(16)
        assert b.work() == 1
        assert b.counts == (12, 4, 0, 0)
        b.clock.advance(1)
        assert b.work() is None
        assert b.counts == (0, 0, 16, 0)


def test_a_500_in_the_middle_of_a_search_is_later_and_no_refusal(tmp_path: Path) -> None:
    with bench(tmp_path, answer(400), answer(500), then=refusing({3}), compression="none") as b:
        b.put_backlog(8)
        assert b.work() == 1
        assert (len(b.server.requests), b.counts) == (2, (8, 0, 0, 0))


def test_too_large_is_halved_and_the_limit_remembered(tmp_path: Path) -> None:
    with bench(tmp_path, then=at_most(30), max_batch=100, compression="none") as b:
        b.put_backlog(300)
        assert b.work() is None
        assert b.counts == (0, 0, 300, 0)
        assert sum(len(request.names) > 30 for request in b.server.requests) == 2


def test_answers_that_are_too_long_make_batches_smaller_and_their_size_is_remembered(
    tmp_path: Path,
) -> None:
    def talk(line: Line, request: Request) -> None:
        line.server.take(request)
        line.reply(200, b" " * (40_000 * len(request.names)))

    with bench(tmp_path, then=Act(talk), compression="none") as b:
        b.put_backlog(300)
        assert b.work() is None
        assert b.counts == (0, 0, 300, 0)
        assert sum(40_000 * len(request.names) > 1 << 20 for request in b.server.requests) == 1


@pytest.mark.parametrize("others", [0, 7])
def test_one_fix_that_is_too_large_needs_a_witness_too(tmp_path: Path, others: int) -> None:
    with bench(tmp_path, then=refusing({1}, 413), compression="none") as b:
        b.put_backlog(1 + others)
        if others:
            b.work_among_live(5)
            assert b.counts == (0, 0, others + 5, 1)
        else:
            assert b.work() == BACKOFF_MAX_S
            assert b.counts == (1, 0, 0, 0)


def test_five_times_500_while_others_are_accepted_is_poison(tmp_path: Path) -> None:
    with bench(tmp_path, then=refusing({3}, 500), max_batch=8, compression="none") as b:
        b.put_backlog(8)
        for _ in range(8):
            b.put(1)
            b.work_for(20)
        assert b.dead_seqs == {3}
        b.work_for(60)
        assert b.counts == (0, 0, 15, 1)


def test_five_times_500_with_nothing_else_pending_tries_single_fixes(tmp_path: Path) -> None:
    with bench(tmp_path, then=refusing({3}, 500), compression="none") as b:
        b.put_backlog(8)
        b.work_for(600)
        b.work_among_live(5)
        assert b.dead_seqs == {3}
        assert b.counts == (0, 0, 12, 1)


def unanswered(bad: Collection[int], ends: Callable[[Line], None]) -> Act:
    """A server whose process ends at these fixes, without an answer."""

    def run(line: Line, request: Request) -> bool:
        if any(seq in bad for _, seq in request.names):
            ends(line)
            return False
        line.server.take(request)
        line.reply(200)
        return True

    return Act(run)


@pytest.mark.parametrize("live_first", [True, False])
@pytest.mark.parametrize("ends", [Line.reset, Line.hang])
def test_a_fix_that_gets_no_answer_does_not_hold_up_its_batch(
    tmp_path: Path, ends: Callable[[Line], None], live_first: bool
) -> None:
    then = unanswered({3}, ends)
    with bench(
        tmp_path, then=then, max_batch=8, compression="none", timeout_s=0.5, live_first=live_first
    ) as b:
        b.put_backlog(8)
        for _ in range(20):
            b.put(1)
            b.work_for(200)
        # It may be the network, so it does not become a dead letter.
        stats = b.queue.stats()
        assert (stats.acked, stats.ack_failed, stats.unack) == (27, 0, 1)
        before = len(b.server.requests)
        b.work_for(600)
        assert len(b.server.requests) - before < 10
        assert b.counts == (0, 1, 27, 0)
        b.server.then = answer()
        b.clock.advance(3600)
        b.put(1)
        b.work_for(60)
        assert b.counts == (0, 0, 29, 0)


def test_several_fixes_that_get_no_answer_wait_at_the_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each exchange that gets none takes its 30 s, and the order counts."""
    then = unanswered(range(1, 7), Line.reset)
    with bench(tmp_path, then=then, max_batch=4, live_first=False, compression="none") as b:
        exchange = b.transport.exchange

        def hangs(payload: Payload, timeout_s: float) -> Answer | NoAnswer:
            outcome = exchange(payload, timeout_s)
            if isinstance(outcome, NoAnswer):
                b.clock.advance(30)
            return outcome

        monkeypatch.setattr(b.transport, "exchange", hangs)
        b.put_backlog(40)
        b.work_for(3000)
        assert b.counts == (0, 6, 34, 0)
        b.server.requests.clear()
        b.put_backlog(8)
        b.uploader.network_returned(0)
        b.work_for(10)
        good, bad = [41, 42, 43, 44, 45, 46, 47, 48], [1, 2, 3, 4, 5, 6]
        sent = [seq for request in b.server.requests for _, seq in request.names]
        assert list(dict.fromkeys(sent)) == [*good, *bad]
        assert b.counts == (0, 6, 42, 0)
        assert b.state == "ok"
        b.server.then = answer()
        b.work_for(3600)  # by itself, also if no new fix comes
        assert b.counts == (0, 0, 48, 0)


def test_a_fix_that_the_network_lost_by_chance_is_soon_tried_again(tmp_path: Path) -> None:
    then = unanswered({3}, Line.reset)
    with bench(tmp_path, then=then, max_batch=8, compression="none") as b:
        b.put_backlog(8)
        while (b.queue.stats().ready, b.queue.stats().unack) != (0, 1):
            b.put(1)
            b.work_for(BACKOFF_MAX_S)
        b.server.then = answer()
        for _ in range(2):
            b.clock.advance(BACKOFF_MAX_S)
            b.put(1)
            b.work_for(60)
        assert b.counts[:2] == (0, 0)


@pytest.mark.parametrize("status", [400, 500])
def test_one_fix_per_request_and_the_first_is_bad(tmp_path: Path, status: int) -> None:
    with bench(tmp_path, then=refusing({1}, status), max_batch=1, live_first=False) as b:
        b.put(1)
        b.work_for(400)
        for _ in range(6):
            b.put(1)
            b.work_for(600)
        assert b.dead_seqs == {1}
        assert b.counts == (0, 0, 6, 1)


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


# Compression


@pytest.mark.parametrize(
    ("name", "setting", "packed"),
    [
        ("native", "auto", False),
        ("overland", "auto", False),
        ("owntracks", "auto", False),
        ("osmand", "auto", False),
        ("influx", "auto", True),
        ("clickhouse", "auto", True),
        ("native", "gzip", True),
        ("overland", "gzip", True),
        ("influx", "none", False),
        ("clickhouse", "none", False),
    ],
)
def test_what_is_compressed(
    tmp_path: Path, name: FormatName, setting: CompressionSetting, packed: bool
) -> None:
    with bench(
        tmp_path,
        then=says(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n" + b'{"result":"ok"}'),
        wire_format=choose(name, "http://x/"),
        compression=setting,
    ) as b:
        b.put_backlog(20)
        b.step()
        assert ("content-encoding" in b.server.requests[0].headers) == packed


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((status, "") for status in (400, 415, 422, 500)),
        (200, '{"received":0}'),
        (200, '{"error":"no JSON"}'),
    ],
)
def test_an_endpoint_without_gzip_is_served_plain(tmp_path: Path, status: int, body: str) -> None:
    with bench(tmp_path, then=no_gzip(status, body), max_batch=10, compression="gzip") as b:
        b.put_backlog(30)
        assert b.work() is None
        assert b.counts == (0, 0, 30, 0)
        packed = ["content-encoding" in request.headers for request in b.server.requests]
        assert packed == [True, False, False, False]


def test_an_endpoint_that_gzip_crashes_is_served_plain(tmp_path: Path) -> None:
    def run(line: Line, request: Request) -> bool:
        if "content-encoding" in request.headers:
            return False
        line.server.take(request)
        line.reply(200)
        return True

    with bench(tmp_path, then=Act(run), max_batch=10, compression="gzip") as b:
        b.put_backlog(10)
        b.work_for(10)
        assert b.counts == (0, 0, 10, 0)
        before = len(b.server.requests)
        b.put(10)
        b.work_for(60)
        assert len(b.server.requests) == before + 1


def test_once_gzip_was_taken_nothing_is_repeated_plain(tmp_path: Path) -> None:
    with bench(tmp_path, answer(), answer(415), max_batch=10, compression="gzip") as b:
        b.put_backlog(20)
        assert b.work() == BACKOFF_MAX_S
        assert len(b.server.requests) == 2
        assert all("content-encoding" in request.headers for request in b.server.requests)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((status, "") for status in (400, 415, 422, 500)),
        (200, '{"received":0}'),
        (200, '{"error":"no JSON"}'),
    ],
)
def test_an_endpoint_that_has_lost_gzip_is_served_plain(
    tmp_path: Path, status: int, body: str
) -> None:
    with bench(tmp_path, max_batch=10, compression="gzip") as b:
        b.put_backlog(20)
        assert b.work() is None
        b.server.requests.clear()
        b.server.then = no_gzip(status, body)
        b.put(20)
        b.work_for(2000)
        assert b.counts == (0, 0, 40, 0)
        packed = ["content-encoding" in request.headers for request in b.server.requests]
        assert packed.count(True) <= 12
        b.server.requests.clear()
        b.put(20)
        b.work_for(100)
        assert b.counts == (0, 0, 60, 0)
        packed = ["content-encoding" in request.headers for request in b.server.requests]
        assert packed == [False, False]


def test_gzip_stays_after_a_long_outage(tmp_path: Path) -> None:
    with bench(tmp_path, answer(), then=hang_up(), max_batch=10, compression="gzip") as b:
        b.put_backlog(10)
        b.work()
        b.put_backlog(10)
        b.work_for(2000)
        b.server.then = answer()
        b.work_for(2000)
        assert b.counts == (0, 0, 20, 0)
        assert all("content-encoding" in request.headers for request in b.server.requests)


def test_a_bad_fix_is_found_where_no_gzip_is_taken(tmp_path: Path) -> None:
    def run(line: Line, request: Request) -> None:
        bad = any(seq == 3 for _, seq in request.names)
        if bad or "content-encoding" in request.headers:
            line.reply(400)
        else:
            line.server.take(request)
            line.reply(200)

    with bench(tmp_path, then=Act(run), compression="gzip") as b:
        b.put_backlog(16)
        b.work_among_live(6)
        assert b.dead_seqs == {3}
        assert b.counts == (0, 0, 21, 1)


def test_a_search_does_not_send_each_part_packed_and_plain(tmp_path: Path) -> None:
    with bench(tmp_path, then=refusing({3}), compression="gzip") as b:
        b.put_backlog(16)
        b.work()
        packed = ["content-encoding" in request.headers for request in b.server.requests]
        assert packed == [True] + [False] * 11
        b.work_among_live(10)
        assert b.dead_seqs == {3}
        assert "content-encoding" in b.server.requests[-1].headers


def test_an_hour_later_gzip_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with bench(tmp_path, then=no_gzip(415), max_batch=10, compression="gzip") as b:

        def packed() -> list[bool]:
            b.put_backlog(20)
            assert b.work() is None
            requests = b.server.requests.copy()
            b.server.requests.clear()
            return ["content-encoding" in request.headers for request in requests]

        assert packed() == [True, False, False]
        b.clock.advance(3599)
        assert packed() == [False, False]
        b.clock.advance(1)
        assert packed() == [True, False, False]
        b.server.then = answer()
        b.clock.advance(3600)
        assert packed() == [True, True]
        assert b.counts == (0, 0, 80, 0)
    assert caplog.messages == [
        "the endpoint does not accept gzip (415): uploads stay plain",
        "the endpoint accepts gzip now",
    ]


# What it tells


def test_an_outage_is_two_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with bench(tmp_path, hang_up(), answer(503), hang_up(), hang_up(), answer(429)) as b:
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


# Stopping, and faults of our own


def test_close_ends_a_request_in_flight(tmp_path: Path) -> None:
    with bench(tmp_path, hang(), timeout_s=60.0) as b:
        b.put_backlog(2)
        thread = threading.Thread(target=b.step)
        thread.start()
        while not b.server.requests:
            thread.join(0.01)
        b.uploader.close()
        thread.join(60)
        assert not thread.is_alive()
        assert b.step() is None
        b.uploader.last_upload(1)  # the last exchange did not go well
        assert len(b.server.requests) == 1
        assert b.counts == (2, 0, 0, 0)


def test_a_last_upload_sends_nothing_beside_a_request_that_does_not_end(tmp_path: Path) -> None:
    with bench(tmp_path, answer(), hang(), timeout_s=60.0, live_first=False) as b:
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
        assert b.counts == (1, 0, 2, 0)


def test_close_in_the_middle_of_a_search_hands_back_every_lease(tmp_path: Path) -> None:
    with bench(tmp_path, then=refusing({5})) as b:
        b.put_backlog(16)
        while b.queue.stats().in_flight < 8:
            b.step()
        b.uploader.close()
        assert b.queue.stats().in_flight == 0
        assert sum(b.counts) == 16


def test_close_during_a_request_of_a_search_hands_back_every_lease(tmp_path: Path) -> None:
    with bench(tmp_path, answer(400), answer(400), hang(), timeout_s=60.0) as b:
        b.put_backlog(16)
        b.step()
        b.step()
        thread = threading.Thread(target=b.step)
        thread.start()
        b.server.wait_for(lambda server: len(server.requests) == 3)
        b.uploader.close()
        thread.join(60)
        assert b.counts == (16, 0, 0, 0)


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


@pytest.mark.parametrize("where", ["encode", "exchange", "read"])
def test_whatever_raises_leaves_nothing_leased_and_the_batch_unanswered(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("a bug")

    broken_format = WireFormat(
        broken if where == "encode" else native.encode,
        broken if where == "read" else native.FORMAT.read,
    )
    with bench(tmp_path) as b:
        b.put_backlog(4)
        with monkeypatch.context() as patch:
            patch.setattr(b.uploader._sender, "_format", broken_format)
            if where == "exchange":
                patch.setattr(b.transport, "exchange", broken)
            with pytest.raises(RuntimeError):
                b.step()
        assert b.counts == (0, 4, 0, 0)
        assert b.work() is None
        assert b.counts == (0, 0, 4, 0)


def test_what_raises_where_the_disk_refuses_too_leaves_nothing_leased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = WireFormat(native.encode, mock.Mock(side_effect=RuntimeError("a bug")))
    with bench(tmp_path, answer(400)) as b:
        b.put_backlog(4)
        b.step()  # refused: two halves are leased
        with monkeypatch.context() as patch:
            patch.setattr(b.uploader._sender, "_format", broken)
            patch.setattr(b.queue.shared, "write", mock.Mock(side_effect=StorageError("is full")))
            with pytest.raises(RuntimeError, match="a bug"):
                b.step()
        assert b.work() is None
        assert b.counts == (0, 0, 4, 0)


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
