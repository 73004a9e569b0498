"""Each leased batch is settled or given back; a batch without an answer is put off."""

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from fakes import FakeClock
from misbehaving import Act, Line, Request, answer, hang, hang_up, refusing
from upload.upload_parts import BACKOFF_MAX_S, bench
from uploading import FIX

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.errors import StorageError
from telemetry_agent.model import Answer, Delivered, Payload
from telemetry_agent.upload.formats import native
from telemetry_agent.upload.interfaces import NoAnswer, WireFormat
from telemetry_agent.upload.leases import Leases
from telemetry_agent.upload.upload_status import StatusKeeper


def test_unanswered_rows_stay_unack_while_there_is_something_else_to_try(tmp_path: Path) -> None:
    with bench(tmp_path, hang_up(), hang_up(), max_batch=2) as b:
        b.put_backlog(6)
        b.clock.advance(b.work() or 0)
        assert b.counts == (4, 2, 0, 0)
        b.clock.advance(b.work() or 0)
        assert b.counts == (2, 4, 0, 0)
        assert b.work() is None  # the third is answered, so the others are tried again
        assert b.counts == (0, 0, 6, 0)
        sent = [request.headers["idempotency-key"] for request in b.server.requests]
        assert len(sent) == 5
        assert len(set(sent)) == 3


def test_a_search_that_is_broken_off_gives_everything_back(tmp_path: Path) -> None:
    gone = [hang_up(), hang_up()]  # on the kept connection, and on a fresh one
    with bench(tmp_path, answer(400), answer(400), *gone, compression="none") as b:
        b.put_backlog(16)
        assert b.work() == 1
        assert b.counts == (12, 4, 0, 0)
        b.clock.advance(1)
        assert b.work() is None
        assert b.counts == (0, 0, 16, 0)


def unanswered(bad: Collection[int], ends: Callable[[Line], None]) -> Act:
    """A server whose process ends at these fixes, without an answer."""

    def run(line: Line, request: Request) -> bool:
        if any(seq in bad for _, seq in request.names):
            ends(line)
            return False
        line.server.take(request)
        line.reply(200)
        return True

    return Act(run)


@pytest.mark.parametrize("live_first", [True, False])
@pytest.mark.parametrize("ends", [Line.reset, Line.hang])
def test_a_fix_that_gets_no_answer_does_not_hold_up_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: Callable[[Line], None], live_first: bool
) -> None:
    then = unanswered({3}, ends)
    with bench(tmp_path, then=then, max_batch=8, compression="none", live_first=live_first) as b:
        exchange = b.transport.exchange

        def short_if_hopeless(payload: Payload, timeout_s: float) -> Answer | NoAnswer:
            return exchange(payload, 0.5 if b'"seq":3,' in payload.body else timeout_s)

        monkeypatch.setattr(b.transport, "exchange", short_if_hopeless)
        b.put_backlog(8)
        for _ in range(20):
            b.put(1)
            b.work_for(200)
        # The network may be the cause, so the fix does not become a dead letter.
        stats = b.queue.stats()
        assert (stats.acked, stats.ack_failed, stats.unack) == (27, 0, 1)
        before = len(b.server.requests)
        b.work_for(600)
        assert len(b.server.requests) - before < 10
        assert b.counts == (0, 1, 27, 0)
        b.server.then = answer()
        b.clock.advance(3600)
        b.put(1)
        b.work_for(60)
        assert b.counts == (0, 0, 29, 0)


