"""The corruption proof: damage a queue file, or a file beside it, at random, and keep using it.

Each seed is one case: a queue in one of five states, as a kill leaves it, and one or two
corruptions of its files. The queue must open and record, carry over what it can, deliver it, and
close. No fix is invented or altered, and each missing fix is counted. If the end of a log is gone,
nobody can count the fixes in it: ``lost`` then has ``uncounted``, and the log says since when.
"""

import logging
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ackqueue import damage
from ackqueue.queue_parts import fix_at, lease
from ackqueue.recorded_disk import scratch_folder
from judge import audit

from telemetry_agent.ackqueue.limits.bounds import Limits
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery.carry_over import Carrier, carry_over
from telemetry_agent.errors import StorageError
from telemetry_agent.model import Record, StreamAccount

SECTOR = 512
NAME = "queue.db"
LOG_LINES_MAX = 20
STATES = ("plain", "dead letters", "thinned", "set aside once", "carrying over")


@dataclass
class Stock:
    """A queue as a kill left it, and the fixes that were put into it."""

    folder: Path
    records: dict[tuple[str, int], Record] = field(default_factory=dict)
    arrived: set[tuple[str, int]] = field(default_factory=set)
    """Fixes that the endpoint has: losing them is not a loss."""


@dataclass
class Found:
    """The result of one case."""

    took_s: float
    lines: list[str]
    invented: int
    altered: int
    uncounted: int
    misjudged: int
    """Rows that the endpoint's audit misses although it has all delivered fixes."""
    log_is_confessed: bool


def make(state: str, folder: Path) -> Stock:
    """Make a queue of a few hundred fixes in that state, killed with commits in its log."""
    stock = Stock(folder / "killed")
    path = folder / "live" / NAME
    path.parent.mkdir(parents=True)
    if state in {"set aside once", "carrying over"}:
        with AckQueue(path, commit_every_s=3600) as queue:
            _record(stock, queue, 400)
        damage.damage(path, damage.header)
    queue = AckQueue(path, commit_every_s=3600, limits=Limits(max_size_bytes=1 << 20))
    if state == "set aside once":
        carry_over(queue)
    elif state == "carrying over":
        carrier = Carrier(queue)
        for _ in range(2):
            carrier.step(0)
        carrier.close()
    _record(stock, queue, 200)
    if state == "thinned":
        _fill_up(stock, queue)
    elif state in {"plain", "dead letters"}:
        _record(stock, queue, 200)
        batch = lease(queue, 100, live_first=False)
        refused = batch.records[::3] if state == "dead letters" else ()
        queue.ack(batch, rejected={record.seq: f"no {record.seq}" for record in refused})
        names = {(record.stream, record.seq) for record in batch.records}
        stock.arrived = names - {(record.stream, record.seq) for record in refused}
    for _ in range(60):  # one commit each, in the log
        _record(stock, queue, 1)
    shutil.copytree(path.parent, stock.folder)
    queue.close()
    return stock


def _record(stock: Stock, queue: AckQueue, count: int) -> None:
    for record in damage.record(queue, count):
        stock.records[record.stream, record.seq] = record


def _fill_up(stock: Stock, queue: AckQueue) -> None:
    for second in range(1000, 15_000):
        put = queue.put(fix_at(second), "van-07")
        stock.records[put.stream, put.seq] = put
        if second % 500 == 0:
            queue.commit()
            while queue.make_room():
                pass
    queue.commit()


Corruption = Callable[[bytearray, random.Random], None]


def bits(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 1, 2, 8))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def sector(data: bytearray, draw: random.Random) -> None:
    at = _sector(data, draw)
    size = len(data[at : at + SECTOR])
    data[at : at + SECTOR] = draw.choice((bytes(size), draw.randbytes(size)))


def swapped(data: bytearray, draw: random.Random) -> None:
    one, other = _sector(data, draw), _sector(data, draw)
    size = min(SECTOR, len(data) - max(one, other))
    first, second = data[one : one + size], data[other : other + size]
    data[one : one + size], data[other : other + size] = second, first


def copied(data: bytearray, draw: random.Random) -> None:
    one, other = _sector(data, draw), _sector(data, draw)
    size = min(SECTOR, len(data) - max(one, other))
    data[one : one + size] = data[other : other + size]


