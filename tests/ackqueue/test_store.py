"""The store on a faulty file: damaged pages, bad sectors, numbers already in use."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from ackqueue import damage
from ackqueue.queue_parts import fix_at, lease, put, seqs
from ackqueue.recorded_disk import Op, RecordedDisk, Refusal

from telemetry_agent.ackqueue.file.rows import Row, encode
from telemetry_agent.ackqueue.file.schema import connect
from telemetry_agent.ackqueue.file.store import Changes, Store, TakenError
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.ranges import Span
from telemetry_agent.ackqueue.reading import QueueReader
from telemetry_agent.ackqueue.recovery.carry_over import carry_over
from telemetry_agent.ackqueue.row_states import (
    ACKED,
    PURGED,
    REASONS_IN_MEMORY,
    State,
    StreamRun,
    dead_letter,
)
from telemetry_agent.errors import StorageError


def overwrite_while_open(path: Path, pages: range) -> None:
    """Overwrite pages without SQLite's knowledge. Another process opens and closes the file."""
    code = (
        "import sys; file = open(sys.argv[1], 'r+b'); file.seek(int(sys.argv[2])); "
        "file.write(bytes([255]) * int(sys.argv[3]))"
    )
    arguments = [str(path), str((pages.start - 1) * 512), str(len(pages) * 512)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=60)


def test_damage_that_is_noticed_while_reading_costs_nothing_in_memory(path: Path) -> None:
    damage.fill(path, 3000)
    queue = AckQueue(path)
    put(queue, 3, start=5000)  # not committed
    stream = queue.stream
    out = lease(queue, 100, live_first=False)
    queue.shared.store._connection.execute("PRAGMA cache_size = 1").fetchall()
    overwrite_while_open(path, range(100, 110))
    with queue:
        batch = queue.lease(1000, live_first=False)  # reaches the damaged pages
        assert queue.stream != stream
        assert batch is not None
        assert (batch.stream, seqs(batch)) == (stream, [1, 2, 3])
        queue.ack(batch)
        queue.ack(out)  # leased before the damage
        assert queue.stats().carrying_over
        carry_over(queue)
        delivered: list[int] = []
        while batch := queue.lease(1000, live_first=False):
            delivered += seqs(batch)
            queue.ack(batch)
        lost = queue.stats().lost["damaged"]
        assert 0 < lost < 100
        assert len(delivered) == 3000 - 100 - lost
        assert delivered == sorted(set(delivered))
        assert min(delivered) == 101
    with AckQueue(path) as queue:
        assert queue.lease(1) is None
        assert queue.stats().lost == {"damaged": lost}


def test_damage_that_is_noticed_while_writing_costs_nothing(path: Path) -> None:
    damage.fill(path, 500)
    with AckQueue(path, commit_every_s=0) as queue:
        put(queue, 1)
        queue.shared.store._connection.execute("PRAGMA wal_checkpoint").fetchone()
        queue.shared.store._connection.execute("PRAGMA cache_size = 1").fetchall()
        overwrite_while_open(path, range(2, 3))
        queue.shared.store._connection.execute("SELECT count(*) FROM mark").fetchall()
        put(queue, 5, start=10)
        assert queue.stats().carrying_over
        carry_over(queue)
        assert queue.stats().ready == 506


def test_a_sector_that_cannot_be_read_keeps_no_other_fix_back(path: Path) -> None:
    damage.fill(path, 3000)
    sector = next(n for n in range(1, 10**4) if any(r > 2000 for r in damage.rows_of_page(path, n)))

    def refuse(op: Op) -> None:
        if op.kind == "read" and op.file == "queue.db" and op.offset // 512 == sector - 1:
            raise Refusal(apsw.IOError)

    disk = RecordedDisk(refuse)
    with disk.recorded(), AckQueue(path, connect=disk.connect) as queue:
        queue.ack(lease(queue, 1000, live_first=False))
        for _ in range(2):
            with pytest.raises(StorageError, match="cannot read"):
                queue.lease(3000, live_first=False)
        assert queue.lease(3000, live_first=False) is None  # the third time, the file is set aside
        carry_over(queue)  # the file that was set aside is readable
        assert seqs(lease(queue, 3000)) == list(range(1001, 3001))


def test_a_damaged_mark_sends_again_rather_than_never(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 3)
        queue.ack(lease(queue, 1))
    with closing(sqlite3.connect(path)) as file:
        file.execute("UPDATE mark SET lo = 1")
        file.commit()
    with AckQueue(path) as queue:
        carry_over(queue)
        assert seqs(lease(queue)) == [1, 2, 3]


def test_a_real_full_database_recovers(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 10)
        queue.commit()
        limit = queue.shared.store._connection
        limit.execute("PRAGMA max_page_count = 1")  # the file cannot grow
        put(queue, 1000)
        with pytest.raises(StorageError, match="full"):
            queue.commit()
        put(queue, 1)
        assert queue.stats().uncommitted == 1001
        queue.ack(lease(queue))
        limit.execute("PRAGMA max_page_count = 100000")
        queue.commit()
        assert seqs(lease(queue, 2000)) == list(range(11, 1012))


