"""The steps of the monitor with a fake network and a fake clock."""

import logging
import random
import socket

import pytest
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from telemetry_agent.addresses import Address, UnreachableError
from telemetry_agent.connecting import Connecting
from telemetry_agent.connectivity.monitor import Monitor, Probe
from telemetry_agent.connectivity.routes import Path
from telemetry_agent.tasks import KernelBell

HERE = Address(socket.AF_INET, ("10.0.0.9", 80))
PROBE_EVERY_S = 30.0
SPREAD_S = 2.0
SETTLED_S = 0.05
A_WAY, ANOTHER_WAY = Path("10.0.0.1"), Path("10.0.0.2")


class FakeBell(KernelBell):
    """A bell whose kernel messages come from the test. Nothing waits for it."""

    def __init__(self) -> None:
        # No descriptors, unlike a real bell: benchmarks/fleet.py has 10,000.
        self.news = False
        self.rings = 0
        self.closed = False

    def ring(self) -> None:
        self.rings += 1

    def watch(self, descriptors: list[tuple[int, int]]) -> None:
        pass

    def messages(self) -> list[bytes]:
        news, self.news = self.news, False
        return [b"changed"] if news else []

    def close(self) -> None:
        self.closed = True


class FakeConnecting(Connecting):
    """Ends ``takes_s`` after its start, with the result that the network gives at that time."""

    def __init__(self, probe: "FakeProbe", now_s: float) -> None:
        self.probe = probe
        self.began_s = now_s

    def poll(self, now_s: float) -> socket.socket | None:
        if now_s < self.due_s():
            return None
        self.probe.found = [HERE]
        if self.probe.world.way is None:
            raise UnreachableError("no route to 10.0.0.9:80", "no-route")
        if not self.probe.world.answers:
            raise UnreachableError("connection refused by 10.0.0.9:80", "refused")
        return socket.socket()

    def due_s(self) -> float:
        return self.began_s + self.probe.takes_s

    def watched(self) -> list[tuple[int, int]]:
        return []

    def cancel(self) -> None:
        self.probe.running = False


class FakeProbe(Probe):
    """A probe without a network; each connection takes ``takes_s``."""

    def __init__(self, world: "World") -> None:
        super().__init__("endpoint.test", 80)
        self.found: list[Address] = []
        self.world = world
        self.takes_s = 0.0
        self.starts: list[float] = []
        self.running = False

    def begin(self, now_s: float) -> Connecting:
        self.running = True
        self.starts.append(now_s)
        return FakeConnecting(self, now_s)

    def paths(self) -> dict[Address, Path | None]:
        return dict.fromkeys(self.found, self.world.way)


class World:
    """A network and its monitor; ``run`` advances the time and steps as the loop does."""

    def __init__(self, *, spread_s: float = SPREAD_S) -> None:
        self.way: Path | None = A_WAY
        self.answers = True
        self.clock = FakeClock()
        self.bell = FakeBell()
        self.probe = FakeProbe(self)
        self.returns: list[float] = []
        self.spreads: list[float] = []
        self.changes: list[float] = []
        self.monitor = Monitor(
            self.probe,
            self.bell,
            probe_every_s=PROBE_EVERY_S,
            resume_spread_s=spread_s,
            on_return=self.returned,
            on_change=lambda: self.changes.append(self.clock.now_s),
            clock=self.clock,
            rng=random.Random(1),
        )

    def returned(self, spread_s: float) -> None:
        self.returns.append(self.clock.now_s)
        self.spreads.append(spread_s)

    @property
    def word(self) -> str:
        return self.monitor.state.word

    def change_way(self, way: Path | None) -> None:
        self.way = way
        self.news()

    def news(self) -> None:
        self.bell.news = True

    def endpoint_answers(self, answers: bool) -> None:
        self.answers = answers

    def probes_take(self, seconds: float) -> None:
        self.probe.takes_s = seconds

    def doubt(self) -> None:
        self.monitor.doubt()

    def answered(self) -> None:
        self.monitor.answered()

    def run(self, for_s: float = 0.0) -> None:
        end_s = self.clock.now_s + for_s
        for _ in range(10_000):
            wait_s = self.monitor.step(self.clock.now_s)
            if wait_s is None or self.clock.now_s + wait_s > end_s:
                break
            self.clock.advance(wait_s)
        else:
            raise AssertionError("it spins")
        self.clock.now_s = end_s


