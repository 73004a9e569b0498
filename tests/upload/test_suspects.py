"""When a refused fix becomes a dead letter: with a witness, alone and in runs."""

import json
import random
from contextlib import closing
from datetime import datetime
from math import ceil, log2
from pathlib import Path

import pytest
from misbehaving import Act, Line, Request, Server, answer, refusing
from upload.upload_parts import BACKOFF_MAX_S, DAY_MS, NOW_MS, Journey, bench

from telemetry_agent.ackqueue.row_states import State

FLUSH_S = 10.0


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
        each_time = 2 if compression == "gzip" else 1  # compressed, and once more plain
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


def accepts_from(time_ms: int, refused: list[Request]) -> Act:
    """Refuse each whole request that contains an older fix."""

    def run(line: Line, request: Request) -> None:
        if any(fix["time"] < time_ms for fix in times(request)):
            refused.append(request)
            line.reply(400, "older than the retention")
        else:
            line.server.take(request)
            line.reply(200)

    return Act(run)


def times(request: Request) -> list[dict[str, int]]:
    fixes = json.loads(request.body)["fixes"]
    return [
        {"time": round(datetime.fromisoformat(fix["time"]).timestamp() * 1000)} for fix in fixes
    ]


@pytest.mark.parametrize(("flush_s", "exchange_s"), [(FLUSH_S, 0.01), (1.0, 0.2)])
def test_a_backlog_that_is_too_old_delays_no_live_fix_and_costs_few_refusals(
    tmp_path: Path, flush_s: float, exchange_s: float
) -> None:
    """Also if live fixes are accepted between the requests of a search."""
    refused: list[Request] = []
    with (
        Server(then=accepts_from(NOW_MS, refused)) as server,
        closing(Journey(server, tmp_path, flush_every_s=flush_s)) as journey,
    ):
        journey.exchange_s = exchange_s
        old = journey.put_backlog([NOW_MS - DAY_MS + 1000 * n for n in range(1000)])
        journey.drive(120)
        live = set(journey.recorded_s) - set(old)
        late = {name for name in live if journey.recorded_s[name] < journey.clock.now_s - 11}
        assert late <= set(journey.arrived_s)
        waits_s = [journey.arrived_s[name] - journey.recorded_s[name] for name in late]
        assert max(waits_s) <= flush_s + 1
        assert journey.names(State.ACK_FAILED) == set(old)
        assert len(refused) <= 80
        reasons = {stored.reason for stored in journey.queue.stored(State.ACK_FAILED)}
        assert reasons == {"refused as part of a run: 400: older than the retention"}


def test_a_run_of_old_fixes_takes_no_live_fix_along(tmp_path: Path) -> None:
    """Each old fix that is sent alone costs an exchange, and live fixes do not wait for it."""
    with (
        Server(then=accepts_from(NOW_MS, [])) as server,
        closing(Journey(server, tmp_path)) as journey,
    ):
        journey.exchange_s = 0.9
        old = journey.put_backlog([NOW_MS - DAY_MS + 1000 * n for n in range(1000)])
        journey.drive(60)
        assert journey.names(State.ACK_FAILED) == set(old)
        in_time = FLUSH_S + 3 * journey.exchange_s
        live = set(journey.recorded_s) - set(old)
        due = {name for name in live if journey.recorded_s[name] < journey.clock.now_s - in_time}
        waits_s = [journey.arrived_s[name] - journey.recorded_s[name] for name in due]
        assert max(waits_s) <= in_time


@pytest.mark.parametrize("seed", range(5))
def test_fixes_that_are_accepted_among_those_that_are_too_old_are_delivered(
    tmp_path: Path, seed: int
) -> None:
    refused: list[Request] = []
    good = set(random.Random(seed).sample(range(1000), 20))
    with (
        Server(then=accepts_from(NOW_MS - 60_000, refused)) as server,
        closing(Journey(server, tmp_path)) as journey,
    ):
        old = journey.put_backlog(
            [NOW_MS - (1000 if n in good else DAY_MS) + n for n in range(1000)]
        )
        journey.drive(180)
        delivered = {old[n] for n in good}
        assert delivered <= set(server.ledger)
        assert journey.names(State.ACK_FAILED) == set(old) - delivered


def test_the_order_counts_and_is_not_held_either(tmp_path: Path) -> None:
    refused: list[Request] = []
    with (
        Server(then=accepts_from(NOW_MS, refused)) as server,
        closing(Journey(server, tmp_path, live_first=False)) as journey,
    ):
        old = journey.put_backlog([NOW_MS - DAY_MS + 1000 * n for n in range(1000)])
        journey.drive(400)
        assert journey.names(State.ACK_FAILED) == set(old)
        arrived = [seq for request in server.requests for _, seq in request.names]
        assert len(refused) <= 80
        taken = [n for r in server.requests if r not in refused for n in r.names]
        assert len(taken) >= 380
        assert arrived
