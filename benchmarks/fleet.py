"""A fleet comes back: 10,000 agents, each with a day's backlog, before one endpoint.

::

    python benchmarks/fleet.py [--agents 10000] [--backlog 86400] [--svg FILE]
    python benchmarks/fleet.py --choices

The network of a region returns, and the kernels of all agents notice in the same instant. Each
agent is the real ``Monitor`` and the real ``Uploader`` with its ``Pace`` and
``Sizing``, and answers are judged by the real format; queue, wire and clock are made up, so that
hours of a fleet take minutes. Each agent still records a fix a second, and has 1 Mbit/s.

The endpoint serves 500 batches a second, holds those of one second in its queue, and answers 429 or
503 at once to more than that: without a time, or all of them with ``Retry-After: 10``. With fewer
agents it serves fewer.

The naive policy is the same code without its rules for a fleet: it comes back at once, and tries
again exactly 10 s after each failure, whatever their number. ``--choices`` compares the defaults
with others, with a tenth of the agents and an eighth of the backlog.
"""

import argparse
import gc
import heapq
import itertools
import logging
import random
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from connectivity.test_monitor import A_WAY, FakeBell, FakeProbe
from fakes import FakeClock
from timelines import draw

from telemetry_agent.config.settings import UploadSettings
from telemetry_agent.connectivity.monitor import Monitor
from telemetry_agent.connectivity.routes import Path as Way
from telemetry_agent.model import Answer, Backlog, Batch, Fix, Payload, Record
from telemetry_agent.upload.formats.answers import judge
from telemetry_agent.upload.interfaces import NoAnswer, OnAnswer, UploadPolicy, WireFormat
from telemetry_agent.upload.retry import Pace
from telemetry_agent.upload.uploader import Uploader

ROUND_TRIP_S = 0.1
BYTES_PER_S = 1e6 / 8
BYTES_PER_FIX, BYTES_PER_REQUEST = 22, 400
"""As measured by ``bytes_per_fix.py``."""
AGENTS_PER_BATCH_A_S = 20
_AWAY_S = 300.0  # of the outage that are simulated: after that every agent knows of it
_STREAM = "9f0c2d6e11a7b354"
_RECORD = Record(_STREAM, 1, "van-07", Fix(1_795_435_200_000, 48_117300000, 11_516667000))


class Longest(random.Random):
    """Draws the end of every interval, without chance."""

    def uniform(self, a: float, b: float) -> float:  # noqa: ARG002 - Random's signature
        """The end."""
        return b


@dataclass(frozen=True)
class Policy:
    """How the fleet behaves, and the other values of a run."""

    upload: UploadPolicy = field(default_factory=UploadPolicy)
    resume_spread_s: float = UploadSettings.resume_spread_s
    by_chance: bool = True
    paced: bool = True
    retry_after_s: int | None = None

    def but(self, **upload: Any) -> "Policy":
        """The same with other values under ``[upload]``."""
        return replace(self, upload=replace(self.upload, **upload))


DEFAULTS = Policy()
NAIVE = Policy(
    UploadPolicy(backoff_initial_s=10, backoff_max_s=10), 0.0, by_chance=False, paced=False
)


class NoPace(Pace):
    """Forget everything after one success."""

    def delivered(self, now_s: float, *, live: bool) -> None:  # noqa: ARG002 - the signature
        """Continue at once."""
        self.hurry()


class Endpoint:
    """Serves this number of batches a second, and refuses more."""

    def __init__(self, clock: FakeClock, batches_per_s: float, retry_after_s: int | None) -> None:
        self.arrivals: Counter[int] = Counter()
        """Second of the clock -> requests."""
        self.served = 0
        self._clock = clock
        self._each_s = 1 / batches_per_s
        self._free_s = 0.0
        self._statuses = itertools.cycle((429, 503))
        asked = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
        self._refusal_headers: Mapping[str, str] = asked

    def take(self) -> tuple[int, Mapping[str, str]]:
        """Take a request; returns its answer, status and headers, and when it comes."""
        now_s = self._clock.now_s
        self.arrivals[int(now_s)] += 1
        self._free_s = max(self._free_s, now_s)
        if self._free_s - now_s > 1:
            return next(self._statuses), self._refusal_headers
        self._free_s += self._each_s
        self._clock.now_s = self._free_s
        self.served += 1
        return 204, {}