@pytest.fixture
def world() -> World:
    """A network that is up and a monitor that is idle."""
    made = World()
    made.run()
    assert made.probe.starts == [1000.0]
    assert made.monitor.step(1000.0) is None
    return made


def test_it_counts_the_endpoint_as_up_until_it_knows_better() -> None:
    world = World()
    world.answers = False
    world.probe.takes_s = 5.0
    assert world.word == "up"
    world.run(4.9)
    assert world.word == "up"
    world.run(0.2)
    assert world.word == "unreachable"
    assert world.monitor.state.since_s == 1005.0
    assert world.monitor.state.error == "connection refused by 10.0.0.9:80"


def test_news_before_an_address_is_known_start_the_look_up_again() -> None:
    """The network may just have become available."""
    world = World()
    world.probe.takes_s = 5.0
    world.news()
    world.run(1)
    assert world.probe.starts == [1000.0, 1000.0 + SETTLED_S]
    assert world.word == "up"


def test_up_waits_for_news_alone(world: World) -> None:
    world.run(1e6)
    assert len(world.probe.starts) == 1
    assert world.returns == []


def test_news_that_do_not_concern_the_endpoint_cost_nothing(world: World) -> None:
    world.news()
    world.run(100)
    assert world.monitor.step(world.clock.now_s) is None
    assert len(world.probe.starts) == 1
    assert world.changes == []


def test_the_kernel_takes_the_way_and_gives_it_back(world: World) -> None:
    world.change_way(None)
    world.run(SETTLED_S)
    assert world.word == "no-route"
    assert world.changes == [1000.0 + SETTLED_S]
    world.run(3600)
    assert world.returns == []
    back_s = world.clock.now_s
    world.change_way(A_WAY)
    world.run(SETTLED_S)
    assert world.word == "no-route"  # during the random wait
    world.run(SPREAD_S)
    assert world.word == "up"
    assert len(world.returns) == 1
    assert back_s + SETTLED_S < world.returns[0] <= back_s + SETTLED_S + SPREAD_S
    assert world.monitor.state.since_s == world.returns[0]
    assert len(world.changes) == 2


def test_the_random_wait_is_spread_over_the_whole_spread() -> None:
    waits = []
    rng = random.Random(7)
    for _ in range(200):
        world = World()
        world.monitor._rng = rng
        world.answers = False
        world.run()
        world.answers = True
        world.run(PROBE_EVERY_S + SPREAD_S)
        waits.append(world.returns[0] - 1000.0 - PROBE_EVERY_S)
    assert min(waits) < 0.1 * SPREAD_S
    assert max(waits) > 0.9 * SPREAD_S


def test_after_a_short_outage_nobody_waits_longer_than_a_tenth_of_it(world: World) -> None:
    world.change_way(None)
    world.run(SETTLED_S + 5)
    world.change_way(A_WAY)
    world.run(SETTLED_S + 0.51)
    assert len(world.returns) == 1
    assert 0.5 < world.spreads[0] < 0.6
    world.change_way(None)
    world.run(3600)
    world.change_way(A_WAY)
    world.run(SETTLED_S + SPREAD_S)
    assert world.spreads[1] == SPREAD_S


def test_without_a_spread_it_returns_at_once() -> None:
    world = World(spread_s=0)
    world.change_way(None)
    world.run(1)
    world.change_way(A_WAY)
    world.run(SETTLED_S)
    assert world.returns == [1001.0 + SETTLED_S]


def test_a_burst_of_news_is_looked_at_once(world: World) -> None:
    for way in (None, ANOTHER_WAY, None, ANOTHER_WAY):
        world.change_way(way)
        world.run(0.001)
    world.run(1)
    assert len(world.changes) == 1
    assert world.word == "up"


