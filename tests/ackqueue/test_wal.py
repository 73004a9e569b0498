"""The log: what SQLite takes of it, and whether a wrong frame was torn or damaged."""

import itertools
import random
import shutil
import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest
from ackqueue.queue_parts import put

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery import wal
from telemetry_agent.ackqueue.recovery.set_aside_files import log_of
from telemetry_agent.ackqueue.recovery.wal import Log, read_log

FRAME = 24 + 512


@pytest.fixture
def written(tmp_path: Path) -> bytearray:
    """The log of a queue that was killed after 60 commits, of which some take several frames."""
    path = tmp_path / "live.db"
    with AckQueue(path, commit_every_s=0) as queue:
        put(queue, 60)
        shutil.copy(path, tmp_path / "queue.db")
        return bytearray(log_of(path).read_bytes())


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db-wal"


def read(path: Path, data: bytes | bytearray) -> Log:
    path.write_bytes(data)
    return read_log(path, 512)


def flip(data: bytearray, bit: int) -> bytearray:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return flipped


def commits(data: bytes | bytearray) -> list[int]:
    """The frames that end one: they say how many pages the database has then."""
    return [n for n, at in enumerate(range(32, len(data), FRAME)) if any(data[at + 4 : at + 8])]


def frames_that_sqlite_takes(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        _, frames, _ = database.execute("PRAGMA wal_checkpoint").fetchone()
    return int(frames)


def test_a_log_that_is_not_there_or_empty_is_empty(log_path: Path, written: bytearray) -> None:
    assert read_log(log_path, 512).frames == 0
    for size in (0, 10, 32, 32 + FRAME - 1):
        log = read(log_path, written[:size])
        assert (log.frames, log.taken, log.damaged) == (0, 0, False)


def test_sqlite_takes_a_whole_log(log_path: Path, written: bytearray) -> None:
    log = read(log_path, written)
    assert (log.taken, log.damaged, log.page_bytes) == (log.frames, False, 512)
    assert log.frames == (len(written) - 32) // FRAME
    assert len(commits(written)) >= 60


def test_it_says_what_sqlite_does_with_a_wrong_bit(
    tmp_path: Path, log_path: Path, written: bytearray
) -> None:
    draw = random.Random(1)
    case = tmp_path / "case.db"
    for _ in range(60):
        log = read(log_path, flip(written, draw.randrange(len(written) * 8)))
        shutil.copy(tmp_path / "queue.db", case)
        shutil.copy(log_path, log_of(case))
        assert frames_that_sqlite_takes(case) == log.taken


def test_a_flipped_bit_is_damage_where_another_commit_follows(
    log_path: Path, written: bytearray
) -> None:
    ends = commits(written)
    draw = random.Random(2)
    for _ in range(600):
        bit = draw.randrange(32 * 8, len(written) * 8)
        place = (bit // 8 - 32) // FRAME
        # The last commit may be torn. So may the one before it, if its head lies in two sectors.
        if place <= ends[-3]:
            assert read(log_path, flip(written, bit)).damaged, bit
        elif place > ends[-2]:
            assert not read(log_path, flip(written, bit)).damaged, bit


def test_a_header_that_is_not_as_it_was_written_leaves_the_frames(
    log_path: Path, written: bytearray
) -> None:
    for bit in range(32 * 8):
        log = read(log_path, flip(written, bit))
        assert log.headless
        assert log.frames == (len(written) - 32) // FRAME


def test_the_torn_end_of_a_commit_is_no_damage(log_path: Path, written: bytearray) -> None:
    ends = commits(written)
    several = next(n for n in range(2, len(ends)) if ends[n] - ends[n - 1] >= 3)
    first, last = ends[several - 1] + 1, ends[several]
    del written[32 + FRAME * (last + 1) :]
    draw = random.Random(3)
    for _ in range(300):
        torn = bytearray(written)
        for sector in range((32 + FRAME * first) // 512 + 1, len(torn) // 512):
            if draw.random() < 0.5:
                torn[sector * 512 : sector * 512 + 512] = draw.choice(
                    (bytes(512), draw.randbytes(512))
                )
        assert not read(log_path, torn).damaged


def test_a_log_that_begins_again_says_nothing_of_the_round_before(
    tmp_path: Path, log_path: Path
) -> None:
    path = tmp_path / "rounds.db"
    with AckQueue(path, commit_every_s=0) as queue:
        put(queue, 100)
        before = read(log_path, log_of(path).read_bytes())
        queue.shared.store._connection.execute("PRAGMA wal_checkpoint").fetchall()
        put(queue, 2)
        data = bytearray(log_of(path).read_bytes())
    log = read(log_path, data)
    assert log.frames == log.taken < 10 < before.frames
    assert not log.damaged
    torn = bytearray(data)
    torn[:32] = random.Random(4).randbytes(32)  # the head of the new round did not arrive whole
    assert not read(log_path, torn).damaged


@pytest.mark.parametrize("left", [0, 10, 100, FRAME + 10])
def test_a_log_that_is_cut_while_it_is_read_ends_there(
    log_path: Path, written: bytearray, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = 32 + 9 * FRAME
    checksum, calls = wal._sum, itertools.count()

    def cut(data: bytes, seed: wal.Pair) -> wal.Pair:
        if next(calls) == 18:
            with log_path.open("r+b") as file:
                file.truncate(at + left)
        return checksum(data, seed)

    monkeypatch.setattr(wal, "_sum", cut)
    assert read(log_path, written).frames == 9 + left // FRAME


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    path = tmp_path / "long.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in (
            "PRAGMA page_size = 512",
            "PRAGMA journal_mode = WAL",
            "PRAGMA wal_autocheckpoint = 0",
            "CREATE TABLE long (text)",
        ):
            database.execute(statement)
        for _ in range(8):
            database.execute("INSERT INTO long VALUES (zeroblob(500000))")
        size = log_of(path).stat().st_size
        shutil.copy(log_of(path), tmp_path / "copy.db-wal")
    tracemalloc.start()
    try:
        log = read_log(tmp_path / "copy.db-wal", 512)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert log.taken == log.frames == (size - 32) // FRAME
    assert peak < 100_000 < size // 40
