"""Which rows the next batch gets."""

import pytest

from telemetry_agent.ackqueue.ready_rows import NO_BATCH, ReadyRows


@pytest.mark.parametrize(
    ("limit", "chosen"),
    [
        (1, [(10, 10)]),
        (2, [(9, 10)]),
        (3, [(6, 6), (9, 10)]),
        (5, [(4, 6), (9, 10)]),
        (99, [(4, 6), (9, 10)]),
    ],
)
def test_of_live_rows_that_are_not_next_to_each_other_the_newest_are_chosen(
    limit: int, chosen: list[tuple[int, int]]
) -> None:
    ready_rows = ReadyRows(newest=3)
    for first, last in ((1, 6), (9, 10)):
        ready_rows.free.paint(first, last, NO_BATCH)
    plan = ready_rows.choose(limit, live_first=True)
    assert plan is not None
    assert plan.live
    assert plan.ranges == chosen
