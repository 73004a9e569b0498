"""The shared state of a queue's parts: names, missing rows, and a replaced file."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ackqueue.queue_parts import fix_at, lease, put, seqs

from telemetry_agent.ackqueue.file.schema import UnusableError
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery.carry_over import carry_over

LIMIT_S = 60


def test_a_damaged_row_is_never_handed_out_and_is_counted(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with AckQueue(path) as queue:
        put(queue, 6)
    with closing(sqlite3.connect(path)) as file:
        file.execute("UPDATE fix SET lat_e9 = lat_e9 + 1 WHERE seq = 1")
        file.execute("UPDATE fix SET device = 'b' WHERE seq = 3")
        file.execute("UPDATE fix SET speed_mm_s = 'fast' WHERE seq = 4")
        file.commit()
    with AckQueue(path) as queue:
        assert [fix.record.seq for fix in queue.stored()] == [2, 5, 6]
        assert queue.lease(1) is not None  # skips the first fix, which is damaged
        assert seqs(lease(queue)) == [5, 6]
        assert queue.lease(100) is None
        stats = queue.stats()
        assert stats.lost == {"damaged": 3}
        assert (stats.ready, stats.in_flight) == (3, 3)
    assert "damaged" in caplog.text
    with AckQueue(path) as queue:
        assert queue.stats().lost == {"damaged": 3}
        assert seqs(lease(queue)) == [2, 5, 6]


def test_where_rows_are_missing_the_file_is_searched_for_them(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with AckQueue(path) as queue:
        put(queue, 6)
    with closing(sqlite3.connect(path)) as file:
        file.execute("DELETE FROM fix WHERE seq = 5")
        file.commit()
    with AckQueue(path) as queue:
        assert queue.lease(100) is None
        carry_over(queue)
        assert seqs(lease(queue)) == [1, 2, 3, 4, 6]
        assert queue.stats().lost == {"damaged": 1}
    assert "is damaged: 1 row is missing. It is set aside" in caplog.text


def test_what_waits_across_a_gap_goes_into_a_new_file(path: Path) -> None:
    with AckQueue(path, commit_every_s=3600) as queue:
        put(queue, 2)
        queue._bounds.stopped = True
        put(queue, 1)
        queue._bounds.stopped = False
        put(queue, 2)
        with queue.shared.disk:
            assert queue.shared.replace(UnusableError("as if damaged")) is None
        carry_over(queue)
        assert seqs(lease(queue)) == [1, 2, 4, 5]
        assert queue.stats().lost == {"full": 1}
    assert not list(path.parent.glob("*.damaged-*"))


def test_each_start_has_a_stream_of_its_own_and_counts_from_1(path: Path) -> None:
    names = []
    for _ in range(3):
        with AckQueue(path) as queue:
            names += [queue.put(fix_at(), "a"), queue.put(fix_at(), "a")]
    assert [name.seq for name in names] == [1, 2] * 3
    assert len({name.stream for name in names}) == 3


def test_a_closed_queue_says_so(path: Path) -> None:
    queue = AckQueue(path)
    put(queue, 1)
    batch = lease(queue)
    queue.close()
    queue.close()
    for use in (
        lambda: put(queue, 1),
        queue.commit,
        lambda: queue.lease(1),
        lambda: queue.ack(batch),
        queue.resume_unack,
        queue.accounts,
        queue.purge_delivered,
        lambda: list(queue.stored()),
    ):
        with pytest.raises(ValueError, match="is closed"):
            use()


def test_a_stuck_commit_delays_no_put(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AckQueue(path) as queue:
        put(queue, 1)
        stuck, go_on = threading.Event(), threading.Event()
        write = queue.shared.store.write

        def slow(*args: Any) -> None:
            stuck.set()
            assert go_on.wait(LIMIT_S)
            write(*args)

        monkeypatch.setattr(queue.shared.store, "write", slow)
        committer = threading.Thread(target=queue.commit)
        committer.start()
        assert stuck.wait(LIMIT_S)
        put(queue, 5)
        assert queue.backlog().ready == 6
        assert queue.stats().uncommitted == 6
        go_on.set()
        committer.join(LIMIT_S)
        assert queue.stats().ready == 1
        queue.commit()
        assert seqs(lease(queue)) == list(range(1, 7))