def test_news_without_end_do_not_put_off_the_look(world: World) -> None:
    world.change_way(None)
    for _ in range(6):
        world.news()
        world.run(0.01)
    assert world.word == "no-route"


def test_another_way_while_up_is_a_change_and_costs_no_probe(world: World) -> None:
    world.change_way(ANOTHER_WAY)
    world.run(1)
    assert len(world.changes) == 1
    assert len(world.probe.starts) == 1
    assert world.returns == []


def test_an_address_that_a_look_up_found_late_is_no_change(world: World) -> None:
    """The probe ended before."""
    world.probe.found = [HERE, Address(socket.AF_INET, ("10.0.0.10", 80))]
    world.news()
    world.run(1.0)
    assert world.changes == []
    world.change_way(ANOTHER_WAY)
    world.run(1.0)
    assert len(world.changes) == 1


def test_a_doubt_that_the_probe_does_not_share_is_no_return(world: World) -> None:
    world.doubt()
    assert world.bell.rings == 1
    world.run(100)
    assert len(world.probe.starts) == 2
    assert world.word == "up"
    assert world.returns == []


def test_connections_in_turn_reach_each_server_behind_a_load_balancer(world: World) -> None:
    """It gives every second connection to one server, which never answers."""
    world.run(1)
    attempts: list[int] = []
    for _ in range(6):
        attempts.append((len(world.probe.starts) + len(attempts)) % 2)
        world.doubt()
        world.run(100)
    assert {0, 1} == set(attempts[:3]) == set(attempts[3:])


def test_a_doubt_that_the_probe_shares_is_away_until_a_probe_succeeds(world: World) -> None:
    world.answers = False
    world.doubt()
    world.run(100)
    assert world.word == "unreachable"
    assert world.probe.starts == [1000.0, 1000.0, 1030.0, 1060.0, 1090.0]
    assert world.monitor.state.since_s == 1000.0
    world.answers = True
    world.run(PROBE_EVERY_S + SPREAD_S)
    assert world.word == "up"
    assert 1120.0 <= world.returns[0] <= 1120.0 + SPREAD_S
    world.run(1e6)
    assert len(world.probe.starts) == 6
    assert len(world.returns) == 1
    assert world.changes == []


def test_doubts_add_no_probe_while_one_runs_or_while_away(world: World) -> None:
    world.probe.takes_s = 5.0
    world.answers = False
    for _ in range(3):
        world.doubt()
        world.run(1)
    assert len(world.probe.starts) == 2
    world.run(5)
    assert world.word == "unreachable"
    world.doubt()
    world.run(1)
    assert len(world.probe.starts) == 2


def test_an_answer_ends_away_at_once(world: World) -> None:
    world.answers = False
    world.doubt()
    world.run(10)
    assert world.word == "unreachable"
    assert world.monitor.closed() is not None
    world.answered()
    assert world.monitor.closed() is None
    assert world.bell.rings == 2
    world.run()
    assert world.word == "up"
    assert world.returns == [1010.0]
    world.run(1e6)
    assert world.word == "up"
    assert len(world.probe.starts) == 2


def test_an_answer_outweighs_a_probe_that_fails_after_it(world: World) -> None:
    world.probe.takes_s = 5.0
    world.answers = False
    world.doubt()
    world.run(1)
    world.answered()
    world.run(100)
    assert world.word == "up"
    assert len(world.probe.starts) == 2


def test_the_last_word_of_an_exchange_counts(world: World) -> None:
    world.doubt()
    world.answered()
    world.run(1)
    assert len(world.probe.starts) == 1
    assert world.returns == []  # it was up all the time


def test_a_network_that_goes_during_the_random_wait_does_not_return(world: World) -> None:
    world.change_way(None)
    world.run(100)
    world.change_way(A_WAY)
    world.run(SETTLED_S)
    world.change_way(None)
    world.run(1000)
    assert world.returns == []
    assert world.word == "no-route"


