"""A queue file in any state: the queue opens, records, and carries over what can be read."""

import errno
import logging
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import apsw
import pytest
from ackqueue import damage
from ackqueue.queue_parts import START_MS, Disk, fix_at, lease, put, seqs
from ackqueue.recorded_disk import Op, RecordedDisk, Refusal, scratch_folder

from telemetry_agent.ackqueue.file import schema
from telemetry_agent.ackqueue.file.lock import lock_path
from telemetry_agent.ackqueue.file.schema import PAGE_BYTES, UnusableError, connect
from telemetry_agent.ackqueue.file.store import Changes, Store
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.reading import QueueReader
from telemetry_agent.ackqueue.recovery.carry_over import Carrier, carry_over
from telemetry_agent.ackqueue.recovery.damaged_file import DamagedFile, FoundRows
from telemetry_agent.ackqueue.recovery.set_aside_files import log_of
from telemetry_agent.ackqueue.row_states import PURGED, Loaded, State
from telemetry_agent.errors import StorageError
from telemetry_agent.model import Record

MIB = 1 << 20

AWAY_THAT_CANNOT_BE = (
    "UPDATE mark SET lo = 1 << 20",
    "UPDATE mark SET hi = hi | 1 << 34",
    "UPDATE mark SET batch = 64",
    "UPDATE mark SET state = 0",
    "UPDATE mark SET state = 5",
    "UPDATE mark SET lo = -5",
    "UPDATE mark SET hi = 'high'",
    "UPDATE mark SET batch = 7.5",
    "DELETE FROM mark",
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="damage-", dir=scratch_folder()) as name:
        yield Path(name)


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "queue.db"


def kill(queue: AckQueue, path: Path) -> Path:
    """The files as a process leaves them that is killed now; the queue itself is closed."""
    left = path.with_name(f"{path.stem}-left.db")
    damage.copy(path, left)
    queue.close()
    return left


def files(path: Path) -> list[str]:
    """What lies beside the queue and belongs to it, without its lock."""
    names = (file.name.removeprefix(path.name) for file in path.parent.glob(f"{path.name}*"))
    return sorted(name for name in names if name not in {"", "-wal", "-shm", ".lock"})


# Destroyed files


@pytest.mark.parametrize("kind", [damage.header, damage.first_page, damage.root_page])
def test_a_destroyed_header_or_root_page_costs_nothing(path: Path, kind: damage.Damage) -> None:
    records = damage.fill(path, 3000)
    damage.damage(path, kind)
    assert damage.recover(path) == damage.Outcome(records, lost=0)
    assert files(path) == []


def test_no_row_is_carried_over_before_what_became_of_it_is_known(path: Path) -> None:
    damage.fill(path, 8000)
    with AckQueue(path, keep_delivered_s=10**9) as queue:  # the marks are behind the rows
        queue.ack(lease(queue, 8000), rejected=dict.fromkeys(range(2, 8001, 2), "bad"))
    damage.damage(path, damage.header)
    with AckQueue(path, keep_delivered_s=10**9) as queue:
        carrier, shared = Carrier(queue), queue.shared
        while carrier.step(0) == 0:
            with shared.lock:
                assert shared.ledger.ready_rows.free.total == 0
        carrier.close()
        stats = queue.stats()
        assert (stats.ready, stats.acked, stats.ack_failed) == (0, 4000, 4000)


@pytest.mark.parametrize("kind", [damage.five_pages, damage.five_blocks])
def test_destroyed_pages_cost_what_was_in_them_and_that_is_counted(
    folder: Path, kind: damage.Damage
) -> None:
    records = damage.fill(folder / "whole.db", 4000)
    shares = []
    for seed in range(8):
        case = folder / f"{seed}.db"
        damage.copy(folder / "whole.db", case)
        damage.damage(case, kind, seed)
        outcome = damage.recover(case)
        delivered = Counter(outcome.delivered)
        assert delivered <= Counter(records)
        assert delivered.total() + outcome.lost == len(records)
        shares.append(delivered.total() / len(records))
    # A fifth of the fixes of the benchmark, so that one page counts five times as much.
    assert sum(shares) / len(shares) >= (0.97 if kind is damage.five_pages else 0.90)