def test_numbers_that_are_taken_swallow_no_fix(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 2)
        queue.commit()
        queue.shared._base -= 2  # as if the file had forgotten its last rows
        put(queue, 2, start=10)
        queue.commit()
        carry_over(queue)
        records = [*lease(queue).records, *lease(queue).records]
        assert [record.fix for record in records] == [fix_at(s) for s in (10, 11, 0, 1)]


def test_reasons_are_read_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    with AckQueue(path) as queue:
        put(queue, 100)
        queue.ack(lease(queue), rejected={seq: f"no {(seq + 1) // 2}" for seq in range(1, 100)})
        reasons = queue.stats().dead_letters
        assert len(reasons) == REASONS_IN_MEMORY + 1
        assert (reasons["no 1"], reasons["other reasons"]) == (2, 99 - 2 * REASONS_IN_MEMORY)
        assert queue.retry([(queue.stream, 51)]) == 1
        refused = {seq: f"no {(seq + 1) // 2}" for seq in range(1, 100) if seq != 51}
        assert {s.record.seq: s.reason for s in queue.stored(State.ACK_FAILED)} == refused
    with closing(QueueReader(path)) as reader:
        assert len(reader.stats().dead_letters) == REASONS_IN_MEMORY + 1
        assert {s.record.seq: s.reason for s in reader.stored(State.ACK_FAILED)} == refused


# The store alone


def rows(first: int, last: int, stream: int = 7) -> list[Row]:
    return [encode(n, stream, n, "a", fix_at(n)) for n in range(first, last + 1)]


def stored(path: Path) -> Store:
    """A store with nine rows of one stream. Some are delivered, one is a dead letter."""
    store = Store(path, connect)
    marks = {1: Span(1, 3, ACKED), 5: Span(5, 5, dead_letter("no lane"))}
    store.write(Changes(rows(1, 9), marks, streams={1: StreamRun(1, 7, 1)}))
    return store


def test_what_was_written_is_loaded_and_a_repeated_write_changes_nothing(path: Path) -> None:
    for _ in range(2):
        with closing(stored(path)) as store:
            loaded = store.load()
            assert (loaded.last, loaded.damage) == (9, None)
            assert list(loaded.marks) == [(1, 3, ACKED), (5, 5, dead_letter("no lane"))]
            assert loaded.streams == [StreamRun(1, 7, 1)]
            assert store.read([(2, 4), (8, 99)]) == [*rows(2, 4), *rows(8, 9)]
            assert store.read([(2, 4), (8, 99)], limit=4) == [*rows(2, 4), *rows(8, 8)]
            assert store.read_back(6, 2) == rows(5, 6)[::-1]
            assert (store.reason(5), store.reason(6)) == ("no lane", None)


@pytest.mark.parametrize(
    ("statement", "damage", "last", "marks"),
    [
        ("UPDATE mark SET hi = 4 WHERE lo = 1", "the mark of the rows from 1 on", 9, [5]),
        ("UPDATE stream SET stream = 8", "a record of its streams", 9, [1, 5]),
        ("UPDATE fix SET lat_e9 = 0 WHERE id = 9", "the newest row, 9", 8, [1, 5]),
        ("UPDATE fix SET lat_e9 = 0 WHERE id = 8", None, 9, [1, 5]),
    ],
)
def test_what_is_damaged_is_named_and_left_out(
    path: Path, statement: str, damage: str | None, last: int, marks: list[int]
) -> None:
    stored(path).close()
    with closing(sqlite3.connect(path)) as file:
        file.execute(statement)
        file.commit()
    with closing(Store(path, connect)) as store:
        loaded = store.load()
    assert loaded.damage == (damage and f"the queue {path} is damaged: {damage}")
    assert (loaded.last, [mark.lo for mark in loaded.marks]) == (last, marks)
    assert len(loaded.streams) == ("stream" not in statement)


def test_a_transaction_that_is_refused_stores_nothing_of_it(path: Path) -> None:
    with closing(stored(path)) as store:
        with pytest.raises(TakenError, match="are taken by other fixes"):
            store.write(Changes(rows(9, 12, stream=8), {6: Span(6, 6, ACKED)}))
        assert store.read([(1, 99)]) == rows(1, 9)
        assert [mark.lo for mark in store.load().marks] == [1, 5]


def test_rows_that_are_gone_are_deleted_with_their_mark(path: Path) -> None:
    with closing(stored(path)) as store:
        store.write(Changes(marks={1: None, 2: Span(2, 4, PURGED)}))
        assert store.read([(1, 99)]) == [*rows(1, 1), *rows(5, 9)]
        assert [mark.lo for mark in store.load().marks] == [2, 5]


def test_what_moves_takes_a_place_and_what_arrives_finds_it_taken(path: Path) -> None:
    theirs = rows(9, 10, stream=8)
    with closing(stored(path)) as store:
        store.write(Changes(arrived=theirs))
        assert store.read([(9, 10)]) == [*rows(9, 9), theirs[1]]
        store.write(Changes(moved=theirs))
        assert store.read([(9, 10)]) == theirs
