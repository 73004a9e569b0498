"""The account of each stream against a plain set of names, whatever happens to the fixes."""

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from ackqueue import damage
from ackqueue.older_files import OLDER, make_older
from ackqueue.promises import names
from ackqueue.queue_parts import Disk, fix_at, lease, put
from fakes import FakeClock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from judge import audit

from telemetry_agent.ackqueue.file import store
from telemetry_agent.ackqueue.file.schema import UnusableError
from telemetry_agent.ackqueue.limits import thinning
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.ranges import ABOVE_ALL, RangeMap, Span
from telemetry_agent.ackqueue.recovery.carry_over import carry_over
from telemetry_agent.ackqueue.row_states import (
    UNCOUNTED,
    UNUSED,
    RowState,
    State,
    StreamRun,
    dead_letter,
)
from telemetry_agent.ackqueue.streams import STREAMS_MAX, Streams
from telemetry_agent.errors import StorageError
from telemetry_agent.lab.endpoint.audit import lines
from telemetry_agent.model import Batch, StreamAccount

Name = tuple[str, int]
PENDING, ACKED, DEAD = "pending", "acked", "dead"
MAX_UNCOMMITTED = 12


def expected(names: dict[Name, str], stream: str) -> StreamAccount | None:
    """The account by the definition in CONTRACT, "What is complete"."""
    mine = {seq: state for (of, seq), state in names.items() if of == stream}
    if not mine:
        return None
    through = min((seq for seq, state in mine.items() if state == PENDING), default=0) - 1
    if through < 0:
        through = max(mine)
    told = [state for seq, state in mine.items() if seq <= through]
    reasons = ("refused" if state == DEAD else state for state in told if state != ACKED)
    return StreamAccount(stream, through, len(told), dict(Counter(reasons)))


