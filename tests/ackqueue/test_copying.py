"""A copy of a queue whose folder is gone: its waiting fixes are delivered, or counted."""

from pathlib import Path

from ackqueue.queue_parts import lease, put, seqs

from telemetry_agent.ackqueue.copying import copy_to
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.row_states import State

MIB = 1 << 20


def test_of_a_queue_that_is_too_large_the_newest_that_wait_are_copied(
    path: Path, tmp_path: Path
) -> None:
    target = tmp_path / "run" / "queue.db"
    target.parent.mkdir()
    with AckQueue(path) as queue:
        put(queue, 20_000)
        queue.ack(lease(queue, 9000, live_first=False), rejected={5: "refused"})
        queue.release(lease(queue, 100, live_first=False), answered=False)
        stream = queue.stream
        copy_to(queue.shared, target, MIB // 2)
    assert target.stat().st_size <= MIB // 2 + (1 << 16)
    with AckQueue(target) as queue:
        ready, dropped = queue.stats().ready, queue.stats().lost["dropped"]
        assert dropped > 0
        assert ready + dropped == 11_001
        assert seqs(lease(queue, 100_000)) == list(range(20_001 - ready, 20_001))
        (account,) = [account for account in queue.accounts()[0] if account.stream == stream]
        assert (account.recorded, account.not_coming) == (20_001 - ready - 1, {"dropped": dropped})


def test_each_dead_letter_keeps_its_reason(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "run" / "queue.db"
    target.parent.mkdir()
    reasons = {seq: f"refused because of {seq}" for seq in range(2, 60, 2)}
    with AckQueue(path) as queue:
        put(queue, 10_000)
        queue.ack(lease(queue, 5000, live_first=False), rejected=reasons)
        queue.commit()
        copy_to(queue.shared, target, MIB // 2)
    with AckQueue(target) as queue:
        found = {one.record.seq: one.reason for one in queue.stored(State.ACK_FAILED)}
    assert found == reasons


def test_a_queue_that_fits_is_copied_with_what_was_delivered(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "run" / "queue.db"
    target.parent.mkdir()
    with AckQueue(path) as queue:
        put(queue, 30)
        queue.ack(lease(queue, 10))
        copy_to(queue.shared, target, MIB)
    with AckQueue(target) as queue:
        assert (queue.stats().ready, queue.stats().acked) == (20, 10)


def test_beside_another_queue_it_is_one_of_its_own(path: Path, tmp_path: Path) -> None:
    """Both queues have rows with the same numbers."""
    target = tmp_path / "run" / "queue.db"
    with AckQueue(target) as other:
        put(other, 5)
    with AckQueue(path) as queue:
        put(queue, 30)
        queue.commit()
        copy_to(queue.shared, target, MIB)
    assert not target.with_name("queue.db.part").exists()
    for file, count in ((target, 5), (target.with_name("queue.db.foreign-1"), 30)):
        with AckQueue(file) as queue:
            assert queue.stats().ready == count
