"""Random faults between an agent and its endpoint; each fix must be stored exactly once.

A seed determines a schedule: the backlog, and a fault for each request in turn. The agent (real
queue, uploader and sockets) is a separate process, which is killed where the schedule requires it,
and started again. It records while it uploads. After the faults the endpoint works. In the end it
must have every committed fix, with its own name and content, and nothing else. The endpoint's audit
of the agent's accounts must give the same result.
"""

import contextlib
import json
import logging
import multiprocessing
import random
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes import AlwaysReachable
from judge import Name
from misbehaving import Act, Line, Request, Server, answer, reset, says, twice

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.row_states import State
from telemetry_agent.clock import Clock
from telemetry_agent.daemon.status import Completeness
from telemetry_agent.fields import fix_fields
from telemetry_agent.lab.endpoint.audit import lines
from telemetry_agent.lab.endpoint.database import FixDatabase
from telemetry_agent.lab.native_request import parse
from telemetry_agent.model import Fix, StreamAccount
from telemetry_agent.upload.formats import native
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import UploadPolicy
from telemetry_agent.upload.reports import AgentReports
from telemetry_agent.upload.uploader import Uploader

TIMEOUT_S = 0.15
LIFE_LIMIT_S = 60
POLICY = UploadPolicy(
    max_batch=7,
    flush_every_s=0.01,
    timeout_s=TIMEOUT_S,
    backoff_initial_s=0.005,
    backoff_max_s=0.02,
)
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["schedules"])


def fix_at(second: int) -> Fix:
    return Fix(1764426119000 + 1000 * second, 48_117300000 + second, 11_516667000, sats=8)


def live(path: Path, url: str, records: int) -> None:
    """One run of the agent: record some fixes, and end when everything is delivered."""
    logging.disable()
    clock = Clock()
    with AckQueue(path) as queue, contextlib.closing(Transport(url)) as transport:
        completeness = Completeness(queue)
        taken: list[StreamAccount] = []

        def is_taken() -> None:
            taken[:] = completeness.sent
            completeness.taken()

        reports = AgentReports(
            (queue.stream, "van-07"),
            tuple,
            completeness.report,
            native.encode,
            clock.monotonic_s(),
            heartbeat_s=0.02,
            on_taken=is_taken,
        )
        uploader = Uploader(
            queue,
            native.FORMAT,
            transport,
            POLICY,
            reachability=AlwaysReachable,
            reports=reports,
            clock=clock,
        )
        while True:
            if records:
                records -= 1
                queue.put(fix_at(records), "van-07")
            wait_s = uploader.step(clock.monotonic_s())
            stats = queue.stats()
            if not records and not stats.ready + stats.unack + stats.uncommitted:
                left = queue.accounts()[0]
                if all(account in taken and not account.finished for account in left):
                    return
            if wait_s != 0:
                uploader.bell.wait(wait_s)