def test_several_fixes_that_get_no_answer_wait_at_the_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each exchange without an answer takes its 30 s, and the order counts."""
    then = unanswered(range(1, 7), Line.reset)
    with bench(tmp_path, then=then, max_batch=4, live_first=False, compression="none") as b:
        exchange = b.transport.exchange

        def hangs(payload: Payload, timeout_s: float) -> Answer | NoAnswer:
            outcome = exchange(payload, timeout_s)
            if isinstance(outcome, NoAnswer):
                b.clock.advance(30)
            return outcome

        monkeypatch.setattr(b.transport, "exchange", hangs)
        b.put_backlog(40)
        b.work_for(3000)
        assert b.counts == (0, 6, 34, 0)
        b.server.requests.clear()
        b.put_backlog(8)
        b.uploader.network_returned(0)
        b.work_for(10)
        good, bad = [41, 42, 43, 44, 45, 46, 47, 48], [1, 2, 3, 4, 5, 6]
        sent = [seq for request in b.server.requests for _, seq in request.names]
        assert list(dict.fromkeys(sent)) == [*good, *bad]
        assert b.counts == (0, 6, 42, 0)
        assert b.state == "ok"
        b.server.then = answer()
        b.work_for(3600)  # also without a new fix
        assert b.counts == (0, 0, 48, 0)


def test_a_fix_that_the_network_lost_by_chance_is_soon_tried_again(tmp_path: Path) -> None:
    then = unanswered({3}, Line.reset)
    with bench(tmp_path, then=then, max_batch=8, compression="none") as b:
        b.put_backlog(8)
        while (b.queue.stats().ready, b.queue.stats().unack) != (0, 1):
            b.put(1)
            b.work_for(BACKOFF_MAX_S)
        b.server.then = answer()
        for _ in range(2):
            b.clock.advance(BACKOFF_MAX_S)
            b.put(1)
            b.work_for(60)
        assert b.counts[:2] == (0, 0)


def test_close_in_the_middle_of_a_search_hands_back_every_lease(tmp_path: Path) -> None:
    with bench(tmp_path, then=refusing({5})) as b:
        b.put_backlog(16)
        while b.queue.stats().in_flight < 8:
            b.step()
        b.uploader.close()
        assert b.queue.stats().in_flight == 0
        assert sum(b.counts) == 16


def test_close_during_a_request_of_a_search_hands_back_every_lease(tmp_path: Path) -> None:
    with bench(tmp_path, answer(400), answer(400), hang(), timeout_s=3600.0) as b:
        b.put_backlog(16)
        b.step()
        b.step()
        thread = threading.Thread(target=b.step)
        thread.start()
        b.server.wait_for(lambda server: len(server.requests) == 3)
        b.uploader.close()
        thread.join(60)
        assert not thread.is_alive()
        assert b.counts == (16, 0, 0, 0)


@pytest.mark.parametrize("where", ["encode", "exchange", "read"])
def test_whatever_raises_leaves_nothing_leased_and_the_batch_unanswered(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("a bug")

    broken_format = WireFormat(
        broken if where == "encode" else native.encode,
        broken if where == "read" else native.FORMAT.read,
    )
    with bench(tmp_path) as b:
        b.put_backlog(4)
        with monkeypatch.context() as patch:
            patch.setattr(b.uploader._sender, "_format", broken_format)
            if where == "exchange":
                patch.setattr(b.transport, "exchange", broken)
            with pytest.raises(RuntimeError):
                b.step()
        assert b.counts == (0, 4, 0, 0)
        assert b.work() is None
        assert b.counts == (0, 0, 4, 0)


def test_what_raises_where_the_disk_refuses_too_leaves_nothing_leased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = WireFormat(native.encode, mock.Mock(side_effect=RuntimeError("a bug")))
    with bench(tmp_path, answer(400)) as b:
        b.put_backlog(4)
        b.step()  # refused: the two halves are leased
        with monkeypatch.context() as patch:
            patch.setattr(b.uploader._sender, "_format", broken)
            patch.setattr(b.queue.shared, "write", mock.Mock(return_value=StorageError("is full")))
            with pytest.raises(RuntimeError, match="a bug"):
                b.step()
        assert b.work() is None
        assert b.counts == (0, 0, 4, 0)


def test_what_cannot_be_sent_becomes_a_dead_letter_and_stays_in_no_batch(tmp_path: Path) -> None:
    with AckQueue(tmp_path / "queue.db") as queue:
        for _ in range(5):
            queue.put(FIX, "van-07")
        keeper = StatusKeeper(FakeClock())
        leases = Leases(queue, lambda record: "no" if record.seq in {1, 2, 4} else None, keeper)
        for seq in (3, 5):
            batch = leases.take(10, live_first=False)
            assert batch is not None
            assert [record.seq for record in batch.records] == [seq]
            assert queue.stats().in_flight == 1
            leases.acknowledge(batch, Delivered())
        assert leases.take(10, live_first=False) is None
        stats = queue.stats()
        assert (stats.acked, stats.dead_letters, stats.ready) == (2, {"no": 3}, 0)


def test_a_day_of_fixes_that_cannot_be_sent_takes_a_write_for_each_thousand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One write for each fix would cost a sync each: minutes per uploader step on a worn card."""
    with AckQueue(tmp_path / "queue.db") as queue:
        for _ in range(3000):
            queue.put(FIX, "van-07")
        fail = mock.Mock(wraps=queue.fail)
        monkeypatch.setattr(queue, "fail", fail)
        leases = Leases(
            queue, lambda record: "no" if record.seq < 2996 else None, StatusKeeper(FakeClock())
        )
        batch = leases.take(3, live_first=False)
        assert batch is not None
        assert batch.records[0].seq == 2996
        assert len(batch.records) <= 3
        assert queue.stats().dead_letters == {"no": 2995}
        assert fail.call_count <= 5
