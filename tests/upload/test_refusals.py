"""Refusals by servers that refuse at random, or everything at first; and reloads."""

import random
from contextlib import closing
from pathlib import Path

import pytest
from misbehaving import Act, Line, Request, Server, answer, refusing
from upload.upload_parts import DAY_MS, NOW_MS, Journey

from telemetry_agent.ackqueue.row_states import State


def refusing_at_random(share: float, bad: set[int], rng: random.Random) -> Act:
    """Answer 400 to a share of all requests, and to each request with a bad fix."""

    def run(line: Line, request: Request) -> None:
        if rng.random() < share or any(seq in bad for _, seq in request.names):
            line.reply(400)
        else:
            line.server.take(request)
            line.reply(200)

    return Act(run)


# One fix in 1,024 is refused ten times in a row by chance. (60 seeds: 7 of 15,000 fixes.)
@pytest.mark.parametrize(("share", "seeds", "dead_max"), [(0.5, 20, 5), (0.1, 5, 0)])
def test_an_endpoint_that_refuses_at_random_buries_no_good_fix(
    tmp_path: Path, share: float, seeds: int, dead_max: int
) -> None:
    """5,000 good fixes over all seeds, and two bad fixes in each seed."""
    dead = 0
    count = 5000 // seeds
    for seed in range(seeds):
        folder = tmp_path / str(seed)
        folder.mkdir()
        act = refusing_at_random(share, {7, count // 2}, random.Random(seed))
        with Server(then=act) as server, closing(Journey(server, folder, seed)) as journey:
            journey.put_backlog([NOW_MS - DAY_MS + 1000 * n for n in range(count)])
            journey.drive(700)
            failed = {seq for _, seq in journey.names(State.ACK_FAILED)}
            assert {7, count // 2} <= failed
            dead += len(failed) - 2
    assert dead <= dead_max


def test_an_endpoint_that_refuses_all_until_the_first_single_request_buries_none(
    tmp_path: Path,
) -> None:
    seen: list[Request] = []

    def run(line: Line, request: Request) -> None:
        single = len(request.names) == 1
        if not seen and not single:
            line.reply(400)
            return
        if single:
            seen.append(request)
        if len(seen) == 1 and single:
            line.reply(400)
            return
        line.server.take(request)
        line.reply(200)

    with Server(then=Act(run)) as server, closing(Journey(server, tmp_path)) as journey:
        journey.put_backlog([NOW_MS - DAY_MS + 1000 * n for n in range(500)])
        journey.drive(120)
        assert not journey.names(State.ACK_FAILED)
        assert journey.queue.stats().acked >= 600


def in_turn(status: int, servers: int) -> Act:
    """A proxy that passes requests on to its servers in turn; only the last server works."""
    count = 0

    def run(line: Line, request: Request) -> None:
        nonlocal count
        count += 1
        if count % servers:
            line.reply(status)
        else:
            line.server.take(request)
            line.reply(200)

    return Act(run)


@pytest.mark.parametrize(("exchange_s", "flush_s"), [(0.01, 10.0), (1.0, 1.0)])
@pytest.mark.parametrize("servers", [2, 3, 4])
@pytest.mark.parametrize("status", [400, 500])
def test_behind_a_proxy_whose_servers_have_turns_a_broken_one_buries_no_good_fix(
    tmp_path: Path, status: int, servers: int, exchange_s: float, flush_s: float
) -> None:
    """A suspect could always reach the broken server, and its witnesses a working one."""
    with (
        Server(then=in_turn(status, servers)) as server,
        closing(Journey(server, tmp_path, backoff_max_s=2.0, flush_every_s=flush_s)) as journey,
    ):
        journey.exchange_s = exchange_s
        journey.put_backlog([NOW_MS - DAY_MS + 1000 * n for n in range(200)])
        journey.drive(600)
        assert not journey.names(State.ACK_FAILED)
        assert journey.queue.stats().acked > 100


@pytest.mark.parametrize("seed", range(6))
def test_a_reload_in_the_middle_of_anything_strands_nothing(tmp_path: Path, seed: int) -> None:
    """100 reloads at random steps of a search, a hold or a run, with bad fixes among good ones."""
    rng = random.Random(seed)
    bad = {3, 64, 65, 200, *range(300, 360)}
    with (
        Server(then=refusing_at_random(0.1, bad, rng)) as server,
        closing(Journey(server, tmp_path, seed)) as journey,
    ):
        journey.put_backlog([NOW_MS - DAY_MS + 1000 * n for n in range(1000)])
        reloads = 0

        def maybe_reload(_: int) -> None:
            nonlocal reloads
            if reloads < 100 and rng.random() < 0.7:
                reloads += 1
                if rng.random() < 0.3:
                    server.then = rng.choice(
                        [answer(401), answer(503), refusing_at_random(0.1, bad, rng)]
                    )
                journey.reload()

        journey.drive(200, maybe_reload)
        assert reloads == 100
        server.then = refusing(bad)
        journey.reload()
        assert journey.queue.stats().in_flight == 0
        journey.drive(900)
        stats = journey.queue.stats()
        assert stats.in_flight == 0
        good = {name for name in journey.recorded_s if name[1] not in bad}
        done = {n for n in good if journey.recorded_s[n] < journey.clock.now_s - 15}
        missing = sorted(seq for _, seq in done - set(server.ledger))
        assert not missing
        assert {seq for _, seq in journey.names(State.ACK_FAILED)} <= bad