@dataclass
class Endpoint:
    """An endpoint that stores by name and injects the faults of the schedule."""

    agent: Any = None
    """The agent's process."""
    stored: dict[Name, Any] = field(default_factory=dict)
    database: FixDatabase = field(default_factory=lambda: FixDatabase(Path(":memory:")))
    """The database of ``receive``, for its audit."""
    came: Counter[Name] = field(default_factory=Counter)
    keys: dict[str, list[Name]] = field(default_factory=dict)
    kills: int = 0
    faults: list[str] = field(default_factory=list)
    """Violations that were found."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def act(self, kind: str, draw: random.Random) -> Act:
        if kind == "cut while reading":
            return Act(self._cut_while_reading(draw.randrange(1, 400)), at_once=True)
        if kind == "reset before reading":
            return reset()
        if kind == "twice":
            return Act(self.store_answer_twice)
        if kind in {"429", "503"}:
            return answer(int(kind))
        return Act(getattr(self, kind.replace(" ", "_").replace(",", "")))

    def take(self, request: Request) -> None:
        said = request.json
        encoding = request.headers.get("content-encoding", "identity")
        self.database.put(parse(request.body, encoding))
        key = request.headers["idempotency-key"]
        with self.lock:
            if self.keys.setdefault(key, request.names) != request.names:
                self.faults.append(f"the key {key} came with two contents")
            for fix in said["fixes"]:
                name = said["stream"], fix["seq"]
                self.came[name] += 1
                if self.stored.setdefault(name, fix) != fix:
                    self.faults.append(f"{name} names two fixes")

    def store(self, line: Line, request: Request) -> None:
        self.take(request)
        line.reply(200)

    def store_hang_up(self, line: Line, request: Request) -> bool:
        self.take(request)
        return False

    def store_reset(self, line: Line, request: Request) -> bool:
        self.take(request)
        line.reset()
        return False

    def hang_up(self, line: Line, request: Request) -> bool:
        return False

    def store_half_an_answer(self, line: Line, request: Request) -> bool:
        self.take(request)
        whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
        return says(whole[: request.connection % (len(whole) - 1) + 1]).run(line, request) or False

    def store_never_answer(self, line: Line, request: Request) -> bool:
        self.take(request)
        line.hang()
        return False

    def never_answer(self, line: Line, request: Request) -> bool:
        line.hang()
        return False

    def store_answer_too_late(self, line: Line, request: Request) -> bool:
        line.server.stopping.wait(2 * TIMEOUT_S)
        self.take(request)
        line.reply(200)
        return False

    def store_drip(self, line: Line, request: Request) -> bool:
        self.take(request)
        line.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", TIMEOUT_S / 10)
        return False

    def store_wants_one_again(self, line: Line, request: Request) -> None:
        self.take(request)
        line.reply(200, json.dumps({"retry": [seq for _, seq in request.names[-1:]]}))

    def store_answer_twice(self, line: Line, request: Request) -> bool | None:
        self.take(request)
        return twice().run(line, request)

    def kill(self, line: Line, request: Request) -> bool:
        return self._kill(line)

    def store_kill(self, line: Line, request: Request) -> bool:
        self.take(request)
        return self._kill(line)

    def store_answer_kill(self, line: Line, request: Request) -> bool:
        self.take(request)
        line.reply(200)
        return self._kill(line)

    def _kill(self, line: Line) -> bool:
        self.kills += 1
        self.agent.kill()
        line.reset()
        return False

    @staticmethod
    def _cut_while_reading(after_bytes: int) -> Callable[[Line, Request], bool]:
        def run(line: Line, request: Request) -> bool:
            line.sock.recv(after_bytes)
            line.reset()
            return False

        return run


def audited(endpoint: Endpoint) -> Iterator[str]:
    """Differences of the endpoint's audit from the required result: complete up to the last fix."""
    (said,) = endpoint.database.audits() or [{}]
    last = {stream: 0 for stream, _ in endpoint.stored}
    for stream, seq in endpoint.stored:
        last[stream] = max(seq, last[stream])
    through = {stream["stream"]: stream["through"] for stream in said.get("streams", ())}
    if endpoint.stored and (not said["complete"] or said["unaccounted"]):
        yield "; ".join(lines(said))
    for stream, seq in last.items():
        if through.get(stream) != seq:
            yield f"the endpoint's audit of {stream} ends at {through.get(stream)}, not {seq}"


KINDS = (
    *("reset before reading", "cut while reading", "hang up", "never answer"),
    *("store, hang up", "store, reset", "store, half an answer", "store, never answer"),
    *("store, answer too late", "store, drip", "store, wants one again", "twice"),
    *("429", "503", "kill", "store, kill", "store, answer, kill", "store"),
)


@dataclass(frozen=True)
class Told:
    """The result of a schedule."""

    fixes: int
    repeats: int
    """How often a fix came that was already stored."""
    kills: int
    faults: list[str]


def run_schedules(seeds: range, jobs: int = 4) -> Iterator[Told]:
    """Run several schedules at a time, because they mostly wait. Each has a process of its own: the
    children of one process would be watched by all of its threads."""
    with ProcessPoolExecutor(jobs, mp_context=_processes) as pool:
        yield from pool.map(run_schedule, seeds)


def run_schedule(seed: int) -> Told:
    """Draw and run one schedule."""
    draw = random.Random(seed)
    endpoint = Endpoint()
    acts = [endpoint.act(draw.choice(KINDS), draw) for _ in range(draw.randrange(3, 14))]
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(*acts, then=Act(endpoint.store)) as server,
    ):
        path = Path(folder) / "queue.db"
        with AckQueue(path) as queue:
            for second in range(draw.randrange(30)):
                queue.put(fix_at(second), "van-07")
        kills = -1
        while kills < endpoint.kills:
            kills = endpoint.kills
            endpoint.agent = _processes.Process(
                target=live, args=(path, server.url, draw.randrange(6))
            )
            endpoint.agent.start()
            endpoint.agent.join(LIFE_LIMIT_S)
        if endpoint.agent.exitcode != 0:
            endpoint.faults.append(f"the agent ended with {endpoint.agent.exitcode}")
            endpoint.agent.kill()
            endpoint.agent.join()
        with AckQueue(path) as queue:
            recorded = {
                (each.record.stream, each.record.seq): {
                    "seq": each.record.seq,
                    **fix_fields(each.record.fix),
                }
                for each in queue.stored(State.ACKED)
            }
            left = len(list(queue.stored())) - len(recorded)
    if left:
        endpoint.faults.append(f"{left} fixes were not acknowledged")
    if recorded != endpoint.stored:
        endpoint.faults.append(
            f"{len(recorded)} fixes were recorded, {len(endpoint.stored)} are stored"
        )
    endpoint.faults += audited(endpoint)
    endpoint.database.close()
    repeats = endpoint.came.total() - len(endpoint.came)
    return Told(len(recorded), repeats, endpoint.kills, endpoint.faults)
