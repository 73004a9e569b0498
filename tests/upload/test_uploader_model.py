"""Whatever the server does, each fix is delivered, a dead letter with a reason, or pending."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakes import AlwaysReachable, FakeClock
from hypothesis import example, given, settings
from hypothesis import strategies as st
from misbehaving import Act, Line, Name, Request, Server

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.row_states import State
from telemetry_agent.model import Fix
from telemetry_agent.upload.formats import native
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import UploadPolicy
from telemetry_agent.upload.uploader import Uploader

REFUSALS = {"400": 400, "413": 413, "422": 422, "500": 500}
OTHERS = {"401": 401, "404": 404, "429": 429, "503": 503}
BROKEN = ["hang up", "store, hang up", "reset", "store, half", "garbage"]
TAKES = ["take", "take, reject one", "take, retry one", "retry all"]
LIES = ["page", "redirect", "unclear"]
KINDS = [*REFUSALS, *OTHERS, *BROKEN, *TAKES, *LIES]


@dataclass
class Endpoint:
    """Follow the plan, then refuse only the bad fixes."""

    plan: list[str]
    bad: frozenset[int]
    refused_first: dict[Name, int] = field(default_factory=dict)
    refused_alone: dict[Name, list[int]] = field(default_factory=dict)
    accepted: list[set[Name]] = field(default_factory=list)
    rejected: set[Name] = field(default_factory=set)

    def act(self) -> Act:
        return Act(self._run)

    def _run(self, line: Line, request: Request) -> bool | None:
        bad = any(seq in self.bad for _, seq in request.names)
        kind = self.plan.pop(0) if self.plan else ("400" if bad else "take")
        self.accepted.append(set())
        if kind in REFUSALS:
            for name in request.names:
                self.refused_first.setdefault(name, len(self.accepted))
            if len(request.names) == 1:
                self.refused_alone.setdefault(request.names[0], []).append(len(self.accepted))
            line.reply(REFUSALS[kind])
        elif kind in OTHERS:
            line.reply(OTHERS[kind])
        elif kind in TAKES:
            self._take(line, request, kind)
        elif kind in LIES:
            status = {"page": 200, "redirect": 302, "unclear": 203}[kind]
            line.reply(status, "<html>" if kind == "page" else "", {"Location": "/"})
        else:
            return self._break(line, request, kind)
        return None

    def _take(self, line: Line, request: Request, kind: str) -> None:
        first = request.names[0]
        taken = [] if kind == "retry all" else list(request.names)
        body = f'{{"retry":{[seq for _, seq in request.names]}}}' if kind == "retry all" else "{}"
        if kind == "take, reject one":
            taken.remove(first)
            self.rejected.add(first)
            body = f'{{"rejected":[{{"seq":{first[1]},"reason":"no"}}]}}'
        elif kind == "take, retry one":
            taken.remove(first)
            body = f'{{"retry":[{first[1]}]}}'
        line.server.ledger.update(taken)
        self.accepted[-1].update(taken)
        line.reply(200, body)

    def _break(self, line: Line, request: Request, kind: str) -> bool:
        if kind.startswith("store"):
            line.server.take(request)
        if kind == "store, half":
            line.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        elif kind == "garbage":
            line.sock.sendall(b"\x00\xff 200 OK\r\n\r\n")
        elif kind == "reset":
            line.reset()
        return False

    def counting_refusals(self, name: Name) -> int:
        """Number of refusals of this fix alone, each after another fix was accepted."""
        count, last = 0, 0
        for at in self.refused_alone.get(name, []):
            if not count or any(accepted - {name} for accepted in self.accepted[last:at]):
                count += 1
                last = at
        return count


class World:
    """The queue and the uploader with one endpoint."""

    def __init__(
        self, server: Server, endpoint: Endpoint, folder: Path, policy: UploadPolicy
    ) -> None:
        server.then = endpoint.act()
        server.ledger.clear()
        self.server = server
        self.endpoint = endpoint
        self.clock = FakeClock()
        self.names: set[Name] = set()
        self.queue = AckQueue(folder / "queue.db", clock=self.clock)
        self.transport = Transport(server.url)
        self.uploader = Uploader(
            self.queue,
            native.FORMAT,
            self.transport,
            policy,
            reachability=AlwaysReachable,
            clock=self.clock,
        )

    def put(self, count: int) -> None:
        for _ in range(count):
            fix = Fix(1764426119000 + 1000 * len(self.names), 0, 0)
            record = self.queue.put(fix, "van-07")
            self.names.add((record.stream, record.seq))

    def work(self, seconds: float) -> None:
        end_s = self.clock.now_s + seconds
        for _ in range(3000):
            wait_s = self.uploader.step(self.clock.now_s)
            if wait_s is None or self.clock.now_s + wait_s > end_s:
                self.clock.now_s = end_s
                return
            self.clock.advance(wait_s)
        raise AssertionError("it never rests")

    def check(self) -> None:
        acked = {(s.record.stream, s.record.seq) for s in self.queue.stored(State.ACKED)}
        assert acked <= set(self.server.ledger)
        for stored in self.queue.stored(State.ACK_FAILED):
            name = (stored.record.stream, stored.record.seq)
            part_of_a_run = (stored.reason or "").startswith("refused as part of a run")
            if name not in self.endpoint.rejected and not part_of_a_run:
                assert self.endpoint.counting_refusals(name) >= 5

    def close(self) -> None:
        self.transport.close()
        self.queue.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@example(  # three bad fixes, then one good fix after another
    plan=[],
    puts=[(3, 0.0)],
    bad=frozenset({1, 2, 3}),
    policy=UploadPolicy(max_batch=1, live_first=False, compression="none", timeout_s=5.0),
)
@example(
    plan=[],
    puts=[(9, 0.0)],
    bad=frozenset(range(1, 10)),
    policy=UploadPolicy(max_batch=1, live_first=False, compression="none", timeout_s=5.0),
)
@settings(max_examples=settings().max_examples // 4)
@given(
    plan=st.lists(st.sampled_from(KINDS), max_size=30),
    puts=st.lists(st.tuples(st.integers(0, 12), st.floats(0, 400)), min_size=1, max_size=6),
    bad=st.frozensets(st.integers(1, 20), max_size=3),
    policy=st.builds(
        UploadPolicy,
        max_batch=st.sampled_from([1, 4, 16]),
        live_first=st.booleans(),
        compression=st.sampled_from(["none", "gzip"]),
        timeout_s=st.just(5.0),
    ),
)
def test_each_fix_ends_once_and_only_as_the_endpoint_said(
    server: Server,
    plan: list[str],
    puts: list[tuple[int, float]],
    bad: frozenset[int],
    policy: UploadPolicy,
) -> None:
    endpoint = Endpoint(list(plan), bad)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(World(server, endpoint, Path(folder), policy)) as world,
    ):
        for number, (count, seconds) in enumerate(puts):
            world.put(count)
            if number % 2:
                world.uploader.network_returned(0)
            world.work(seconds)
            world.check()
        world.work(20_000)
        # From here on, the endpoint refuses only bad fixes, and good fixes are the witnesses.
        endpoint.plan.clear()
        endpoint.bad = frozenset(seq for seq in bad if seq <= len(world.names))
        for _ in range(21):
            world.put(1)
            world.work(2000)
        world.check()
        stats = world.queue.stats()
        assert not stats.ready + stats.unack + stats.in_flight
        assert stats.acked + stats.ack_failed == len(world.names)
