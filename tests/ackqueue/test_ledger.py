"""The place of each row: free, leased or marked, and never two of these."""

from pathlib import Path

import pytest
from ackqueue.queue_parts import lease, put, seqs

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.row_states import State


def test_a_batch_without_an_answer_comes_again_as_it_was_even_after_a_restart(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 6)
        middle = lease(queue, 4)
        queue.ack(middle, retry=[4, 6])
        batch = lease(queue, 3)  # 1, 2, 4: not contiguous
        assert seqs(batch) == [1, 2, 4]
        queue.release(batch, answered=False)
        assert queue.stats().unack == 3
        assert seqs(lease(queue)) == [6]
    for _ in range(2):
        with AckQueue(path) as queue:
            put(queue, 1)
            assert lease(queue).live
            assert seqs(lease(queue)) == [1, 2, 4]
    with AckQueue(path) as queue:
        assert seqs(lease(queue, 2)) == [1, 2]
        assert seqs(lease(queue, 2)) == [4, 6]


def test_resume_hands_out_no_batch_that_is_out(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 2)
        queue.release(lease(queue, 1), answered=False)
        out = lease(queue)
        assert seqs(out) == [1]
        assert queue.resume_unack() == 1
        assert seqs(lease(queue)) == [2]
        assert queue.lease(1) is None
        assert queue.resume_unack() == 0


def test_a_batch_ends_once(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 4)
        batch = lease(queue)
        halves = queue.split(batch, 1)
        assert [seqs(half) for half in halves] == [[1], [2, 3, 4]]
        queue.ack(halves[0])
        queue.release(halves[1])
        for ended in (batch, *halves):
            for use in (queue.ack, queue.release, lambda b: queue.fail(b, "no")):
                with pytest.raises(ValueError, match="is not out"):
                    use(ended)
        assert queue.stats().acked == 1
        again = lease(queue)
        for at in (0, 3):
            with pytest.raises(ValueError, match="cannot be split"):
                queue.split(again, at)
        queue.ack(again)
        with pytest.raises(ValueError, match="at least one"):
            queue.lease(0)


def test_an_answer_sorts_a_batch(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 5)
        queue.ack(lease(queue), rejected={2: "too old", 3: "\ud800" + "x" * 9999}, retry=[3, 4, 77])
        stats = queue.stats()
        assert (stats.ready, stats.acked, stats.ack_failed) == (1, 2, 2)
        assert stats.dead_letters == {"too old": 1, "?" + "x" * 499: 1}
        assert [(dead.record.seq, dead.reason) for dead in queue.stored(State.ACK_FAILED)] == [
            (2, "too old"),
            (3, "?" + "x" * 499),
        ]
        (name,) = {(dead.record.stream, 2) for dead in queue.stored(State.ACK_FAILED)}
        assert queue.retry([name]) == 1
        assert seqs(lease(queue)) == [2, 4]
        assert queue.retry() == 1