class Wire:
    """The part of a ``Transport`` that the uploader uses: a link, and the endpoint behind it."""

    sent_bytes = 0

    def __init__(self, region: "Region") -> None:
        self._region = region
        self._endpoint = region.endpoint
        self._clock = region.clock
        self.dialer = self.credentials = self  # the same part of them
        self.aborted = False

    def exchange(self, payload: Payload, timeout_s: float) -> Answer | NoAnswer:  # noqa: ARG002 - the interface's
        """Takes its time."""
        if self._region.way is None:
            return NoAnswer("no route", "no-route")
        self._clock.advance(ROUND_TRIP_S)
        # It answers or queues a request as it begins. So requests come in the order in which they
        # are made here, however long their bodies take.
        status, headers = self._endpoint.take()
        self._clock.advance(len(payload.body) / BYTES_PER_S)
        return Answer(status, headers, b"", verified_tls=True)

    def series(
        self, payloads: Sequence[Payload], timeout_s: float, on_answer: OnAnswer, *, pipelined: bool
    ) -> tuple[NoAnswer | None, int]:
        """The native format has none."""
        raise NotImplementedError

    def masked(self, text: str) -> str:
        """There are no secrets."""
        return text

    def abort(self) -> None:
        """Nothing is ever under way."""

    rearm = drop_idle = close = abort


@cache
def _sized(count: int) -> Payload:
    body = bytes(BYTES_PER_REQUEST + BYTES_PER_FIX * count)
    return Payload(body, {}, compressed=True)


def _encode(batch: Batch, compression: str) -> Payload:  # noqa: ARG001 - the interface's
    return _sized(len(batch.records))


SIZED = WireFormat(_encode, judge)
"""Bodies as long as those of the native format, and its answers."""


class Queue:
    """The uploader's ``Queue``, as counts; a fix is recorded each second."""

    def __init__(self, clock: FakeClock, backlog: int, phase_s: float) -> None:
        self.backlog_left = backlog
        self.current_s = float("inf")
        """When the first fix was delivered that had not waited for others."""
        self.drained_s = float("inf")
        self._clock = clock
        self._phase_s = phase_s
        self._handed_out = self._recorded()
        self._old = backlog
        self._left_live = 0  # of those recorded in this run: live once, and not handed out
        self._leases = itertools.count(1)
        self._tuples: dict[int, tuple[Record, ...]] = {}

    @property
    def done(self) -> bool:
        """Drained and current."""
        return not self.backlog_left and self.current_s < float("inf")

    def _recorded(self) -> int:
        return int(self._clock.now_s - self._phase_s)

    def next_put_s(self) -> float:
        """When the next fix is recorded."""
        return self._recorded() + 1 + self._phase_s

    def backlog(self) -> Backlog:
        """See ``interfaces.BatchQueue``."""
        live = self._recorded() - self._handed_out
        since_s = self._handed_out + 1 + self._phase_s if live else None
        return Backlog(self._old + self._left_live + live, live, since_s)

    def lease(
        self,
        limit: int,
        *,
        live_first: bool,
        backlog_only: bool = False,  # noqa: ARG002
        besides: Collection[str] = (),  # noqa: ARG002
    ) -> Batch | None:
        """The newest of the live ones, or the oldest of the rest."""
        recorded = self._recorded()
        live = recorded - self._handed_out
        if live_first and live:
            count = min(limit, live)
            self._left_live += live - count
            self._handed_out = recorded
            return self._batch(count, live=True)
        if count := min(limit, self._old):
            self._old -= count
        elif count := min(limit, self._left_live):
            self._left_live -= count
        return self._batch(count, live=False) if count else None

    def _batch(self, count: int, *, live: bool) -> Batch:
        records = self._tuples.setdefault(count, (_RECORD,) * count)
        return Batch(next(self._leases), _STREAM, "van-07", records, live)

    def ack(
        self,
        batch: Batch,
        *,
        rejected: Mapping[int, str] = MappingProxyType({}),  # noqa: ARG002 - the interface's
        retry: Collection[int] = (),  # noqa: ARG002 - the interface's
    ) -> None:
        """Delivered."""
        if not batch.live:
            self.backlog_left -= min(self.backlog_left, len(batch.records))
            if not self.backlog_left:
                self.drained_s = min(self.drained_s, self._clock.now_s)
        if batch.live or not self._old + self._left_live:
            self.current_s = min(self.current_s, self._clock.now_s)

    def release(self, batch: Batch, *, answered: bool = True) -> None:  # noqa: ARG002 - the interface's
        """Take it back; what was live is backlog from now on."""
        if batch.live:
            self._left_live += len(batch.records)
        else:
            self._old += len(batch.records)

    def resume_unack(self) -> int:
        """No exchange ends without an answer here."""
        return 0

    def split(self, batch: Batch, at: int) -> tuple[Batch, Batch]:
        """Nothing is ever refused."""
        raise NotImplementedError

    def fail(self, batch: Batch, reason: str) -> None:
        """Nothing is ever refused."""
        raise NotImplementedError


