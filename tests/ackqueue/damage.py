"""Queue files with every kind of damage that a memory card or a person can cause."""

import json
import random
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

from ackqueue.queue_parts import fix_at, lease
from judge import audit

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery.carry_over import carry_over
from telemetry_agent.ackqueue.recovery.damaged_file import DamagedFile
from telemetry_agent.errors import StorageError
from telemetry_agent.model import Record

PAGE_BYTES = 512
ROOT_OF_FIX = 2  # the first table that is created
LEAF_OF_TABLE = 13

Damage = Callable[[bytearray, random.Random], None]


def header(data: bytearray, draw: random.Random) -> None:
    data[:100] = draw.randbytes(100)


def first_page(data: bytearray, draw: random.Random) -> None:
    data[:PAGE_BYTES] = draw.randbytes(PAGE_BYTES)


def root_page(data: bytearray, draw: random.Random) -> None:
    _overwrite(data, ROOT_OF_FIX, draw)


def five_pages(data: bytearray, draw: random.Random) -> None:
    for _ in range(5):
        _overwrite(data, draw.randrange(1, len(data) // PAGE_BYTES + 1), draw)


def late_page(data: bytearray, draw: random.Random) -> None:
    pages = range(1, len(data) // PAGE_BYTES + 1)
    leaves = [page for page in pages if data[(page - 1) * PAGE_BYTES] == LEAF_OF_TABLE]
    _overwrite(data, leaves[len(leaves) * 3 // 4], draw)


def middle_pages(data: bytearray, draw: random.Random) -> None:
    half = len(data) // PAGE_BYTES // 2
    for page in range(half, half + 3):
        _overwrite(data, page, draw)


def five_blocks(data: bytearray, draw: random.Random) -> None:
    """Overwrite five file system blocks of eight pages each."""
    for _ in range(5):
        start = draw.randrange(len(data) // 4096) * 4096
        data[start : start + 4096] = draw.randbytes(4096)


def half(data: bytearray, draw: random.Random) -> None:
    del data[len(data) // 2 :]


def everything(data: bytearray, draw: random.Random) -> None:
    data[:] = draw.randbytes(len(data))


def misplaced_sector(data: bytearray, draw: random.Random) -> None:
    """Write a page in the place of another page."""
    pages = len(data) // PAGE_BYTES
    source = draw.randrange(pages) * PAGE_BYTES
    page = draw.choice([1, draw.randrange(1, 8), pages, draw.randrange(1, pages + 1)])
    data[(page - 1) * PAGE_BYTES : page * PAGE_BYTES] = data[source : source + PAGE_BYTES]


def number_bits(data: bytes, row: int) -> list[tuple[int, int]]:
    """The bits that contain the number of this row in a leaf page, as (offset, bit)."""
    return [
        (at, bit)
        for page in range(0, len(data), PAGE_BYTES)
        if data[page] == LEAF_OF_TABLE
        for cell in range(int.from_bytes(data[page + 3 : page + 5]))
        for begin in [_after_varint(data, page + _word(data, page + 8 + 2 * cell))]
        for end in [_after_varint(data, begin)]
        if _varint(data[begin:end]) == row
        for at in range(begin, end)
        for bit in range(7)  # the eighth only says whether another byte follows
    ]


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2])


def _varint(data: bytes) -> int:
    return reduce(lambda number, byte: number << 7 | byte & 0x7F, data, 0)


def _after_varint(data: bytes, at: int) -> int:
    return next(place for place in range(at, at + 9) if data[place] < 0x80) + 1


def _overwrite(data: bytearray, page: int, draw: random.Random) -> None:
    data[(page - 1) * PAGE_BYTES : page * PAGE_BYTES] = draw.randbytes(PAGE_BYTES)


def damage(path: Path, kind: Damage, seed: int = 0) -> None:
    data = bytearray(path.read_bytes())
    kind(data, random.Random(seed))
    path.write_bytes(data)


def fill(path: Path, count: int) -> list[Record]:
    with AckQueue(path, commit_every_s=3600) as queue:
        return record(queue, count)


def record(queue: AckQueue, count: int) -> list[Record]:
    records = []
    for second in range(count):
        long = json.dumps({"note": "x" * 700}) if second % 25 == 7 else None  # on two pages
        fix = fix_at(second, sats=second % 20, extra=long)
        records.append(queue.put(fix, "van-07"))
        if second % 100 == 99:
            queue.commit()
    queue.commit()
    return records


@dataclass
class Outcome:
    """The result of using a damaged queue."""

    delivered: list[Record]
    lost: int
    """The number of lost fixes by the queue's own count."""
    complete: bool = field(default=True, compare=False)
    """Whether the audit misses only the fixes that the queue reports as damaged. The audit does not
    know of earlier deliveries."""


def recover(path: Path) -> Outcome:
    """Open the queue, carry over all readable rows, deliver everything."""
    delivered: list[Record] = []
    with AckQueue(path) as queue:
        while True:
            carry_over(queue)
            batch = queue.lease(1000, live_first=False)
            if batch is not None:
                delivered += batch.records
                queue.ack(batch)
            elif not queue.stats().carrying_over:
                try:
                    accounts, _ = queue.accounts()
                except StorageError:  # damage that no read has found before
                    continue
                said = audit(accounts, [(r.stream, r.seq) for r in delivered])
                streams = said["streams"]
                complete = all(stream["stored"] == stream["expected"] for stream in streams)
                return Outcome(
                    delivered,
                    queue.stats().lost.get("damaged", 0),
                    complete and not said["unaccounted"],
                )


def copy(source: Path, target: Path) -> None:
    for end in ("", "-wal", ".lock"):
        if source.with_name(source.name + end).exists():
            shutil.copy(source.with_name(source.name + end), target.with_name(target.name + end))


def kill(queue: AckQueue, path: Path) -> Path:
    """Copy the files as a kill would leave them now, then close the queue. Return the copy."""
    left = path.with_name(f"{path.stem}-left.db")
    copy(path, left)
    queue.close()
    return left


def files(path: Path) -> list[str]:
    """The name endings of the queue's other files, without its log, index and lock."""
    names = (file.name.removeprefix(path.name) for file in path.parent.glob(f"{path.name}*"))
    return sorted(name for name in names if name not in {"", "-wal", "-shm", ".lock"})


def rows_of_page(path: Path, number: int) -> list[int]:
    with closing(DamagedFile(path)) as wreck:
        return [row[0] for row in wreck.rows(number - 1)]


def used(path: Path, *, set_aside: bool) -> list[Record]:
    """Fill a queue with marks of each kind; with ``set_aside``, in its second file."""
    records = fill(path, 200)
    if set_aside:
        damage(path, header)
    with AckQueue(path, commit_every_s=3600) as queue:
        if set_aside:
            carry_over(queue)
            records += record(queue, 40)
        queue.ack(lease(queue, 50, live_first=False), rejected={7: "too old"})
        queue.release(lease(queue, 10), answered=False)
    return records
