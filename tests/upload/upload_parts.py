"""What the upload tests share: batches, exchanges, and an uploader with a server."""

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fakes import AlwaysReachable, FakeClock, Longest
from misbehaving import Act, Name, Server, tls_server_context, trusting
from uploading import FIX

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.row_states import State
from telemetry_agent.model import Answer, Batch, Fix, Outcome, Payload, Record, UploadState
from telemetry_agent.upload.formats import native
from telemetry_agent.upload.formats.choice import choose
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import (
    Compression,
    FormatName,
    NoAnswer,
    UploadPolicy,
    WireFormat,
)
from telemetry_agent.upload.upload_status import StatusKeeper
from telemetry_agent.upload.uploader import Uploader

STREAM = "9f0c2d0000000000"
FULL = Fix(
    1764426119250,
    48_117300000,
    -11_516667123,
    alt_mm=545_400,
    geoid_sep_mm=46_900,
    speed_mm_s=11_524,
    course_mdeg=359_700,
    mode=3,
    hdop_e2=90,
    vdop_e2=130,
    pdop_e2=158,
    sats=8,
    err_h_mm=2_600,
    err_v_mm=4_100,
    odo_m=1234,
    flags=("jump",),
)
PAYLOAD = Payload(b'{"fixes":[]}', {"Content-Type": "application/json"})
BACKOFF_MAX_S = UploadPolicy().backoff_max_s
NOW_MS = 1764426119000
DAY_MS = 86_400_000


def batch_of(*fixes: Fix, device: str = "van-07") -> Batch:
    records = tuple(Record(STREAM, 17 + n, device, fix) for n, fix in enumerate(fixes))
    return Batch(1, STREAM, device, records, live=False)


def encoded(
    name: FormatName,
    *fixes: Fix,
    url: str = "http://x/",
    username: str = "",
    device: str = "van-07",
    compression: Compression = "none",
) -> Payload:
    batch = batch_of(*fixes, device=device)
    return choose(name, url, username).encode(batch, compression)


def outcome(
    name: FormatName, status: int, body: bytes = b"", headers: dict[str, str] | None = None
) -> Outcome:
    answer = Answer(status, headers or {}, body, verified_tls=False)
    return choose(name, "http://x/").read(answer, batch_of(FIX))


@contextlib.contextmanager
def transport_to(url: str, **how: Any) -> Iterator[Transport]:
    transport = Transport(url, **how)
    try:
        yield transport
    finally:
        transport.close()


def answered(outcome: Answer | NoAnswer) -> Answer:
    assert isinstance(outcome, Answer), outcome
    return outcome


def unanswered(outcome: Answer | NoAnswer) -> str:
    assert isinstance(outcome, NoAnswer), outcome
    return outcome.reason


class FakeWay:
    """The network path to the endpoint, set by the test."""

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
    """A queue, an uploader, a server, and a clock that the test moves."""

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
            UploadPolicy(**{"timeout_s": 60.0, "flush_every_s": 10.0, **policy}),
            reachability=lambda: way or AlwaysReachable(),
            missing=lambda: self.missing,
            clock=self.clock,
            rng=Longest(),
        )
        self.put_names: list[tuple[str, int]] = []

    def put(self, count: int, device: str = "van-07") -> None:
        for number in range(count):
            record = self.queue.put(FIX._replace(time_ms=FIX.time_ms + 1000 * number), device)
            self.put_names.append((record.stream, record.seq))

    def put_backlog(self, count: int, device: str = "van-07") -> None:
        """Put fixes that were leased before."""
        self.put(count, device)
        batch = self.queue.lease(count)
        assert batch is not None
        self.queue.release(batch)

    def step(self) -> float | None:
        return self.uploader.step(self.clock.monotonic_s())

    def work(self, steps: int = 500) -> float | None:
        """Step until the uploader waits."""
        for _ in range(steps):
            wait_s = self.step()
            if wait_s != 0:
                return wait_s
        raise AssertionError("it never waits")

    def work_for(self, seconds: float) -> None:
        """Step and wait, like the loop."""
        end_s = self.clock.now_s + seconds
        while (left_s := end_s - self.clock.now_s) > 0:
            wait_s = self.work()
            self.clock.advance(left_s if wait_s is None else min(wait_s, left_s))

    def work_among_live(self, count: int) -> None:
        """Put one live fix after another; each is sent alone."""
        for _ in range(count):
            self.put(1)
            self.work_for(20)

    @property
    def state(self) -> str:
        return self.uploader.status().state

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Counts: ready, unack, acked, dead."""
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


class Journey:
    """An agent with an old backlog that records one fix a second."""

    def __init__(self, server: Server, folder: Path, seed: int = 1, **policy: object) -> None:
        self.server = server
        self.clock = FakeClock()
        self.queue = AckQueue(folder / "queue.db", clock=self.clock)
        self.transport = Transport(server.url)
        self.policy = UploadPolicy(**{"timeout_s": 60.0, "compression": "none", **policy})  # type: ignore[arg-type]
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
        """Reload like SIGHUP: the old uploader ends, a new one takes over."""
        self.uploader.close()
        self.transport.dialer.rearm()
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