def block(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(-(-len(data) // 4096)) * 4096
    data[at : at + 4096] = draw.randbytes(len(data[at : at + 4096]))


def truncation(data: bytearray, draw: random.Random) -> None:
    del data[draw.choice((draw.randrange(len(data)), _sector(data, draw), 0)) :]


def insertion(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    data[at:at] = draw.randbytes(draw.choice((1, 3, 100, SECTOR, 536)))


CORRUPTIONS: tuple[Corruption, ...] = (
    bits, sector, swapped, copied, block, truncation, insertion
)  # fmt: skip


def _sector(data: bytearray, draw: random.Random) -> int:
    return draw.randrange(-(-len(data) // SECTOR)) * SECTOR


def corrupt(folder: Path, draw: random.Random) -> list[str]:
    """Damage one or two files, most often the database or its log. Return what was done."""
    done = []
    for _ in range(draw.choice((1, 1, 2))):
        files = sorted(file for file in folder.iterdir() if file.stat().st_size)
        weights = [6 if file.name in {NAME, f"{NAME}-wal"} else 1 for file in files]
        (file,) = draw.choices(files, weights)
        kind = draw.choice(CORRUPTIONS)
        data = bytearray(file.read_bytes())
        kind(data, draw)
        file.write_bytes(data)
        done.append(f"{kind.__name__} of {file.name}")
    return done


def use(stock: Stock, folder: Path) -> Found:
    """Open the damaged queue as an agent does, record, carry over, deliver, close."""
    with _lines() as lines:
        began_s = time.monotonic()
        with AckQueue(folder / NAME, commit_every_s=0) as queue:
            new = queue.put(fix_at(100_000), "new")
            took_s = time.monotonic() - began_s
            queue.newest(10)
            delivered: list[Record] = []
            for _ in range(1000):  # new damage restarts the carry-over
                carry_over(queue)
                batch = queue.lease(1000, live_first=False)
                if batch is not None:
                    delivered += batch.records
                    queue.ack(batch)
                elif not queue.stats().carrying_over:
                    with suppress(StorageError):  # delivered rows are read only now
                        stored = [s.record for s in queue.stored()]
                        break
            else:
                raise AssertionError("it never ends")
            stats = queue.stats()
            accounts: list[StreamAccount] = []
            with suppress(StorageError):  # damage that no read has found before
                accounts, _ = queue.accounts()
    known = stock.records | {(new.stream, new.seq): new}
    there = {(record.stream, record.seq): record for record in [*delivered, *stored]}
    arrived = stock.arrived | {(record.stream, record.seq) for record in delivered}
    judged = audit(accounts, arrived)["streams"]
    missing = len(known.keys() - there.keys() - stock.arrived)
    return Found(
        took_s,
        lines,
        invented=len(there.keys() - known.keys()),
        altered=sum(known[name] != there[name] for name in known.keys() & there.keys()),
        uncounted=max(0, missing - sum(stats.lost.values())),
        misjudged=sum(stream["missing"] for stream in judged),
        log_is_confessed="uncounted" in stats.lost,
    )


@contextmanager
def _lines() -> Iterator[list[str]]:
    """Collect the messages that are logged meanwhile, from WARNING up."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Keep(logging.WARNING)
    logger = logging.getLogger("telemetry_agent")
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


class BrokenError(AssertionError):
    """A case breaks a promise of the queue."""


def prove_queue(stocks: dict[str, Stock], seed: int, limit_s: float = 2.0) -> Found:
    """Run one case.

    Raises:
        BrokenError: With the seed, the state of the queue, and the corruption.
    """
    draw = random.Random(seed)
    state = draw.choice(STATES)
    with tempfile.TemporaryDirectory(prefix="corruption-", dir=scratch_folder()) as name:
        folder = Path(name) / "case"
        shutil.copytree(stocks[state].folder, folder)
        done = corrupt(folder, draw)
        what = f"seed {seed}, {state}: {' and '.join(done)}"
        # Only the index of a log shows how long the log was.
        is_blind = _hit(done, "-wal", "-shm")
        try:
            found = use(stocks[state], folder)
        except Exception as error:
            raise BrokenError(f"{what}: {type(error).__name__}: {error}") from error
    broken = [
        found.took_s > limit_s and f"recorded after {found.took_s:.1f} s",
        found.invented and f"{found.invented} invented",
        found.altered and f"{found.altered} altered",
        found.uncounted
        and not (found.log_is_confessed or is_blind)
        and f"{found.uncounted} uncounted",
        found.misjudged
        and not (found.log_is_confessed and only_the_audit_knows(done))
        and f"{found.misjudged} missed by the audit",
        len(found.lines) > LOG_LINES_MAX and f"{len(found.lines)} log lines",
    ]
    if any(broken):
        faults = ", ".join(str(fault) for fault in broken if fault)
        raise BrokenError(f"{what}: {faults}\n  " + "\n  ".join(found.lines[:8]))
    return found


def only_the_audit_knows(done: list[str]) -> bool:
    """Whether the note and the file, whose newest part is in the log, were damaged together.

    Then nothing else shows which rows existed: ``lost`` has ``uncounted``, and the audit of an
    endpoint names the missing fixes (docs/durability.md, "Not covered").
    """
    return _hit(done, NAME, ".lock") or _hit(done, "-wal", ".lock")


def _hit(done: list[str], *ends: str) -> bool:
    """Whether a file with each of these ends was damaged."""
    return all(any(text.endswith(end) for text in done) for end in ends)