def test_what_a_truncation_took_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = damage.fill(path, 1000)
    damage.damage(path, damage.half)
    outcome = damage.recover(path)
    assert outcome.lost == 1000 - len(outcome.delivered) > 400
    assert set(outcome.delivered) < set(records)
    last = outcome.delivered[-1]
    assert f"({last.stream}:{last.seq}) and the end" in caplog.text
    assert files(path) == [".kept-1"]


def test_of_a_file_without_a_readable_byte_the_loss_is_told(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage.fill(path, 50)
    with AckQueue(path) as queue:
        queue.ack(lease(queue, 10))
    damage.damage(path, damage.everything)
    with AckQueue(path) as queue:
        put(queue, 3)
        carry_over(queue)
        assert seqs(lease(queue)) == [1, 2, 3]
        assert queue.stats().lost == {"damaged": 40}  # from the oldest that waited to the last
    assert "40 are lost to damage" in caplog.text
    assert files(path) == [".foreign-1"]


def test_a_loss_in_the_middle_is_told_as_between_two_fixes(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = damage.fill(path, 1000)
    page = next(number for number in range(20, 100) if _rows_of_page(path, number))
    with path.open("r+b") as file:
        file.seek((page - 1) * 512)
        gone = _rows_of_page(path, page)
        file.write(random.Random(1).randbytes(512))
    damage.damage(path, damage.header)
    outcome = damage.recover(path)
    assert outcome.delivered == [record for record in records if record.seq not in gone]
    stream, first, last = records[0].stream, gone[0] - 1, gone[-1] + 1
    assert f"({stream}:{first}) and 2025-11-29T" in caplog.text
    assert f"({stream}:{last})" in caplog.text


def _rows_of_page(path: Path, number: int) -> list[int]:
    with closing(DamagedFile(path)) as wreck:
        return [row[0] for row in wreck.rows(number - 1)]


# Values that cannot be, and pages in the place of others


def used(path: Path, *, set_aside: bool) -> list[Record]:
    """A queue with marks of each kind, that perhaps is the second of its name."""
    records = damage.fill(path, 200)
    if set_aside:
        damage.damage(path, damage.header)
    with AckQueue(path, commit_every_s=3600) as queue:
        if set_aside:
            carry_over(queue)
            records += damage.record(queue, 40)
        queue.ack(lease(queue, 50, live_first=False), rejected={7: "too old"})
        queue.release(lease(queue, 10), answered=False)
    return records


@pytest.mark.parametrize("set_aside", [False, True])
def test_a_flipped_bit_in_the_newest_number_costs_one_fix(folder: Path, set_aside: bool) -> None:
    records = used(folder / "whole.db", set_aside=set_aside)
    with AckQueue(folder / "whole.db") as queue:
        newest = queue.last_row()
    whole = (folder / "whole.db").read_bytes()
    bits = damage.number_bits(whole, newest)
    assert len(bits) == (35 if set_aside else 14)
    for at, bit in bits:
        case = folder / f"{at}-{bit}.db"
        damage.copy(folder / "whole.db", case)
        data = bytearray(whole)
        data[at] ^= 1 << bit
        case.write_bytes(data)
        outcome = damage.recover(case)
        assert outcome == damage.Outcome(records[50:-1], lost=1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("set_aside", [False, True])
def test_a_flipped_bit_in_any_number_costs_few_fixes(
    folder: Path, seed: int, set_aside: bool
) -> None:
    records = used(folder / "whole.db", set_aside=set_aside)
    draw = random.Random(seed)
    whole = (folder / "whole.db").read_bytes()
    for number in range(8):
        case = folder / f"{number}.db"
        damage.copy(folder / "whole.db", case)
        data = bytearray(whole)
        at, bit = draw.choice(damage.number_bits(whole, draw.randrange(1, 201)))
        data[at] ^= 1 << bit
        case.write_bytes(data)
        outcome = damage.recover(case)
        assert set(outcome.delivered) <= set(records)
        assert len(set(outcome.delivered)) >= len(records) - 51


@pytest.mark.parametrize("statement", AWAY_THAT_CANNOT_BE)
def test_what_is_away_is_checked_before_it_is_believed(path: Path, statement: str) -> None:
    records = damage.fill(path, 200)
    damage.damage(path, damage.header)
    AckQueue(path).close()
    with closing(connect(path)) as file:
        assert file.execute("SELECT count(*) FROM mark").fetchone() == (1,)
        file.execute(statement)
    assert damage.recover(path) == damage.Outcome(records, lost=0)


def test_whatever_a_damaged_file_makes_python_raise_ends_no_start(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    records = damage.fill(path, 20)
    load, faults = Store.load, [TypeError("'>' not supported")]

    def load_or_raise(store: Store) -> Loaded:
        if faults:
            raise faults.pop()
        return load(store)

    monkeypatch.setattr(Store, "load", load_or_raise)
    assert damage.recover(path) == damage.Outcome(records, lost=0)
    assert "is damaged: '>' not supported. It is set aside" in caplog.text


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("state", ["alone", "set aside once", "carrying over"])
def test_a_misplaced_sector_ends_no_start(folder: Path, state: str, seed: int) -> None:
    records = used(folder / "queue.db", set_aside=state == "set aside once")
    if state == "carrying over":
        damage.damage(folder / "queue.db", damage.header)
        AckQueue(folder / "queue.db").close()
    damage.damage(folder / "queue.db", damage.misplaced_sector, seed)
    with AckQueue(folder / "queue.db", commit_every_s=3600) as queue:
        new = damage.record(queue, 3)
        queue.newest(10)
    outcome = damage.recover(folder / "queue.db")
    assert set(outcome.delivered) <= {*records, *new}
    assert set(new) <= set(outcome.delivered)
    assert outcome.lost <= len(records)


@pytest.mark.parametrize(("readings", "lost"), [(3, 0), (4, 200)])
def test_a_page_that_cannot_be_read_for_a_while_is_not_lost(
    path: Path, readings: int, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = damage.fill(path, 200)
    damage.damage(path, damage.header)
    begun, pread = 0, os.pread

    class Reading(FoundRows):
        def __init__(self, paths: Sequence[Path]) -> None:
            nonlocal begun
            begun += 1
            super().__init__(paths)

    def refused(file: int, size: int, offset: int) -> bytes:
        if size == damage.PAGE_BYTES and begun <= readings:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(file, size, offset)

    monkeypatch.setattr("telemetry_agent.ackqueue.recovery.carry_over.FoundRows", Reading)
    monkeypatch.setattr(os, "pread", refused)
    with AckQueue(path) as queue:
        carry_over(queue)
        assert queue.stats().lost.get("damaged", 0) == lost
        assert queue.stats().ready == len(records) - lost
    assert files(path) == ([".foreign-1"] if lost else [])


def test_a_set_aside_file_with_a_damaged_inode_ends_no_start(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    damage.fill(path, 30)
    damage.damage(path, damage.header)
    AckQueue(path).close()
    look_up = os.stat

    def refused(file: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(file).endswith("damaged-1"):
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG), file)
        return look_up(file, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refused)
        with AckQueue(path) as queue:
            put(queue, 3)
            assert len(lease(queue).records) == 3
    with AckQueue(path) as queue:
        carry_over(queue)
        assert queue.stats().ready == 33
    assert "no undelivered fix is missing" in caplog.text


# Emptied and missing files


def test_an_emptied_file_is_told_and_counted(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage.fill(path, 30)
    path.write_bytes(b"")
    with AckQueue(path) as queue:
        put(queue, 2)
        assert seqs(lease(queue)) == [1, 2]
        carry_over(queue)
        assert queue.stats().lost == {"damaged": 30}
    assert "is empty: the fixes that waited in it are lost" in caplog.text
    assert "30 are lost to damage: 30 between the beginning and" in caplog.text
    with AckQueue(path) as queue:
        assert queue.stats().lost == {"damaged": 30}


def test_an_emptied_file_in_which_nothing_waited_is_a_new_one(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage.fill(path, 3)
    with AckQueue(path) as queue:
        queue.ack(lease(queue))
    path.unlink()
    with AckQueue(path) as queue:
        assert queue.stats().lost == {}
    assert caplog.text == ""


@pytest.mark.parametrize("how", ["emptied", "deleted"])
def test_the_log_of_a_file_that_is_gone_is_carried_over(path: Path, how: str) -> None:
    queue = AckQueue(path, commit_every_s=0)
    put(queue, 30)
    left = kill(queue, path)
    left.write_bytes(b"") if how == "emptied" else left.unlink()
    outcome = damage.recover(left)
    assert [record.seq for record in outcome.delivered] == list(range(1, 31))
    assert outcome.lost == 0


def test_a_missing_log_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage.fill(path, 3)
    queue = AckQueue(path, commit_every_s=0)
    put(queue, 3)
    left = kill(queue, path)
    log_of(left).unlink()
    assert [record.seq for record in damage.recover(left).delivered] == [1, 2, 3]
    assert "the log of the queue" in caplog.text
    assert "is gone" in caplog.text


def test_flipped_bits_in_the_log_cost_at_most_the_fix_that_they_hit(path: Path) -> None:
    queue = AckQueue(path, commit_every_s=0)
    put(queue, 60)
    left = kill(queue, path)
    log = log_of(left).read_bytes()
    draw = random.Random(5)
    for _ in range(40):
        case = path.with_name("case.db")
        damage.copy(left, case)
        flipped = bytearray(log)
        flipped[draw.randrange(len(log))] ^= 1 << draw.randrange(8)
        log_of(case).write_bytes(flipped)
        found = Counter(record.seq for record in damage.recover(case).delivered)
        assert max(found.values()) == 1
        assert len(found) >= 59
        for file in case.parent.glob("case.db*"):
            file.unlink()


# Files that are no queue of this version


def make_text(path: Path) -> None:
    path.write_bytes(b"no database, but long enough to be one" * 100)


def make_other_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE recipes (name TEXT)")


@pytest.mark.parametrize("make", [make_text, make_other_database])
def test_a_file_of_others_is_set_aside_and_left_as_it_is(
    path: Path, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    make(path)
    content = path.read_bytes()
    with AckQueue(path) as queue:
        put(queue, 1)
        carry_over(queue)
        assert seqs(lease(queue)) == [1]
        assert queue.stats().lost == {}
    assert path.with_name("queue.db.foreign-1").read_bytes() == content
    assert "is set aside as" in caplog.text
    assert caplog.messages[-1] == f"no fix was found in {path}.damaged-1"


def test_an_older_file_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = damage.fill(path, 10)
    later = (*schema._MIGRATIONS, ("CREATE TABLE later (name TEXT)",))
    monkeypatch.setattr(schema, "_MIGRATIONS", later)
    assert damage.recover(path) == damage.Outcome(records, lost=0)
    assert files(path) == []
    with closing(connect(path)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (len(later),)


@pytest.mark.parametrize("rows", [0, 5])
def test_a_file_of_version_3_goes_on_carrying_over(path: Path, rows: int) -> None:
    """It had a table of what was to come in the place of a mark."""
    records = damage.fill(path, 1500)
    damage.damage(path, damage.header)
    with AckQueue(path, commit_every_s=3600) as queue:
        records += damage.record(queue, rows)
        carrier = Carrier(queue)
        while not queue.stats().ready > rows:
            carrier.step(0)
        carrier.close()
    with closing(connect(path)) as file:
        assert 0 < file.execute("SELECT count(*) FROM fix").fetchone()[0] < 1500
        file.execute("DELETE FROM mark")
        file.execute("DROP TABLE stream")
        file.execute("CREATE TABLE away (lo, hi, oldest, last, marked)")
        file.execute(f"INSERT INTO away VALUES (500, {1 << 32}, 0, 1500, 1)")
        file.execute("PRAGMA user_version = 3")
    outcome = damage.recover(path)
    assert outcome == damage.Outcome(records, lost=0)
    assert files(path) == []


def test_rows_of_a_newer_file_that_can_be_read_are_carried_over_and_it_is_kept(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = damage.fill(path, 10)
    with closing(connect(path)) as file:
        file.execute("PRAGMA user_version = 99")
    assert damage.recover(path) == damage.Outcome(records, lost=0)
    assert "written by a newer telemetry-agent (its schema is version 99" in caplog.text
    assert files(path) == [".kept-1"]


def test_a_newer_file_that_cannot_be_read_waits_for_its_version(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    records = damage.fill(path, 10)
    with closing(connect(path)) as file:  # a column that this version does not know
        file.execute("ALTER TABLE fix ADD COLUMN other TEXT")
        file.execute("UPDATE fix SET other = 'x'")
        file.execute(f"PRAGMA user_version = {len(schema._MIGRATIONS) + 1}")
    with AckQueue(path) as queue:
        put(queue, 5, start=100)
        carry_over(queue)
        queue.ack(lease(queue))
        assert queue.stats().carrying_over
        assert queue.lease(1) is None
    assert "waits for the newer telemetry-agent" in caplog.text
    assert files(path) == [".damaged-1"]
    with closing(connect(path.with_name("queue.db.damaged-1"))) as file:  # as that one reads it
        file.execute("ALTER TABLE fix DROP COLUMN other")
        file.execute("PRAGMA journal_mode = DELETE").fetchall()
    monkeypatch.setattr(schema, "_MIGRATIONS", (*schema._MIGRATIONS, ()))
    assert damage.recover(path) == damage.Outcome(records, lost=0)


# What became of the fixes


def test_what_became_of_the_fixes_is_carried_over_too(path: Path) -> None:
    with AckQueue(path, commit_every_s=0) as queue:
        put(queue, 100)
        queue.ack(lease(queue, 40, live_first=False), rejected={7: "too old", 9: "too old"})
        queue.release(lease(queue, 10, live_first=False), answered=False)
        queue.discard({(queue.stream, 9)})
        before = [(s.record, s.state, s.reason) for s in queue.stored()]
    damage.damage(path, damage.header)
    with AckQueue(path) as queue:
        carry_over(queue)
        after = [(s.record, s.state, s.reason) for s in queue.stored()]
        unack_to_ready = [
            (record, State.READY if state is State.UNACK else state, reason)
            for record, state, reason in before
        ]
        assert after == unack_to_ready
        assert queue.stats().lost == {"discarded": 1}
        assert seqs(lease(queue)) == list(range(41, 51))  # the batch without an answer, as it was
        assert seqs(lease(queue)) == list(range(51, 101))


def test_what_was_delivered_and_deleted_does_not_come_back(path: Path) -> None:
    with AckQueue(path, keep_delivered_s=0, commit_every_s=0) as queue:
        put(queue, 200)
        queue.ack(lease(queue, 150, live_first=False))
        while queue.purge_delivered():
            pass
        left = kill(queue, path)
    for kind in (damage.header, damage.root_page):
        case = path.with_name(f"{kind.__name__}.db")
        damage.copy(left, case)
        damage.damage(case, kind)
        outcome = damage.recover(case)
        assert [record.seq for record in outcome.delivered] == list(range(151, 201))
        assert outcome.lost == 0


def test_the_newest_fix_is_known_before_anything_was_carried_over(path: Path) -> None:
    records = damage.fill(path, 500)
    damage.damage(path, damage.header)
    with AckQueue(path) as queue:
        assert queue.newest(3) == records[:-4:-1]


# Being killed


def test_being_killed_at_any_step_sends_nothing_twice_and_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry_agent.ackqueue.recovery.damaged_file._ROWS_PER_PORTION", 40)
    monkeypatch.setattr("telemetry_agent.ackqueue.recovery.damaged_file._PAGES_PER_LOOK", 60)
    with AckQueue(path) as queue:
        put(queue, 400)
        queue.ack(lease(queue, 50, live_first=False), rejected={5: "no"})
        name = queue.stream
    damage.damage(path, damage.header)
    delivered: list[Record] = []
    turns = 0
    while True:
        turns += 1
        queue = AckQueue(path, commit_every_s=0)
        put(queue, 1, start=1000 + turns)
        carrier = Carrier(queue)
        for _ in range(8 + turns):  # four to look at all pages, then some of the rows
            carrier.step(0.0)
        batch = queue.lease(30, live_first=False)
        if batch is not None and batch.stream == name:
            delivered += batch.records
            queue.ack(batch)
        carrier.close()
        if not queue.stats().carrying_over:
            break
        left = path.with_name(f"{turns}.db")
        for file in path.parent.glob("queue.db*"):
            shutil.copy(file, left.with_name(left.name + file.name.removeprefix("queue.db")))
        queue.close()
        path = left
        for file in path.parent.glob(f"{path.name}*"):
            file.rename(file.with_name("queue.db" + file.name.removeprefix(path.name)))
        path = path.with_name("queue.db")
    assert turns > 2
    with queue:
        carry_over(queue)
        while batch := queue.lease(1000, live_first=False):
            delivered += [record for record in batch.records if record.stream == name]
            queue.ack(batch)
        assert [record.seq for record in delivered] == list(range(51, 401))
        assert queue.stats().dead_letters == {"no": 1}
        assert queue.stats().lost == {}


# Damage that is noticed while the queue is used


def overwrite_while_open(path: Path, pages: range) -> None:
    """Below SQLite's feet. The file is opened and closed in another process."""
    code = (
        "import sys; file = open(sys.argv[1], 'r+b'); file.seek(int(sys.argv[2])); "
        "file.write(bytes([255]) * int(sys.argv[3]))"
    )
    arguments = [str(path), str((pages.start - 1) * 512), str(len(pages) * 512)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=60)


@pytest.mark.parametrize("is_summed_up", [True, False])
def test_a_kill_before_the_new_file_has_a_row_hides_no_loss(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_summed_up: bool
) -> None:
    killed = tmp_path / "killed"
    damage.fill(path, 300)
    with AckQueue(path) as queue:
        damage.damage(path, damage.middle_pages)

        def kill(_store: Store) -> StorageError:
            if is_summed_up:
                queue.shared.write_summary()
            shutil.copytree(path.parent, killed)
            return StorageError("killed")

        with monkeypatch.context() as patch, queue.shared.disk:
            patch.setattr(queue.shared.writer, "write", kill)
            queue.shared.replace(UnusableError("as if damaged"))
    outcome = damage.recover(killed / path.name)
    assert outcome.lost > 0
    assert len(outcome.delivered) + outcome.lost == 300


def test_the_summary_speaks_of_the_rows_that_were_carried_over(path: Path) -> None:
    damage.fill(path, 30)
    damage.damage(path, damage.header)
    with AckQueue(path) as queue:
        queue.put(fix_at(30), "van-07")
        queue.commit()
        queue.shared.write_summary()
        assert " away " in lock_path(path).read_text()
        carry_over(queue)
        assert "open 1 " in (summary := lock_path(path).read_text())
        assert " away " not in summary


def test_damage_that_is_noticed_while_reading_costs_nothing_in_memory(path: Path) -> None:
    damage.fill(path, 3000)
    queue = AckQueue(path)
    put(queue, 3, start=5000)  # not committed
    stream = queue.stream
    out = lease(queue, 100, live_first=False)
    queue.shared.store._connection.execute("PRAGMA cache_size = 1").fetchall()
    overwrite_while_open(path, range(100, 110))
    with queue:
        batch = queue.lease(1000, live_first=False)  # comes to the damaged pages
        assert queue.stream != stream
        assert batch is not None
        assert (batch.stream, seqs(batch)) == (stream, [1, 2, 3])
        queue.ack(batch)
        queue.ack(out)  # from before
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


def test_a_batch_that_is_out_stays_out_while_its_fixes_are_carried_over(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 50)
        first, second, third, fourth = (lease(queue, 10, live_first=False) for _ in range(4))
        with queue.shared.disk:
            queue.shared.replace(UnusableError("as if damaged"))
        queue.ack(first, rejected={3: "no"})
        queue.release(second)
        carry_over(queue)
        queue.release(third, answered=False)
        assert seqs(lease(queue, 10)) == list(range(11, 21))
        queue.ack(fourth, retry=[40])
        assert seqs(lease(queue)) == list(range(40, 51))
        assert queue.resume_unack() == 10
        assert seqs(lease(queue)) == seqs(third)
        assert queue.stats().dead_letters == {"no": 1}
        assert queue.stats().lost == {}


@pytest.mark.parametrize("killed", [False, True])
def test_what_was_made_ready_last_is_ready_whatever_the_damaged_file_says(
    path: Path, killed: bool
) -> None:
    disk = Disk()
    queue = AckQueue(path, connect=disk.connect)
    put(queue, 50)
    queue.ack(lease(queue, 20), rejected=dict.fromkeys(range(41, 51), "no"))
    queue.release(lease(queue, 20, live_first=False), answered=False)
    queue.resume_unack()
    disk.refuses = "before"
    one, _ = queue.split(lease(queue, 20), 1)
    queue.release(one, answered=False)
    assert queue.retry() == 10
    assert queue.resend(START_MS, START_MS + 99_000) == 10
    disk.refuses = "never"
    with queue.shared.disk:
        queue.shared.writer.report(queue.shared.replace(UnusableError("as if damaged")))
    if killed:
        shutil.copytree(path.parent, path.parent / "killed")
        queue.close()
        queue = AckQueue(path.parent / "killed" / path.name)
    with queue:
        carry_over(queue)
        queue.resume_unack()
        assert queue.stats().ready == 50
        assert seqs(lease(queue)) == [1]
        assert seqs(lease(queue)) == list(range(2 if killed else 21, 51))
        states = queue.shared.store.read_marks(0)
        assert [(mark[0], mark[4]) for mark in states if mark[2] == State.READY] == [(1, 1)]


def test_a_second_damage_before_the_first_is_carried_over(path: Path) -> None:
    records = damage.fill(path, 300)
    for number in range(3):
        damage.damage(path, damage.header)
        with AckQueue(path) as queue:
            put(queue, 10, start=1000 * (number + 1))
    outcome = damage.recover(path)
    assert outcome.delivered[:300] == records
    assert [record.seq for record in outcome.delivered[300:]] == [*range(1, 11)] * 3
    assert outcome.lost == 0
    assert files(path) == []


@pytest.mark.parametrize("third", ["none", "at the next start", "and the second is gone"])
@pytest.mark.parametrize("note", [True, False])
def test_what_was_delivered_before_two_damages_is_not_lost(
    path: Path, caplog: pytest.LogCaptureFixture, note: bool, third: str
) -> None:
    """The first file lost its marks and the rows that were delivered, and is still away."""
    with AckQueue(path) as queue:
        put(queue, 100)
        queue.ack(lease(queue, 90, live_first=False))
        with queue.shared.lock:
            queue.shared.ledger.lose([(1, 90)], PURGED)
    with closing(sqlite3.connect(path)) as file:
        file.execute("DELETE FROM mark")
        file.commit()
    damage.damage(path, damage.header)
    if not note:
        lock_path(path).unlink()
    queue = AckQueue(path)
    put(queue, 20, start=200)
    queue.ack(lease(queue, 10))  # the newest
    with queue.shared.disk:
        assert queue.shared.replace(UnusableError("as if damaged")) is None
    lost = {} if note else {"uncounted": 1}
    if third != "none":
        put(queue, 5, start=300)
        queue.close()
        damage.damage(path, damage.header)
        if third == "and the second is gone":
            for left in path.parent.glob("*.damaged-2*"):
                left.unlink()
            lost |= {"damaged": 10}
        queue = AckQueue(path)
    with queue:
        carry_over(queue)
        assert queue.stats().lost == lost
        assert queue.stats().ready == 10 + 10 * ("damaged" not in lost) + 5 * (third != "none")
    assert ("other fixes may be missing" in caplog.text) == (not note)


@pytest.mark.parametrize("how", ["carried over", "away"])
def test_of_an_emptied_queue_that_was_set_aside_once_no_number_is_invented(
    path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    with AckQueue(path) as queue:
        put(queue, 20)
        queue.commit()
        with queue.shared.disk:
            assert queue.shared.replace(UnusableError("as if damaged")) is None
        put(queue, 8)
        queue.ack(lease(queue, 3, live_first=False))
        if how == "carried over":
            carry_over(queue)
    for file in path.parent.iterdir():
        if file != lock_path(path):
            file.unlink()
    with AckQueue(path) as queue:
        carry_over(queue)
        assert queue.stats().lost == {"damaged": 8 if how == "carried over" else 5, "uncounted": 1}
    assert "is empty: the fixes that waited in it are lost" in caplog.text
    assert "other fixes may be missing: no file is left that counts them" in caplog.text


def test_of_an_old_copy_of_a_queue_that_was_set_aside_since_no_number_is_invented(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage.fill(path, 20)
    old = path.read_bytes()
    with AckQueue(path) as queue:
        with queue.shared.disk:
            assert queue.shared.replace(UnusableError("as if damaged")) is None
        carry_over(queue)
        put(queue, 8)
    path.write_bytes(old)
    with AckQueue(path) as queue:
        assert queue.stats().lost == {"uncounted": 8}
        assert queue.stats().ready == 20
    assert "may be lost, at least 8 fixes" in caplog.text


def test_a_sector_that_cannot_be_read_keeps_no_other_fix_back(path: Path) -> None:
    damage.fill(path, 3000)
    sector = next(n for n in range(1, 10**4) if any(r > 2000 for r in _rows_of_page(path, n)))

    def refuse(op: Op) -> None:
        if op.kind == "read" and op.file == "queue.db" and op.offset // 512 == sector - 1:
            raise Refusal(apsw.IOError)

    disk = RecordedDisk(refuse)
    with disk.recorded(), AckQueue(path, connect=disk.connect) as queue:
        queue.ack(lease(queue, 1000, live_first=False))
        for _ in range(2):
            with pytest.raises(StorageError, match="cannot read"):
                queue.lease(3000, live_first=False)
        assert queue.lease(3000, live_first=False) is None  # enough: it is set aside
        carry_over(queue)  # the file that was set aside reads without fault
        assert seqs(lease(queue, 3000)) == list(range(1001, 3001))


def eio(op: Op) -> None:
    if op.kind == "read" and op.file == "queue.db":
        raise Refusal(apsw.IOError)


def full(op: Op) -> None:
    if op.kind in {"write", "create"}:
        raise Refusal(apsw.FullError)


def read_only(op: Op) -> None:
    if op.kind in {"write", "create", "truncate"}:
        raise Refusal(apsw.ReadOnlyError)


@pytest.mark.parametrize("refuse", [eio, full, read_only])
def test_a_disk_that_fails_sets_nothing_aside(path: Path, refuse: Callable[[Op], None]) -> None:
    records = damage.fill(path, 10)
    for _ in range(5):
        disk = RecordedDisk(refuse)
        with disk.recorded(), suppress(StorageError):
            queue = AckQueue(path, connect=disk.connect)
            queue.close()
        assert files(path) == []
    assert damage.recover(path) == damage.Outcome(records, lost=0)


def test_a_process_out_of_files_sets_nothing_aside(path: Path) -> None:
    records = damage.fill(path, 10)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    for spare in range(6):
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, limit[1]))
        try:
            with suppress(StorageError):
                AckQueue(path).close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        assert files(path) == []
    assert damage.recover(path) == damage.Outcome(records, lost=0)


# Time


def bytes_read() -> int:
    """By this process, since it began."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"])


def test_a_queue_of_256_mib_is_set_aside_and_records_before_it_is_read(path: Path) -> None:
    damage.fill(path, 1000)
    with path.open("r+b") as file:
        file.truncate(256 * MIB)
        file.write(bytes(100))
    before = bytes_read()
    with AckQueue(path, commit_every_s=0) as queue:
        put(queue, 1)
        assert queue.stats().uncommitted == 0
        assert bytes_read() - before < 16 * MIB


def test_it_says_so_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    damage.fill(path, 2000)
    damage.damage(path, damage.header)
    damage.recover(path)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_a_file_that_cannot_take_what_is_missing_in_it_is_set_aside(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be read from end to end, and is found to be damaged when it is written."""
    damage.fill(path, 100)
    write = Store.write
    refused: list[Changes] = []

    def malformed(store: Store, changes: Changes) -> None:
        if changes.marks and not refused:
            refused.append(changes)
            raise UnusableError("database disk image is malformed")
        write(store, changes)

    monkeypatch.setattr(Store, "write", malformed)
    note = path.with_name(path.name + ".lock")
    line = "open 101 150"
    note.write_text(f"1\n{line} {crc32(line.encode())}\n")
    outcome = damage.recover(path)
    assert refused
    assert len(outcome.delivered) == 100


def test_at_rest_an_oldest_fix_that_cannot_be_read_is_damage(path: Path) -> None:
    damage.fill(path, 500)
    with AckQueue(path) as queue:
        queue.ack(lease(queue, 300))
    data = bytearray(path.read_bytes())
    (at, _), *_ = damage.number_bits(bytes(data), 301)
    page = at // PAGE_BYTES * PAGE_BYTES
    data[page : page + 8] = b"\xff" * 8
    path.write_bytes(data)
    with closing(QueueReader(path)) as reader, pytest.raises(UnusableError, match="malformed"):
        reader.stats()