class Accounts(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="accounts-"))
        self.path = self.folder / "0.db"
        self.files = 0
        self.disk = Disk()
        self.clock = FakeClock()
        self.names: dict[Name, str] = {}
        self.on_disk: dict[Name, str] = {}
        self.settled: set[str] = set()
        self.sure = True
        """False after a kill or damage, which can undo that a stream is settled."""
        self.out: list[Batch] = []
        self.second = 0

    @initialize()
    def start(self) -> None:
        self.open()

    def open(self) -> None:
        self.queue = AckQueue(
            self.path,
            commit_every_s=3600,
            keep_delivered_s=30,
            max_uncommitted=MAX_UNCOMMITTED,
            clock=self.clock,
            connect=self.disk.connect,
        )
        self.out = []
        self.streams = [self.queue.stream]

    def teardown(self) -> None:
        self.disk.refuses = "never"
        if hasattr(self, "queue"):
            self.queue.close()
        shutil.rmtree(self.folder)

    @property
    def refuses(self) -> bool:
        return self.disk.refuses != "never"

    def stored(self) -> set[Name]:
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as reader:
            rows = reader.execute("SELECT printf('%016x', stream), seq FROM fix").fetchall()
        return set(rows)

    def vanished(self, reason: str) -> None:
        """Note missing rows: those that were still to be delivered are lost."""
        self.queue.commit()
        stored = self.stored()
        for name, state in self.names.items():
            if state == PENDING and name not in stored:
                self.change(name, reason)

    def change(self, name: Name, state: str) -> None:
        self.names[name] = state
        self.settled.discard(name[0])

    @rule(count=st.integers(1, 10), step=st.sampled_from([1, 1, 100]))
    def put(self, count: int, step: int) -> None:
        for _ in range(count):
            self.second += step
            self.clock.advance(1)
            record = self.queue.put(fix_at(self.second), "a")
            self.names[record.stream, record.seq] = PENDING
            waiting = self.uncommitted()
            for name in list(self.names):
                if self.names[name] == PENDING and name not in waiting and name in self.fresh:
                    self.change(name, "memory")
            self.fresh = waiting
            self.settled.discard(record.stream)

    fresh: frozenset[Name] = frozenset()

    def uncommitted(self) -> frozenset[Name]:
        return frozenset(
            (f"{row[2] & (1 << 64) - 1:016x}", row[3]) for row in self.queue.shared.writer.rows
        )

    @precondition(lambda self: not self.refuses)
    @rule(count=st.integers(1, 4))
    def put_into_a_full_queue(self, count: int) -> None:
        self.queue._bounds.stopped = True
        for _ in range(count):
            record = self.queue.put(fix_at(self.second), "a")
            self.names[record.stream, record.seq] = "full"
        self.queue._bounds.stopped = False
        self.queue.commit()

    @rule(limit=st.integers(1, 12), live_first=st.booleans())
    def lease(self, limit: int, live_first: bool) -> None:
        batch = self.queue.lease(limit, live_first=live_first)
        if batch is not None:
            self.out.append(batch)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), end=st.sampled_from(["ack", "ack", "some", "fail", "back", "silence"]))
    def answer(self, data: st.DataObject, end: str) -> None:
        batch = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        names = [(record.stream, record.seq) for record in batch.records]
        if end == "ack":
            self.queue.ack(batch)
            state = dict.fromkeys(names, ACKED)
        elif end == "some":
            dead, later = names[::3], names[1::3]
            self.queue.ack(
                batch, rejected={seq: "no" for _, seq in dead}, retry=[seq for _, seq in later]
            )
            state = dict.fromkeys(names, ACKED) | dict.fromkeys(later, PENDING)
            state |= dict.fromkeys(dead, DEAD)
        elif end == "fail":
            self.queue.fail(batch, "no")
            state = dict.fromkeys(names, DEAD)
        else:
            self.queue.release(batch, answered=end == "back")
            return
        for name, became in state.items():
            self.change(name, became)

    @rule()
    def resume(self) -> None:
        self.queue.resume_unack()

    @rule(act=st.sampled_from(["retry", "discard"]), every=st.integers(1, 3))
    def dead_letters(self, act: str, every: int) -> None:
        dead = {name for name, state in self.names.items() if state == DEAD and not name[1] % every}
        count = self.queue.retry(dead) if act == "retry" else self.queue.discard(dead)
        assert count == len(dead)
        for name in dead:
            self.change(name, PENDING if act == "retry" else "discarded")

    @precondition(lambda self: not self.refuses)
    @rule(data=st.data(), first=st.integers(1, 30), count=st.integers(0, 20))
    def resend(self, data: st.DataObject, first: int, count: int) -> None:
        stream = data.draw(st.sampled_from(sorted({name[0] for name in self.names} | {"0" * 16})))
        self.queue.commit()
        kept = self.stored()
        chosen = {(stream, seq) for seq in range(first, first + count)}
        chosen = {name for name in chosen & kept if self.names[name] == ACKED}
        assert self.queue.resend_names(stream, first, first + count - 1) == len(chosen)
        for name in chosen:
            self.change(name, PENDING)

    @precondition(lambda self: not self.refuses)
    @rule()
    def purge(self) -> None:
        while self.queue.purge_delivered():
            pass

    @precondition(lambda self: not self.refuses)
    @rule(level=st.integers(0, 4))
    def thin(self, level: int) -> None:
        self.queue.commit()
        with self.queue.shared.disk:
            worker = thinning.Thinner(self.queue.shared)
            worker._level = level
            worker.step()
        self.vanished("thinned")

    @precondition(lambda self: not self.refuses)
    @rule()
    def drop(self) -> None:
        with self.queue.shared.disk:
            self.queue._bounds._drop()
        self.vanished("dropped")

    @rule(refuses=st.sampled_from(["never", "never", "before"]))
    def disk_changes(self, refuses: str) -> None:
        self.disk.refuses = "before" if refuses == "before" else "never"
        self.clock.advance(2)
        if refuses == "never":
            self.queue.commit()

    @rule()
    def settle(self) -> None:
        accounts, _ = self.queue.accounts()
        self.queue.settle(accounts)
        for account in accounts:
            if account.finished:
                self.settled.add(account.stream)
        if self.sure:
            assert not self.settled & {one.stream for one in self.queue.accounts()[0]}

    @rule()
    def close_and_reopen(self) -> None:
        self.disk.refuses = "never"
        self.queue.close()
        self.open()

    @rule()
    def die_and_reopen(self) -> None:
        self.die()
        self.open()

    def die(self) -> None:
        """Continue on a copy of the files, as a kill leaves them."""
        dead = self.path
        self.files += 1
        self.path = self.folder / f"{self.files}.db"
        damage.copy(dead, self.path)
        for file in dead.parent.glob(f"{dead.name}.*-*"):
            shutil.copy(file, file.with_name(file.name.replace(dead.name, self.path.name)))
        self.queue.shared.store.close()
        self.queue._end.detach()
        self.queue.shared.file.lock.release()
        self.names = dict(self.on_disk)
        self.settled = set()
        self.sure = False
        self.disk.refuses = "never"

    @precondition(lambda self: not self.refuses)
    @rule(seed=st.integers(0, 1000))
    def damage_at_rest(self, seed: int) -> None:
        """Overwrite the header. Nothing is lost, or a page of fixes is counted as lost."""
        self.queue.close()
        self.sure = False
        damage.damage(self.path, damage.header, seed)
        self.open()
        carry_over(self.queue)
        self.vanished("damaged")

    @precondition(lambda self: not self.refuses)
    @rule()
    def damage_in_use(self) -> None:
        """Find damage in the file while fixes wait in memory."""
        self.out = []
        for lease_ in list(self.queue.shared.ledger.leases):
            batch = Batch(lease_, "", "", (), live=False)
            self.queue.release(batch)
        with self.queue.shared.disk, pytest.raises(StorageError):
            self.queue.shared.miss(1)
        carry_over(self.queue)
        self.vanished("damaged")
        self.sure = False

    @invariant()
    def the_accounts_are_exact(self) -> None:
        if not self.refuses:
            waiting = self.uncommitted()
            # While others wait, fixes lost in memory since the last write have no mark on disk yet.
            unmarked = {
                name
                for name, state in self.names.items()
                if waiting and state == "memory" and name not in self.on_disk
            }
            gone = waiting | unmarked
            self.on_disk = {n: state for n, state in self.names.items() if n not in gone}
        self.fresh = self.uncommitted()
        if self.queue.shared.writer.placed:
            return
        accounts, _ = self.queue.accounts()
        said = {account.stream: account for account in accounts}
        streams = {stream for stream, _ in self.names}
        assert said.keys() <= streams
        for stream in streams:
            right = expected(self.names, stream)
            assert right is not None
            if stream not in said:
                assert stream in self.settled or len(said) == STREAMS_MAX or not self.sure
                continue
            account = said[stream]
            told = (account.through, account.recorded, account.not_coming)
            assert told == (right.through, right.recorded, right.not_coming), stream
            is_pending = PENDING in {s for (of, _), s in self.names.items() if of == stream}
            assert account.finished == (not is_pending and stream != self.queue.stream)


