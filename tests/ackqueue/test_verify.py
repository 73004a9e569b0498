"""What ``verify`` finds, and its cost for others who use the queue meanwhile."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ackqueue import damage
from ackqueue.queue_parts import lease, put

from telemetry_agent.ackqueue.file.lock import check_at_rest
from telemetry_agent.ackqueue.file.schema import UnusableError
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery.carry_over import carry_over
from telemetry_agent.ackqueue.recovery.verify import verify, verify_at_rest
from telemetry_agent.errors import QueueLockedError


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def report(path: Path) -> dict[str, Any]:
    *_, found = verify_at_rest(path, path)
    return found


def test_each_kind_of_damage_is_counted_by_itself(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 2000)
        for _ in range(3):
            queue.release(lease(queue, 10, live_first=False), answered=False)
    change(
        path,
        "UPDATE fix SET speed_mm_s = 1 WHERE seq IN (500, 600, 700)",
        "DELETE FROM fix WHERE seq BETWEEN 1001 AND 1005",
        "UPDATE mark SET state = 5 WHERE lo = 11",
    )
    found = report(path)
    assert (found["rows"], found["damaged"], found["missing"]) == (1995, 3, 5)
    assert (found["damaged_marks"], found["sound"]) == (1, False)
    assert found["structure"].endswith("is damaged: the mark of the rows from 11 on")


def test_what_was_given_up_or_is_away_is_not_missing(path: Path) -> None:
    with AckQueue(path, keep_delivered_s=0) as queue:
        put(queue, 100)
        queue.ack(lease(queue, 50, live_first=False))
        queue.commit()
        assert queue.purge_delivered()
        put(queue, 5, start=200)  # not committed
        (*_, found) = verify(queue.shared, path)
        assert (found["rows"], found["missing"], found["sound"]) == (50, 0, True)
        with queue.shared.disk:
            queue.shared.replace(UnusableError("as if damaged"))
        (*_, found) = verify(queue.shared, path)
        assert (found["rows"], found["missing"], found["sound"]) == (5, 0, False)
        assert [file["state"] for file in found["set_aside"]] == ["waiting"]
        carry_over(queue)
        (*_, found) = verify(queue.shared, path)
        assert (found["rows"], found["sound"]) == (55, True)


def test_what_was_lost_is_told_as_between_two_fixes(path: Path) -> None:
    records = damage.fill(path, 100)
    change(path, "UPDATE fix SET lat_e9 = 0 WHERE seq IN (1, 40, 41)")
    with AckQueue(path) as queue:
        while batch := queue.lease(1000):
            queue.ack(batch)
    found = report(path)
    stream = records[0].stream

    def named(seq: int) -> dict[str, Any]:
        minutes, seconds = divmod(21 * 60 + 59 + seq - 1, 60)
        return {"stream": stream, "seq": seq, "time": f"2025-11-29T14:{minutes}:{seconds:02}.000Z"}

    assert found["lost"] == [
        {"count": 1, "after": None, "before": named(2)},
        {"count": 2, "after": named(39), "before": named(42)},
    ]
    assert found["sound"]


def test_a_structure_that_is_wrong_is_told_in_sqlites_words(path: Path) -> None:
    damage.fill(path, 500)
    damage.damage(path, damage.five_pages, seed=3)
    assert report(path)["structure"] not in {"ok", ""}


def test_a_queue_in_use_is_read_a_thousand_rows_at_a_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage.fill(path, 5000)
    with AckQueue(path) as queue:
        counts = []
        select = queue.shared.store._select

        def counting(sql: str, parameters: tuple[int, int]) -> Any:
            rows = select(sql, parameters)
            counts.append(len(rows))
            return rows

        monkeypatch.setattr(queue.shared.store, "_select", counting)
        answers = verify(queue.shared, path)
        next(answers)
        assert not queue.shared.disk.locked()
        put(queue, 1)
        queue.commit()  # between two steps
        *_, found = answers
        assert found["rows"] in {5000, 5001}
        assert max(counts) == 1000


def test_it_is_seen_that_somebody_uses_it(path: Path) -> None:
    damage.fill(path, 1)
    before = path.with_name("queue.db.lock").read_bytes()
    check_at_rest(path)
    with AckQueue(path), pytest.raises(QueueLockedError, match=f"pid {os.getpid()}"):
        check_at_rest(path)
    path.with_name("queue.db.lock").write_bytes(before)
    check_at_rest(path)
    assert path.with_name("queue.db.lock").read_bytes() == before