def test_news_during_the_random_wait_do_not_prolong_it() -> None:
    world = World()
    world.way = None
    world.run(29)
    world.change_way(A_WAY)
    world.run(SETTLED_S)
    wait_s = world.monitor.step(world.clock.now_s)
    assert wait_s is not None
    due_s = world.clock.now_s + wait_s
    world.change_way(ANOTHER_WAY)
    world.run(SPREAD_S)
    assert len(world.probe.starts) == 3  # the new route is also tried
    assert world.returns == [due_s]


def test_a_way_that_changes_during_a_probe_starts_it_anew(world: World) -> None:
    world.probe.takes_s = 5.0
    world.answers = False
    world.doubt()
    world.run(4)
    world.answers = True
    world.change_way(ANOTHER_WAY)
    world.run(2)
    assert world.probe.starts == [1000.0, 1000.0, 1004.0 + SETTLED_S]
    assert world.word == "up"


def test_news_without_a_way_look_for_other_addresses_of_the_name(world: World) -> None:
    world.change_way(None)
    world.run(1)
    tries = len(world.probe.starts)
    world.news()
    world.run(1)
    assert len(world.probe.starts) == tries + 1
    assert len(world.changes) == 1


def test_a_way_that_is_there_again_before_it_was_looked_at_is_tried(world: World) -> None:
    """Meanwhile an exchange failed; it started a probe, which found no route."""
    world.change_way(None)
    world.doubt()
    world.run()
    assert world.word == "no-route"
    world.change_way(A_WAY)
    world.run(SETTLED_S + SPREAD_S)
    assert world.word == "up"
    assert len(world.returns) == 1
    assert world.changes == []  # earlier connections still work


def test_unreachable_news_that_change_nothing_cost_no_probe(world: World) -> None:
    world.answers = False
    world.doubt()
    world.run(1)
    for _ in range(20):
        world.news()
        world.run(1)
    assert world.probe.starts == [1000.0, 1000.0]


def test_each_change_is_said_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    world.answers = False
    world.doubt()
    world.run(100)
    world.change_way(None)
    world.run(100)
    world.change_way(A_WAY)
    world.answers = True
    world.run(100)
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == [
        "the endpoint is unreachable",
        "the endpoint is no-route",
        "the endpoint can be reached again",
    ]


def test_close_frees_everything_and_may_be_repeated(world: World) -> None:
    world.doubt()
    world.probe.takes_s = 5.0
    world.run()
    assert world.probe.running
    world.monitor.close()
    world.monitor.close()
    assert not world.probe.running
    assert world.bell.closed


ACTIONS = st.one_of(
    st.tuples(st.just("change_way"), st.sampled_from([None, A_WAY, ANOTHER_WAY])),
    st.tuples(st.just("endpoint_answers"), st.booleans()),
    st.tuples(st.just("probes_take"), st.sampled_from([0.0, 0.2, 5.0])),
    st.tuples(st.sampled_from(["doubt", "answered", "news"])),
    st.tuples(st.just("run"), st.floats(0, 100)),
)


@given(st.lists(ACTIONS, max_size=40))
def test_whatever_happens_it_ends_up_right_and_never_spins(
    actions: list[tuple[str, *tuple[object, ...]]],
) -> None:
    world = World()
    for name, *values in actions:
        getattr(world, name)(*values)
    # The network breaks: two doubts are enough to detect it.
    world.run(20)
    world.answers = False
    world.run(SPREAD_S)  # the random wait of a return that a probe found
    for _ in range(2):
        world.doubt()
        world.run(20)
    assert world.word == ("unreachable" if world.way else "no-route")
    # The network recovers: a probe or the kernel reports it.
    before = len(world.returns)
    world.answers = True
    if world.way is None:
        world.change_way(A_WAY)
    world.run(PROBE_EVERY_S + world.probe.takes_s + SPREAD_S + 1)
    assert world.word == "up"
    assert len(world.returns) == before + 1
    # After that, no probe is made.
    tries = len(world.probe.starts)
    world.run(1e4)
    assert len(world.probe.starts) == tries
