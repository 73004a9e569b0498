"""The log: which frames SQLite accepts, and whether an invalid frame was torn or damaged."""

import itertools
import random
import shutil
import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest
from ackqueue.queue_parts import put

from telemetry_agent.ackqueue.file.schema import log_of
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery import wal
from telemetry_agent.ackqueue.recovery.wal import Log, read_log

FRAME = 24 + 512


@pytest.fixture
def written(tmp_path: Path) -> bytearray:
    """The log of a queue that was killed after 60 commits. Some commits take several frames."""
    path = tmp_path / "live.db"
    with AckQueue(path, commit_every_s=0) as queue:
        put(queue, 60)
        shutil.copy(path, tmp_path / "queue.db")
        return bytearray(log_of(path).read_bytes())


@pytest.fixture
def queue_path(tmp_path: Path) -> Path:
    return tmp_path / "read.db"


def read(path: Path, data: bytes | bytearray) -> Log:
    """Read this log beside an existing queue file."""
    path.write_bytes(bytes(512))
    log_of(path).write_bytes(data)
    return read_log(path)


def flip(data: bytearray, bit: int) -> bytearray:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return flipped


def commits(data: bytes | bytearray) -> list[int]:
    """The frames that end a commit: they contain the new size of the database in pages."""
    return [n for n, at in enumerate(range(32, len(data), FRAME)) if any(data[at + 4 : at + 8])]


def frames_that_sqlite_takes(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        _, frames, _ = database.execute("PRAGMA wal_checkpoint").fetchone()
    return int(frames)


def test_a_log_that_is_not_there_or_empty_is_empty(queue_path: Path, written: bytearray) -> None:
    assert read_log(queue_path) == Log()
    for size in (0, 10, 32, 32 + FRAME - 1):
        log = read(queue_path, written[:size])
        assert (log.frames, log.damage) == (0, None)


def test_a_whole_log_is_not_damaged(queue_path: Path, written: bytearray) -> None:
    assert read(queue_path, written) == Log((len(written) - 32) // FRAME)
    assert len(commits(written)) >= 60


def test_of_a_log_that_is_not_damaged_sqlite_drops_the_last_commit_at_most(
    tmp_path: Path, queue_path: Path, written: bytearray
) -> None:
    draw = random.Random(1)
    case = tmp_path / "case.db"
    before_last = commits(written)[-2]
    for _ in range(60):
        flipped = flip(written, draw.randrange(len(written) * 8))
        shutil.copy(tmp_path / "queue.db", case)
        log_of(case).write_bytes(flipped)
        is_damaged = read(queue_path, flipped).damage is not None
        assert (frames_that_sqlite_takes(case) < before_last) <= is_damaged


def test_a_flipped_bit_is_damage_where_another_commit_follows(
    queue_path: Path, written: bytearray
) -> None:
    ends = commits(written)
    draw = random.Random(2)
    for _ in range(600):
        bit = draw.randrange(32 * 8, len(written) * 8)
        place = (bit // 8 - 32) // FRAME
        # The last commit may be torn. The one before it too, if its frame header spans two sectors.
        if place <= ends[-3]:
            assert read(queue_path, flip(written, bit)).damage, bit
        elif place > ends[-2]:
            assert not read(queue_path, flip(written, bit)).damage, bit


def test_a_header_that_is_not_as_it_was_written_is_damage_and_leaves_the_frames(
    queue_path: Path, written: bytearray
) -> None:
    for bit in range(32 * 8):
        log = read(queue_path, flip(written, bit))
        assert log.headless
        assert log.damage == f"the log of the queue {queue_path} is damaged"
        assert log.frames == (len(written) - 32) // FRAME


def test_bytes_that_came_or_went_are_damage(queue_path: Path, written: bytearray) -> None:
    for at in (32 + FRAME, 32 + FRAME * 20 + 100, 32 + FRAME * 40 - 3):
        for changed in (written[:at] + bytes(100) + written[at:], written[:at] + written[at + 7 :]):
            log = read(queue_path, changed)
            assert log.damage
            assert log.end_is_lost
    at = 32 + FRAME * 20 + 100
    for gone in range(1, FRAME + 17):  # also if the marks then span two frames
        assert read(queue_path, written[:at] + written[at + gone :]).damage, gone


def test_a_log_that_was_never_written_is_no_damage(queue_path: Path) -> None:
    assert not read(queue_path, bytes(32 + 5 * FRAME)).damage


def test_the_torn_end_of_a_commit_is_no_damage(queue_path: Path, written: bytearray) -> None:
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
        assert not read(queue_path, torn).damage


def test_a_log_that_begins_again_says_nothing_of_the_round_before(
    tmp_path: Path, queue_path: Path
) -> None:
    path = tmp_path / "rounds.db"
    with AckQueue(path, commit_every_s=0) as queue:
        put(queue, 100)
        before = read(queue_path, log_of(path).read_bytes())
        queue.shared.store._connection.execute("PRAGMA wal_checkpoint").fetchall()
        put(queue, 2)
        data = bytearray(log_of(path).read_bytes())
    log = read(queue_path, data)
    assert log.frames < 10 < before.frames
    assert not log.damage


@pytest.mark.parametrize("left", [0, 10, 100, FRAME + 10])
def test_a_log_that_is_cut_while_it_is_read_ends_there(
    queue_path: Path, written: bytearray, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = 32 + 9 * FRAME
    checksum, calls = wal._sum, itertools.count()

    def cut(data: bytes, seed: wal.Pair) -> wal.Pair:
        if next(calls) == 18:
            with log_of(queue_path).open("r+b") as file:
                file.truncate(at + left)
        return checksum(data, seed)

    monkeypatch.setattr(wal, "_sum", cut)
    assert read(queue_path, written).frames == 9 + left // FRAME


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
        shutil.copy(path, tmp_path / "copy.db")
        shutil.copy(log_of(path), tmp_path / "copy.db-wal")
    tracemalloc.start()
    try:
        log = read_log(tmp_path / "copy.db")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert log == Log((size - 32) // FRAME)
    assert peak < 100_000 < size // 40