class Agent:
    """Monitor and uploader, joined as in ``daemon/app.py``, and the world that its probe sees."""

    answers = True

    def __init__(self, policy: Policy, region: "Region", number: int, backlog: int) -> None:
        rng = random.Random(number) if policy.by_chance else Longest()
        clock = region.clock
        self.bell = FakeBell()
        self.queue = Queue(clock, backlog, number % 1024 / 1024)
        self.due_s = 0.0
        """When the uploader steps next."""
        self._region = region
        self.monitor = Monitor(
            FakeProbe(self),  # type: ignore[arg-type] # as much of a World as it uses
            self.bell,
            probe_every_s=30.0,
            resume_spread_s=policy.resume_spread_s,
            on_return=self._returned,
            on_change=lambda: self.uploader.network_changed(),  # noqa: PLW0108 - not there yet
            clock=clock,
            rng=rng,
        )
        self.uploader = Uploader(
            self.queue,
            SIZED,
            Wire(region),  # type: ignore[arg-type] # as much of a Transport as it uses
            policy.upload,
            reachability=lambda: self.monitor,
            clock=clock,
            rng=rng,
        )
        if not policy.paced:
            upload = policy.upload
            pace = NoPace(upload.backoff_initial_s, upload.backoff_max_s, rng)
            self.uploader._pace = pace  # noqa: SLF001 - what is compared

    def _returned(self, spread_s: float) -> None:
        self.uploader.network_returned(spread_s)
        self._region.plan(self, self._region.clock.now_s)

    @property
    def way(self) -> Way | None:
        """What the kernel says."""
        return self._region.way


