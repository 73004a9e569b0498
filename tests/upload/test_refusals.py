"""What is refused, before servers that refuse by age, at random, or everything at first."""

import json
import random
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from fakes import AlwaysReachable, FakeClock
from misbehaving import Act, Line, Name, Request, Server, answer, refusing

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.row_states import State
from telemetry_agent.model import Fix
from telemetry_agent.upload.formats import native
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import UploadPolicy
from telemetry_agent.upload.upload_status import StatusKeeper
from telemetry_agent.upload.uploader import Uploader

NOW_MS = 1764426119000
DAY_MS = 86_400_000
FLUSH_S = 10.0


class Journey:
    """An agent with an old backlog that records one fix a second."""

    def __init__(self, server: Server, folder: Path, seed: int = 1, **policy: object) -> None:
        self.server = server
        self.clock = FakeClock()
        self.queue = AckQueue(folder / "queue.db", clock=self.clock)
        self.transport = Transport(server.url)
        self.policy = UploadPolicy(**{"timeout_s": 5.0, "compression": "none", **policy})  # type: ignore[arg-type]
        self.seed = seed
        self.exchange_s = 0.01
        self.keeper = StatusKeeper(self.clock)
        self.a_user_waits = False
        self.uploader = self.start()
        self.recorded_s: dict[Name, float] = {}
        self.arrived_s: dict[Name, float] = {}

    def start(self) -> Uploader:
        rng = random.Random(self.seed)
        return Uploader(
            self.queue,
            native.FORMAT,
            self.transport,
            self.policy,
            reachability=AlwaysReachable,
            keeper=self.keeper,
            urgent=lambda: self.a_user_waits,
            clock=self.clock,
            rng=rng,
        )

    def reload(self) -> None:
        """As SIGHUP does it: the old uploader ends, a new one goes on."""
        self.uploader.close()
        self.transport.rearm()
        self.uploader = self.start()

    def put(self, time_ms: int) -> Name:
        record = self.queue.put(Fix(time_ms, 48_000000000, 11_000000000), "van-07")
        name = record.stream, record.seq
        self.recorded_s[name] = self.clock.now_s
        return name

    def put_backlog(self, times_ms: list[int]) -> list[Name]:
        names = [self.put(time_ms) for time_ms in times_ms]
        batch = self.queue.lease(len(names))
        assert batch is not None
        self.queue.release(batch)
        return names

    def drive(self, seconds: int, then: Callable[[int], None] = lambda _: None) -> None:
        """Record one fix a second, and let the uploader work."""
        next_s = self.clock.now_s
        for second in range(seconds):
            self.put(NOW_MS + 1000 * second)
            end_s = self.clock.now_s + 1
            while next_s <= end_s:
                self.clock.now_s = max(self.clock.now_s, next_s)
                wait_s = self.uploader.step(self.clock.now_s)
                self.note_arrivals()
                next_s = end_s + 1e-3 if wait_s is None else self.clock.now_s + wait_s
                if wait_s == 0:
                    self.clock.advance(self.exchange_s)
                    next_s = self.clock.now_s
            self.clock.now_s = end_s
            next_s = end_s
            then(second)

    def note_arrivals(self) -> None:
        for name in self.server.ledger:
            self.arrived_s.setdefault(name, self.clock.now_s)

    def names(self, state: State) -> set[Name]:
        return {(s.record.stream, s.record.seq) for s in self.queue.stored(state)}

    def close(self) -> None:
        self.transport.close()
        self.queue.close()


def accepts_from(time_ms: int, refused: list[Request]) -> Act:
    """Refuse each request that holds an older fix, whole."""

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
    """Also where live fixes are accepted between the requests of a search."""
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
    """Each of its single fixes costs an exchange, and live fixes do not wait for them."""
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


def refusing_at_random(share: float, bad: set[int], rng: random.Random) -> Act:
    """400 to a share of all requests, and to each that holds a bad fix."""

    def run(line: Line, request: Request) -> None:
        if rng.random() < share or any(seq in bad for _, seq in request.names):
            line.reply(400)
        else:
            line.server.take(request)
            line.reply(200)

    return Act(run)


# Ten refusals in a row come by chance to one fix in 1,024. (60 seeds: 7 of 15,000 fixes.)
@pytest.mark.parametrize(("share", "seeds", "dead_max"), [(0.5, 20, 5), (0.1, 5, 0)])
def test_an_endpoint_that_refuses_at_random_buries_no_good_fix(
    tmp_path: Path, share: float, seeds: int, dead_max: int
) -> None:
    """5,000 good fixes over all seeds, and two bad ones in each."""
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


@pytest.mark.parametrize("seed", range(6))
def test_a_reload_in_the_middle_of_anything_strands_nothing(tmp_path: Path, seed: int) -> None:
    """100 reloads at random steps of a search, a hold, a run, with bad fixes among good ones."""
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


def test_a_user_who_waits_for_the_backlog_sees_that_a_fix_waits_for_a_witness(
    tmp_path: Path,
) -> None:
    with Server(then=refusing({2})) as server, closing(Journey(server, tmp_path)) as journey:
        for number in range(2):
            journey.put_backlog([NOW_MS + 1000 * number])
            while (wait_s := journey.uploader.step(journey.clock.now_s)) == 0:
                pass
        assert (journey.keeper.status.state, journey.keeper.status.next_attempt_s) == ("ok", None)
        journey.a_user_waits = True
        assert journey.uploader.step(journey.clock.now_s) == wait_s
        status = journey.keeper.status
        assert (status.state, status.last_error) == ("waiting", "400: bad fix")
        assert status.next_attempt_s == journey.clock.now_s + (wait_s or 0)