Accounts.TestCase.settings = settings(
    max_examples=settings().max_examples // 2, stateful_step_count=50
)
TestAccounts = Accounts.TestCase


@pytest.fixture(autouse=True)
def few_rows_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thinning, "_FEW_ROWS", 4)


def deliver(queue: AckQueue) -> None:
    while batch := queue.lease(1000, live_first=False):
        queue.ack(batch)


def told(queue: AckQueue) -> list[tuple[str, int, int, dict[str, int]]]:
    return [(a.stream, a.through, a.recorded, dict(a.not_coming)) for a in queue.accounts()[0]]


def test_fixes_that_waited_in_memory_when_the_file_was_set_aside_are_counted_once(
    tmp_path: Path,
) -> None:
    with AckQueue(tmp_path / "queue.db", commit_every_s=3600) as queue:
        stream = queue.stream
        put(queue, 5)
        queue.commit()
        put(queue, 3, start=5)
        with queue.shared.disk, pytest.raises(StorageError):
            queue.shared.miss(1)
        assert told(queue) == []  # the away rows are not known
        carry_over(queue)
        put(queue, 2, start=8)
        deliver(queue)
        assert told(queue) == [(stream, 8, 8, {}), (queue.stream, 2, 2, {})]


def test_what_damage_took_is_counted_with_its_range(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    records = damage.fill(path, 400)
    damage.damage(path, damage.five_pages, 3)
    with AckQueue(path) as queue:
        carry_over(queue)
        deliver(queue)
        carry_over(queue)  # the delivery has found some of the damage
        deliver(queue)
        (account,) = [a for a in queue.accounts()[0] if a.stream == records[0].stream]
        lost = queue.stats().lost["damaged"]
        there = {stored.record.seq for stored in queue.stored() if stored.record in records}
    missing = {record.seq for record in records} - there
    assert len(missing) == lost
    assert (account.through, account.recorded, account.finished) == (400, 400, True)
    assert account.not_coming == {"damaged": lost}
    assert account.damaged_in == (min(missing), max(missing))


@pytest.mark.parametrize("what", ["emptied", "log"])
def test_a_file_that_forgot_its_fixes_is_accounted_for_by_the_note(
    tmp_path: Path, what: str
) -> None:
    path = tmp_path / "queue.db"
    queue = AckQueue(path, commit_every_s=0)
    put(queue, 30)
    queue.ack(lease(queue, 10, live_first=False))
    queue.tidy()
    copy = tmp_path / "copy.db"
    damage.copy(path, copy)
    stream = queue.stream
    queue.close()
    copy.with_name(f"{copy.name}-wal").unlink()
    if what == "emptied":
        copy.write_bytes(b"")
    with AckQueue(copy) as queue:
        carry_over(queue)
        accounts = queue.accounts()[0]
    assert [a.stream for a in accounts] == [stream]
    assert accounts[0].not_coming == {"damaged": 20, "uncounted": 1}
    assert (accounts[0].through, accounts[0].expected) == (31, 10)


def test_a_settled_stream_is_reported_again_when_something_else_becomes_of_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "queue.db"
    with AckQueue(path) as queue:
        put(queue, 9)
        queue.ack(lease(queue), rejected={3: "no"})
        stream = queue.stream
    with AckQueue(path) as queue:
        accounts, until_ms = queue.accounts()
        assert [(a.stream, a.through, a.not_coming) for a in accounts] == [
            (stream, 9, {"refused": 1})
        ]
        assert accounts[0].expected == 8
        assert until_ms == fix_at(8).time_ms
        assert told(queue) == told(queue)
        queue.settle(accounts)
        assert told(queue) == []
    with AckQueue(path) as queue:
        assert told(queue) == []
        queue.discard()
        queue.settle(accounts)  # the answer to an earlier report
        assert told(queue) == [(stream, 9, 9, {"discarded": 1})]
    with AckQueue(path) as queue:
        assert told(queue) == [(stream, 9, 9, {"discarded": 1})]
        queue.settle(queue.accounts()[0])
        assert queue.resend_names(stream, 2, 4) == 2
        assert told(queue) == [(stream, 1, 1, {})]
        assert queue.accounts()[1] == fix_at(0).time_ms
        accounts, _ = queue.accounts()
        deliver(queue)
        queue.settle(accounts)  # too late: the account has changed
        assert told(queue) == [(stream, 9, 9, {"discarded": 1})]


@pytest.mark.parametrize("version", OLDER)
def test_nothing_is_accounted_for_while_fixes_of_a_stream_without_an_account_wait(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "queue.db"
    make_older(path, version)
    delivered: list[Name] = []
    with AckQueue(path) as queue:
        put(queue, 2, start=10)
        queue.commit()
        batch = lease(queue, live_first=True)
        queue.ack(batch)
        delivered += names(batch.records)
        assert told(queue) == []
        batch = lease(queue)
        queue.ack(batch)
        delivered += names(batch.records)
        said = audit(queue.accounts()[0], delivered)
    assert len(delivered) == 5
    noon = "2026-11-23T12:00:00.000Z"
    assert lines(said) == [f"van-07: complete until {noon}; no account of 3 fixes until {noon}"]


def test_what_became_of_each_row_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other of 4,000 rows is a dead letter. Nobody waits while they are counted."""
    looks: list[int] = []

    class Counted(RangeMap[RowState]):
        def within(self, lo: int, hi: int = ABOVE_ALL) -> Iterator[Span[RowState]]:
            looks.append(0)
            for span in super().within(lo, hi):
                looks[-1] += 1
                yield span

    monkeypatch.setattr(store, "RangeMap", Counted)
    with AckQueue(tmp_path / "queue.db") as queue:
        put(queue, 4000)
        while batch := queue.lease(1000, live_first=False):
            queue.ack(batch, rejected={record.seq: "no" for record in batch.records[::2]})
        looks.clear()
        first = told(queue)
        assert first == [(queue.stream, 4000, 4000, {"refused": 2000})]
        assert sum(looks) < 4100
        assert max(looks) < 600
        looks.clear()
        assert told(queue) == first
        assert sum(looks) == 0
        put(queue, 10, start=4000)
        deliver(queue)
        looks.clear()
        assert told(queue) == [(queue.stream, 4010, 4010, {"refused": 2000})]
        assert sum(looks) < 10
        queue.retry([(queue.stream, 1001)])
        assert told(queue) == [(queue.stream, 1000, 1000, {"refused": 500})]


def test_the_device_says_complete_until_where_all_streams_are_in_the_report(
    tmp_path: Path,
) -> None:
    path = tmp_path / "queue.db"
    for start in range(STREAMS_MAX + 1):
        with AckQueue(path) as queue:
            put(queue, 1, start=start)
            deliver(queue)
    with AckQueue(path) as queue:
        accounts, until_ms = queue.accounts()
        assert until_ms is None
        queue.settle(accounts)
        assert queue.accounts()[1] == fix_at(STREAMS_MAX).time_ms


def test_a_report_names_the_oldest_streams_first_and_the_file_forgets_those_that_are_over(
    tmp_path: Path,
) -> None:
    path = tmp_path / "queue.db"
    streams = []
    for start in range(STREAMS_MAX + 5):
        with AckQueue(path, keep_delivered_s=5) as queue:
            put(queue, 1, start=100 * start)
            streams.append(queue.stream)
            deliver(queue)
    with AckQueue(path, keep_delivered_s=5) as queue:
        assert [stream for stream, *_ in told(queue)] == streams[:STREAMS_MAX]
        queue.settle(queue.accounts()[0])
        assert [stream for stream, *_ in told(queue)] == streams[STREAMS_MAX:]
        queue.settle(queue.accounts()[0])
        put(queue, 1, start=10_000)
        while queue.purge_delivered():
            pass
    with AckQueue(path) as queue:
        put(queue, 1, start=10_001)
        queue.commit()
        with closing(sqlite3.connect(path)) as file:
            (count,) = file.execute("SELECT count(*) FROM stream").fetchone()
        assert count == 2


def test_a_stream_that_was_never_here_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "queue.db"
    with AckQueue(path) as queue:
        put(queue, 3)
        deliver(queue)
        stream = queue.stream
        with monkeypatch.context() as patch:
            patch.delattr(store.Store, "_select")
            assert queue.resend_names("0123456789abcdef", 1, 3) == 0
    with closing(sqlite3.connect(path)) as database:
        database.execute("DELETE FROM stream")  # as an older version left it
        database.commit()
    with AckQueue(path) as queue:
        put(queue, 3)
        deliver(queue)
        assert queue.resend_names("0123456789abcdef", 1, 3) == 0
        assert queue.resend_names(stream, 2, 9) == 2


def test_a_run_whose_record_is_lost_is_derived_from_the_rows_that_arrive() -> None:
    streams = Streams([], RangeMap())
    # The first 3 rows of stream 7 are missing. Stream 8 began before this file, with seq 1 to 3.
    arriving = [(14, 7, 4), (15, 7, 5), (18, 8, 6), (19, 8, 7)]
    for row in arriving:
        streams.learn_from_row(*row)
    derived = {11: StreamRun(11, 7, 1), 16: StreamRun(16, 8, 4)}
    assert streams.take_changes() == derived
    # They are read again from the start, with a row that was not found before.
    for row in [(2, 6, 1), *arriving]:
        streams.learn_from_row(*row)
    assert streams.take_changes() == {2: StreamRun(2, 6, 1)}
    assert [streams.bounds(row) for row in (2, 14, 18)] == [(2, 11), (11, 16), (16, ABOVE_ALL)]


def test_a_run_that_the_rows_of_another_contradict_is_forgotten() -> None:
    streams = Streams([StreamRun(1, 7, 1), StreamRun(20, 8, 1)], RangeMap())
    for row in [(19, 7, 12), (20, 7, 13), (21, 7, 14)]:  # thinning has moved them up
        streams.learn_from_row(*row)
    assert streams.take_changes() == {20: None}
    assert streams.bounds(20) == (1, ABOVE_ALL)


def test_a_run_begins_once_and_in_the_place_of_one_without_rows() -> None:
    streams = Streams([StreamRun(1, 7, 1), StreamRun(5, 8, 1)], RangeMap())
    streams.begin(5, 9, 1)  # the full disk had taken stream 8's record, but none of its rows
    streams.begin(6, 9, 2)
    assert streams.runs == [StreamRun(1, 7, 1), StreamRun(5, 9, 1)]
    assert streams.take_changes() == {5: StreamRun(5, 9, 1)}


@pytest.mark.parametrize(
    ("lo", "hi", "opened"), [(12, 13, {11}), (2, 6, {5}), (10, 21, {5, 11, 21})]
)
def test_only_the_runs_of_rows_that_changed_are_reported_again(
    lo: int, hi: int, opened: set[int]
) -> None:
    streams = Streams([StreamRun(row, row, 1, reported=1) for row in (5, 11, 21)], RangeMap())
    streams.reopen(lo, hi)
    assert streams.take_changes() == {row: StreamRun(row, row, 1) for row in opened}


def test_what_nothing_counts_is_of_the_run_that_continues_behind_it() -> None:
    marks: RangeMap[RowState] = RangeMap()
    acked = RowState(State.ACKED)
    for row, mark in enumerate([acked, UNUSED, UNCOUNTED, acked, dead_letter("no")], start=1):
        marks.paint(row, row, mark)
    accounts = Streams([StreamRun(1, 7, 1)], marks).accounts(5, 7, {})
    assert isinstance(accounts, list)
    assert [(each.through, each.recorded, each.not_coming) for each in accounts] == [
        (5, 4, {"uncounted": 1, "refused": 1})
    ]


def test_a_write_that_is_refused_and_a_new_file_forget_no_stream(tmp_path: Path) -> None:
    disk, path = Disk(), tmp_path / "queue.db"
    with AckQueue(path, connect=disk.connect, clock=FakeClock()) as queue:
        disk.refuses = "before"
        put(queue, 3)
        with pytest.raises(StorageError):
            queue.commit()
        disk.refuses = "never"
        queue.commit()
        assert runs_in(path) == [1]
        with queue.shared.disk:
            queue.shared.replace(UnusableError("as if damaged"))
        assert runs_in(path) == [1]


def runs_in(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as file:
        return [lo for (lo,) in file.execute("SELECT lo FROM stream ORDER BY lo")]


def test_a_stream_of_which_no_row_is_left_is_still_accounted_for_after_damage(
    tmp_path: Path,
) -> None:
    path = tmp_path / "queue.db"
    with AckQueue(path, keep_delivered_s=0) as queue:
        put(queue, 5)
        deliver(queue)
        gone = queue.stream
    with AckQueue(path, keep_delivered_s=0) as queue:
        put(queue, 5, start=1000)
        queue.tidy()
        assert {stored.record.stream for stored in queue.stored()} == {queue.stream}
    damage.damage(path, damage.header)
    with AckQueue(path) as queue:
        carry_over(queue)
        assert (gone, 5, 5, {}) in told(queue)
