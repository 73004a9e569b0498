"""The statistics of a queue: each row counts once, whatever happened to it."""

from pathlib import Path

from telemetry_agent.ackqueue.ledger import Ledger
from telemetry_agent.ackqueue.ranges import RangeMap
from telemetry_agent.ackqueue.row_states import (
    ACKED,
    DAMAGED,
    PURGED,
    THINNED,
    UNUSED,
    Loaded,
    RowState,
    State,
    dead_letter,
    without_reason,
)
from telemetry_agent.ackqueue.stats import QueueStats, count, size_on_disk


def counted(last: int, *marks: tuple[int, int, RowState], leased: int = 0) -> QueueStats:
    """Count a file with rows up to ``last`` and these marks. ``leased`` rows are in a batch."""
    painted: RangeMap[RowState] = RangeMap()
    for mark in marks:
        painted.paint(*mark)
    ledger = Ledger(Loaded(last, painted, [], None))
    if leased:
        plan = ledger.choose(leased, live_first=True)
        assert plan is not None
        ledger.lease(plan.rows(), plan)
    return count(ledger, 7, 3, 1234, 512, full=False)


def test_each_row_counts_once() -> None:
    stats = counted(
        100,
        (1, 10, ACKED),
        (11, 12, PURGED),
        (13, 13, DAMAGED),
        (14, 16, THINNED),
        (17, 20, UNUSED),
        (21, 25, RowState(State.UNACK, batch=21)),
        (26, 27, dead_letter("no lane")),
        (30, 30, dead_letter("no lane")),
        (31, 34, without_reason()),
        leased=20,
    )
    ready = 100 - 34 + 2  # 28 and 29, and those after the last mark
    assert (stats.ready, stats.in_flight) == (ready + 3, 20)  # and three placed ones
    assert (stats.unack, stats.acked, stats.ack_failed) == (5, 10, 7)
    assert stats.dead_letters == {"no lane": 3, "other reasons": 4}
    assert stats.lost == {"damaged": 1, "thinned": 3}
    assert (stats.uncommitted, stats.oldest_pending_ms, stats.file_bytes) == (7, 1234, 512)
    assert not stats.carrying_over


def test_what_is_away_is_said_and_not_counted() -> None:
    border = (1 << 32) - 1
    stats = counted(border, (1, border, RowState(State.AWAY)))
    assert stats.carrying_over
    assert (stats.ready, stats.lost) == (3, {})


def test_the_size_is_that_of_the_file_and_its_log(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    assert size_on_disk(path) == 0
    path.write_bytes(bytes(512))
    assert size_on_disk(path) == 512
    path.with_name("queue.db-wal").write_bytes(bytes(100))
    assert size_on_disk(path) == 612
