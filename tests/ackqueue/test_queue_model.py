"""The queue against a small model: a list of rows, and a copy of the list for the disk."""

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ackqueue.queue_parts import Disk, Refusal, fix_at
from fakes import FakeClock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from telemetry_agent.ackqueue import ledger
from telemetry_agent.ackqueue.file import store
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.row_states import State
from telemetry_agent.errors import StorageError
from telemetry_agent.model import Batch, Flag

NEW, GONE, READY, UNACK, ACKED, DEAD = -2, 0, 1, 2, 5, 9
KEEP_S = 30
MAX_UNCOMMITTED = 12


@dataclass
class Row:
    stream: str
    seq: int
    device: str
    second: float
    put_s: float
    state: int = NEW
    reason: str | None = None
    seal: object = None
    """The unanswered batch that contains the row."""
    out: bool = False

    @property
    def free(self) -> bool:
        return self.state == READY and not self.out

    def on_disk(self) -> "Row":
        row = copy(self)
        row.out = False
        if row.state == NEW:
            row.state = READY
        return row


@dataclass
class Model:
    rows: list[Row] = field(default_factory=list)
    disk: list[Row] = field(default_factory=list)
    newest: int = 0
    """Rows from this index on are live."""
    latest: float | None = None

    def write(self, refuses: str) -> None:
        if refuses != "before":
            self.disk = [row.on_disk() for row in self.rows]
        if refuses == "never":
            for row in self.rows:
                if row.state == NEW:
                    row.state = READY

    def reopen(self) -> None:
        self.rows = [copy(row) for row in self.disk]
        for row in self.rows:
            if row.state == UNACK:
                row.state = READY
        self.newest = len(self.rows)
        self.latest = None

    def commits_before_a_lease(self, now_s: float, *, live_first: bool, refused: bool) -> bool:
        waiting = [row for row in self.rows if row.state == NEW]
        others = [row for row in self.rows[self.newest if live_first else 0 :] if row.free]
        return refused or not waiting or not others or waiting[0].put_s + 1 < now_s

    def lease(self, limit: int, *, live_first: bool) -> tuple[list[Row], bool] | None:
        free = [row for row in self.rows if row.free]
        live = [row for row in self.rows[self.newest :] if row.free]
        if not free:
            return None
        if live_first and live:
            taken, is_live = live[-limit:], True
            taken = [row for i, row in enumerate(taken) if self._one_kind(taken[i:])]
        else:
            is_live = free[0] in live
            taken = [row for row in free if row.seal is free[0].seal]
            if free[0].seal is None or len(taken) > limit:
                for row in taken:
                    row.seal = None
                taken = self._loose(live if is_live else [r for r in free if r not in live])
                taken = taken[:limit]
                taken = [row for i, row in enumerate(taken) if self._one_kind(taken[: i + 1])]
        for row in taken:
            row.out = True
        self.newest = max(self.newest, self.rows.index(taken[-1]) + 1)
        return taken, is_live

    @staticmethod
    def _one_kind(rows: list[Row]) -> bool:
        return len({(row.stream, row.device) for row in rows}) == 1

    @staticmethod
    def _loose(rows: list[Row]) -> list[Row]:
        taken = []
        for row in rows:
            if row.seal is not None:
                break
            taken.append(row)
        return taken


class QueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="queue-model-"))
        self.files = 0
        self.disk = Disk()
        self.commits_seen = 0
        self.clock = FakeClock()
        self.model = Model()
        self.out: list[tuple[Batch, list[Row]]] = []
        self.path = self.folder / "0.db"
        self.names: set[tuple[str, int]] = set()
        self.second = 0.0

    @initialize()
    def start(self) -> None:
        self.open()

    def open(self) -> None:
        self.queue = AckQueue(
            self.path,
            keep_delivered_s=KEEP_S,
            max_uncommitted=MAX_UNCOMMITTED,
            clock=self.clock,
            connect=self.disk.connect,
        )
        self.commits_seen = self.disk.commits
        self.model.reopen()
        self.out = []

    def teardown(self) -> None:
        try:
            if hasattr(self, "queue"):
                self.disk.refuses = "never"
                self.queue.close()
        finally:
            shutil.rmtree(self.folder)

    def write(self) -> None:
        self.follow_the_disk()

    def follow_the_disk(self) -> None:
        if self.disk.commits > self.commits_seen:  # not tried soon after a refusal
            self.commits_seen = self.disk.commits
            self.model.write(self.disk.refuses)

    @rule(
        device=st.sampled_from(["a", "a", "a", "b"]),
        count=st.integers(1, 8),
        step=st.sampled_from([1, 1, 1, 7, -20, 500]),
        flags=st.sampled_from([(), (), (), ("time",)]),
    )
    def put(self, device: str, count: int, step: float, flags: tuple[Flag, ...]) -> None:
        self.second += step
        for _ in range(count):
            self.second += 1
            self.clock.advance(1)
            record = self.queue.put(fix_at(self.second, flags=flags), device)
            assert (record.stream, record.seq) not in self.names
            self.names.add((record.stream, record.seq))
            row = Row(record.stream, record.seq, device, self.second, self.clock.now_s)
            self.model.rows.append(row)
            if not flags:
                self.model.latest = self.second
            waiting = [row for row in self.model.rows if row.state == NEW]
            for lost in waiting[: max(0, len(waiting) - MAX_UNCOMMITTED)]:
                lost.state, lost.reason = GONE, "memory"

    @rule()
    def commit(self) -> None:
        changed = any(row.state == NEW for row in self.model.rows)
        try:
            self.queue.commit()
        except StorageError:
            assert self.disk.refuses != "never"
        else:
            assert self.disk.refuses == "never" or not changed
        self.follow_the_disk()

    @rule(limit=st.integers(1, 12), live_first=st.booleans())
    def lease(self, limit: int, live_first: bool) -> None:
        commits = self.model.commits_before_a_lease(
            self.clock.now_s, live_first=live_first, refused=self.queue.shared.writer.refused
        )
        batch = self.queue.lease(limit, live_first=live_first)
        if commits:
            self.write()
        expected = self.model.lease(limit, live_first=live_first)
        if expected is None:
            assert batch is None
            return
        rows, live = expected
        assert batch is not None
        assert batch.live == live
        assert [(r.stream, r.seq, r.device) for r in batch.records] == [
            (row.stream, row.seq, row.device) for row in rows
        ]
        assert [r.fix.time_ms for r in batch.records] == [
            fix_at(row.second).time_ms for row in rows
        ]
        assert {(r.stream, r.device) for r in batch.records} == {(batch.stream, batch.device)}
        self.out.append((batch, rows))

    def take(self, data: st.DataObject) -> tuple[Batch, list[Row]]:
        batch, rows = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        for row in rows:
            row.out = False
        return batch, rows

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        batch, rows = self.take(data)
        if len(rows) > 1:
            at = data.draw(st.integers(1, len(rows) - 1))
            first, second = self.queue.split(batch, at)
            for row in rows:
                row.seal = None
            self.out += [(first, rows[:at]), (second, rows[at:])]
        else:
            self.out.append((batch, rows))
        for row in rows:
            row.out = True

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        batch, rows = self.take(data)
        some = st.sets(st.sampled_from([row.seq for row in rows]), max_size=3)
        rejected, retry = data.draw(some), data.draw(some)
        self.queue.ack(
            batch,
            rejected={seq: f"no {seq % 2}" for seq in rejected} | {0: "no such name"},
            retry=retry | {0},
        )
        for row in rows:
            row.seal = None
            if row.seq in rejected:
                row.state, row.reason = DEAD, f"no {row.seq % 2}"
            elif row.seq not in retry:
                row.state = ACKED
        self.write()

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        batch, rows = self.take(data)
        self.queue.fail(batch, "refused")
        for row in rows:
            row.state, row.reason, row.seal = DEAD, "refused", None
        self.write()

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        batch, _ = self.take(data)
        self.queue.release(batch)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def lose_the_answer(self, data: st.DataObject) -> None:
        batch, rows = self.take(data)
        self.queue.release(batch, answered=False)
        seal = rows[0].seal or object()
        for row in rows:
            row.state, row.seal = UNACK, seal
        self.write()

    @rule()
    def resume(self) -> None:
        waiting = [row for row in self.model.rows if row.state == UNACK]
        assert self.queue.resume_unack() == len(waiting)
        for row in waiting:
            row.state = READY
        self.write()

    @rule(every=st.booleans())
    def retry(self, every: bool) -> None:
        dead = [row for row in self.model.rows if row.state == DEAD]
        if not every:
            dead = dead[::2]
        names = None if every else {(row.stream, row.seq) for row in dead} | {("0" * 16, 1)}
        assert self.queue.retry(names) == len(dead)
        for row in dead:
            row.state, row.reason = READY, None
        self.write()

    @rule()
    def discard(self) -> None:
        dead = [row for row in self.model.rows if row.state == DEAD][::2]
        assert self.queue.discard({(row.stream, row.seq) for row in dead}) == len(dead)
        for row in dead:
            row.state, row.reason = GONE, "discarded"
        self.write()

    @rule(since=st.integers(0, 60), seconds=st.integers(0, 60))
    def resend(self, since: int, seconds: int) -> None:
        acked = [row for row in self.model.rows if row.state == ACKED]
        chosen = [row for row in acked if since <= row.second < since + seconds]
        since_ms = fix_at(since).time_ms
        assert self.queue.resend(since_ms, since_ms + 1000 * seconds) == len(chosen)
        for row in chosen:
            row.state, row.seal = READY, None
        self.write()

    @rule()
    def purge(self) -> None:
        refused = self.queue.shared.writer.refused
        self.queue.purge_delivered()
        acked = [row.state == ACKED for row in self.model.rows]
        if self.model.latest is None or not any(acked) or refused:
            return
        purged = []
        for row in self.model.rows[acked.index(True) : -1]:  # the newest row stays
            if row.state == ACKED and abs(row.second - self.model.latest) <= KEEP_S:
                break
            if row.state == ACKED:
                purged.append(row)
        for row in purged:
            row.state = GONE
        if purged:
            self.follow_the_disk()

    @rule(refuses=st.sampled_from([*["never"] * 6, "before", "after"]))
    def disk_changes(self, refuses: Refusal) -> None:
        self.disk.refuses = refuses

    @rule()
    def close_and_reopen(self) -> None:
        self.disk.refuses = "never"
        self.queue.close()
        self.model.write("never")
        self.open()

    @rule()
    def die_and_reopen(self) -> None:
        self.files += 1
        dead, self.path = self.path, self.folder / f"{self.files}.db"
        for end in ("", "-wal"):
            source = dead.with_name(dead.name + end)
            if source.exists():
                shutil.copy(source, self.path.with_name(self.path.name + end))
        self.queue.shared.store.close()
        self.queue._end.detach()
        self.queue.shared.file.lock.release()
        self.open()

    @invariant()
    def counts_agree(self) -> None:
        rows = self.model.rows
        states = [row.state for row in rows]
        stats = self.queue.stats()
        assert stats.ready == states.count(READY)
        assert stats.unack == states.count(UNACK)
        assert stats.acked == states.count(ACKED)
        assert stats.ack_failed == sum(stats.dead_letters.values()) == states.count(DEAD)
        assert stats.uncommitted == states.count(NEW)
        assert stats.in_flight == sum(row.out for row in rows)
        assert stats.lost == Counter(r.reason for r in rows if r.state == GONE and r.reason)
        # Fixes that the disk refused on the last attempt cannot be handed out.
        new = None if self.queue.shared.writer.refused else NEW
        live = [row for row in rows[self.model.newest :] if row.free or row.state == new]
        backlog = self.queue.backlog()
        assert backlog.ready == sum(row.free or row.state == new for row in rows)
        assert backlog.live == len(live)
        if live:
            assert backlog.live_since_s is not None
            assert backlog.live_since_s <= live[0].put_s
        else:
            assert backlog.live_since_s is None
        pending = [row for row in rows if row.state in {READY, UNACK}] or [
            row for row in rows if row.state == NEW
        ]
        for place in {0, len(rows) // 2, len(rows)}:
            waiting = [row for row in rows[:place] if row.state in {NEW, READY, UNACK}]
            assert self.queue.pending(place) == len(waiting)
        assert self.queue.last_row() == len(rows)
        oldest_ms = fix_at(pending[0].second).time_ms if pending else None
        assert stats.oldest_pending_ms == oldest_ms

    @invariant()
    def dead_letters_agree(self) -> None:
        dead = [(s.record.seq, s.reason) for s in self.queue.stored(State.ACK_FAILED)]
        assert dead == [(row.seq, row.reason) for row in self.model.rows if row.state == DEAD]

    @invariant()
    def places_agree(self) -> None:
        words = {READY: "stored", UNACK: "stored", ACKED: "delivered", DEAD: "dead-letter"}
        expected = {
            number: "in-flight" if row.out else words.get(row.state, "gone")
            for number, row in enumerate(self.model.rows, start=1)
            if row.state != NEW
        }
        places = list(self.queue.places(1))
        found = {row: span.value for span in places for row in range(span.lo, span.hi + 1)}
        assert found == expected
        assert sum(span.size for span in places) == len(found)

    @invariant()
    def disk_agrees(self) -> None:
        reader = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)
        try:
            seen = reader.execute("SELECT stream, seq, device, state, reason FROM fixes").fetchall()
        finally:
            reader.close()
        assert seen == [
            (row.stream, row.seq, row.device, row.state, row.reason)
            for row in self.model.disk
            if row.state > 0
        ]


@pytest.fixture(autouse=True, scope="module")
def one_reason_in_memory() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (ledger, store):
            patch.setattr(module, "REASONS_IN_MEMORY", 1)
        yield


QueueMachine.TestCase.settings = settings(
    max_examples=settings().max_examples // 2, stateful_step_count=50
)
TestQueueModel = QueueMachine.TestCase