@dataclass(frozen=True)
class Told:
    """The results of a run, in seconds since the return."""

    requests_each_s: list[int]
    served: int
    currents_s: list[float]
    """When the newest fix of each agent first reached the endpoint, in order."""
    drained_s: float

    def row(self, what: str) -> str:
        """One line of the table."""
        made = sum(self.requests_each_s)
        most_s = self.currents_s[len(self.currents_s) * 95 // 100]
        return (
            f"{what:<36}{max(self.requests_each_s):>9,}{made:>11,}{made - self.served:>10,}"
            f"{most_s:>11,.0f} s{self.currents_s[-1]:>8,.0f} s{self.drained_s:>8,.0f} s"
        )


HEAD = (
    f"{'peak a s':>9}{'requests':>11}{'refused':>10}{'95 % current':>13}{'all':>10}{'drained':>10}"
)


class Region:
    """All agents, their clock and their network."""

    def __init__(
        self,
        policy: Policy,
        *,
        agents: int,
        backlog: int,
    ) -> None:
        gc.collect()  # end the fleet before: each of its agents has a descriptor
        self.clock = FakeClock()
        self.way: Way | None = None
        self.endpoint = Endpoint(self.clock, agents / AGENTS_PER_BATCH_A_S, policy.retry_after_s)
        self._began_s = self.clock.now_s
        self._events: list[tuple[float, int, Agent, bool]] = []
        self._count = itertools.count()
        self._agents = [Agent(policy, self, number, backlog) for number in range(agents)]
        draw = random.Random(0)
        for agent in self._agents:
            self._push(self._began_s, agent, of_uploader=False)
            self.plan(agent, self._began_s + draw.uniform(0, _AWAY_S))

    def plan(self, agent: Agent, due_s: float) -> None:
        """The uploader's next step."""
        agent.due_s = due_s
        self._push(due_s, agent, of_uploader=True)

    def _push(self, at_s: float, agent: Agent, *, of_uploader: bool) -> None:
        heapq.heappush(self._events, (at_s, next(self._count), agent, of_uploader))

    def live(self) -> Told:
        """Simulate the end of the outage, and what follows."""
        self._run_until(self._began_s + _AWAY_S)
        returned_s = self.clock.now_s = self._began_s + _AWAY_S
        self.way = A_WAY
        for agent in self._agents:
            agent.bell.news = True
            self._push(returned_s, agent, of_uploader=False)
        self._run_until(float("inf"))
        arrivals = self.endpoint.arrivals
        each_s = [arrivals[second] for second in range(int(returned_s), max(arrivals) + 1)]
        currents_s = [agent.queue.current_s - returned_s for agent in self._agents]
        drained_s = max(agent.queue.drained_s for agent in self._agents) - returned_s
        return Told(each_s, self.endpoint.served, sorted(currents_s), drained_s)

    def _run_until(self, until_s: float) -> None:
        pending = len(self._agents)
        while self._events and self._events[0][0] < until_s and pending:
            at_s, _, agent, of_uploader = heapq.heappop(self._events)
            self.clock.now_s = at_s
            if not of_uploader:
                wait_s = agent.monitor.step(at_s)
                if wait_s is not None:
                    self._push(at_s + wait_s, agent, of_uploader=False)
            elif agent.due_s == at_s:
                was_done = agent.queue.done
                wait_s = agent.uploader.step(at_s)
                pending -= agent.queue.done and not was_done
                next_s = agent.queue.next_put_s()
                if wait_s is not None:
                    # A clock never stands still, not even for the time that rounding hides.
                    next_s = self.clock.now_s + (max(wait_s, 1e-6) if wait_s else 0)
                self.plan(agent, next_s)


CHOICES = {
    "naive": NAIVE,
    "the defaults": DEFAULTS,
    "backoff_initial 0.25 s": DEFAULTS.but(backoff_initial_s=0.25),
    "backoff_initial 5 s": DEFAULTS.but(backoff_initial_s=5),
    "backoff_max 30 s": DEFAULTS.but(backoff_max_s=30),
    "backoff_max 1 min": DEFAULTS.but(backoff_max_s=60),
    "backoff_max 5 min": DEFAULTS.but(backoff_max_s=300),
    "resume_spread 2 s": replace(DEFAULTS, resume_spread_s=2.0),
    "resume_spread 30 s": replace(DEFAULTS, resume_spread_s=30.0),
    "resume_spread 60 s": replace(DEFAULTS, resume_spread_s=60.0),
    "max_batch 250": DEFAULTS.but(max_batch=250),
    "max_batch 4000": DEFAULTS.but(max_batch=4000),
    "no pace: forgets with a success": replace(DEFAULTS, paced=False),
}


def print_choices(flush_every_s: float) -> None:
    """One table."""
    print(f"{f'flush_every {flush_every_s} s':<36}{HEAD}")
    for what, policy in CHOICES.items():
        region = Region(policy.but(flush_every_s=flush_every_s), agents=1000, backlog=86_400 // 8)
        print(region.live().row(what), flush=True)


def print_return(agents: int, backlog: int, svg: Path | None) -> None:
    """The tables for a whole fleet, and the picture of the first."""
    for flush_every_s in (60, 10):
        print(f"{f'flush_every {flush_every_s} s':<36}{HEAD}")
        told: dict[str, Told] = {}
        for what, policy in (
            ("naive", NAIVE),
            ("naive, Retry-After: 10", replace(NAIVE, retry_after_s=10)),
            ("the defaults", DEFAULTS),
            ("the defaults, Retry-After: 10", replace(DEFAULTS, retry_after_s=10)),
        ):
            flushed = policy.but(flush_every_s=flush_every_s)
            told[what] = Region(flushed, agents=agents, backlog=backlog).live()
            print(told[what].row(what), flush=True)
        if svg is not None:
            lines = {what: told[what].requests_each_s for what in ("naive", "the defaults")}
            title = f"Requests a second after the return of {agents:,} agents (log scale)"
            draw(svg, title, lines, 300, mark=agents // AGENTS_PER_BATCH_A_S)
            svg = None


def main() -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument("--backlog", type=int, default=86_400)
    parser.add_argument("--svg", type=Path, help="draw the first table's requests into this file")
    parser.add_argument("--choices", action="store_true")
    options = parser.parse_args()
    logging.disable()
    gc.disable()  # ten thousand agents are many objects, and none of them is garbage
    if options.choices:
        for flush_every_s in (60, 10):
            print_choices(flush_every_s)
    else:
        print_return(options.agents, options.backlog, options.svg)


if __name__ == "__main__":
    main()
