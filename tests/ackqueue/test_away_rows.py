"""What happens to row numbers that are not in any file."""

import pytest

from telemetry_agent.ackqueue.away_rows import Arrival, AwayRows
from telemetry_agent.ackqueue.generations import border_before, border_up_to
from telemetry_agent.ackqueue.ranges import RangeMap, Span
from telemetry_agent.ackqueue.row_states import (
    ACKED,
    DAMAGED,
    PURGED,
    UNCOUNTED,
    UNUSED,
    RowState,
    State,
    dead_letter,
)

BORDER = 1 << 32
SPARE = BORDER - 1
LAST = 1500
"""The last row known to be in the file that was set aside."""


def away(last: int, border: int = BORDER, oldest_pending: int | None = None) -> AwayRows:
    """Away rows up to ``last``; the current file starts above ``border``."""
    marks: RangeMap[RowState] = RangeMap()
    marks.paint(last + 1, border, RowState(State.AWAY, oldest_pending=oldest_pending))

    def mark(lo: int, hi: int, value: RowState | None) -> None:
        if lo <= hi:
            marks.paint(lo, hi, value)

    return AwayRows(marks, mark)


def arrive(
    rows: AwayRows,
    found: list[int],
    marks: list[Span[RowState]] | None = None,
    *,
    leased: list[tuple[int, int]] | None = None,
) -> list[Span[RowState]]:
    """Take all found rows in one portion. Return all marks."""

    def first(row: int) -> int | None:
        before = border_before(row)
        if any(border_up_to(span.hi) == before for span in marks or []):
            return None
        return min((row for row in found if border_before(row) == before), default=before + 1)

    rows.take(Arrival(rows.last, found, marks or [], first, lambda _: None), [], leased or [])
    assert rows.any  # true until the last portion goes to the disk
    rows.end()
    assert not rows.any
    return list(rows._marks)


def test_what_is_here_or_gone_or_of_this_file_does_not_arrive() -> None:
    rows = away(LAST)
    rows._marks.paint(5, 5, PURGED)
    found = [3, 4, 5, 6, BORDER + 7]
    arrival = Arrival(BORDER + 9, found, [], lambda _: 3, lambda _: None)
    assert rows.take(arrival, [4], []) == {3, 6}
    assert rows.first == BORDER


def test_a_file_that_is_set_aside_without_rows_of_its_own_leaves_its_border() -> None:
    rows = away(LAST, oldest_pending=7)
    rows.begin(BORDER, BORDER)
    assert list(rows._marks) == [
        Span(LAST + 1, BORDER, RowState(State.AWAY, oldest_pending=7)),
    ]
    rows.begin(BORDER + 5, 2 * BORDER)
    assert list(rows._marks)[1:] == [
        Span(BORDER + 6, 2 * BORDER, RowState(State.AWAY, oldest_pending=1)),
    ]


# The border below which every row was delivered


def test_below_the_oldest_pending_row_all_was_delivered() -> None:
    marks = arrive(away(LAST, oldest_pending=100), list(range(103, LAST)))
    assert marks == [
        Span(1, 99, PURGED),
        Span(100, 102, DAMAGED),
        Span(LAST, LAST, DAMAGED),
        Span(LAST + 1, BORDER, UNUSED),
    ]


@pytest.mark.parametrize("first", [2, 103])
def test_what_was_before_the_first_row_is_uncounted_if_nothing_shows_it(first: int) -> None:
    marks = arrive(away(LAST), list(range(first, LAST + 1)))
    assert marks == [
        Span(1, first - 1, PURGED),
        Span(LAST + 1, SPARE - 1, UNUSED),
        Span(SPARE, SPARE, UNCOUNTED),
        Span(BORDER, BORDER, UNUSED),
    ]


def test_from_row_1_on_nothing_is_uncounted() -> None:
    marks = arrive(away(LAST), [1, *range(3, LAST + 1)])
    assert marks == [Span(2, 2, DAMAGED), Span(LAST + 1, BORDER, UNUSED)]


def test_in_a_file_with_marks_a_row_without_one_was_not_delivered() -> None:
    delivered = Span(3, 90, ACKED)
    marks = arrive(away(LAST, oldest_pending=100), list(range(103, LAST + 1)), [delivered])
    assert marks == [
        Span(1, 2, DAMAGED),
        Span(3, 90, PURGED),
        Span(91, 102, DAMAGED),
        Span(LAST + 1, BORDER, UNUSED),
    ]


def test_of_a_file_that_was_set_aside_in_use_no_row_counts_as_delivered_without_a_mark() -> None:
    rows = away(LAST, oldest_pending=100)
    rows.begin(BORDER + 20, 2 * BORDER)
    marks = arrive(rows, [*range(103, LAST + 1), *range(BORDER + 2, BORDER + 21)])
    assert marks == [
        Span(1, 99, PURGED),  # not in the first file, and this stays known
        Span(100, 102, DAMAGED),
        Span(LAST + 1, BORDER, UNUSED),
        Span(BORDER + 1, BORDER + 1, DAMAGED),
        Span(BORDER + 21, 2 * BORDER, UNUSED),
    ]


@pytest.mark.parametrize("marks_of_the_second", [True, False])
def test_what_nothing_shows_of_the_first_of_two_files_is_uncounted(
    marks_of_the_second: bool,
) -> None:
    rows = away(LAST)
    rows.begin(BORDER + 20, 2 * BORDER)
    delivered = [Span(BORDER + 1, BORDER + 10, ACKED)] if marks_of_the_second else []
    found = [*range(103, LAST + 1), *range(BORDER + (11 if delivered else 1), BORDER + 21)]
    assert arrive(rows, found, delivered)[:4] == [
        Span(1, 102, PURGED),
        Span(LAST + 1, SPARE - 1, UNUSED),
        Span(SPARE, SPARE, UNCOUNTED),
        Span(BORDER, BORDER, UNUSED),
    ]


def test_what_is_uncounted_outlasts_a_kill() -> None:
    rows = away(LAST)
    rows.take(Arrival(200, range(103, 201), [], lambda _: 103, lambda _: None), [], [])
    again = AwayRows(rows._marks, rows._mark)
    found = Arrival(LAST, range(201, LAST + 1), [], lambda _: 201, lambda _: None)
    again.take(found, range(103, 201), [])
    assert Span(SPARE, SPARE, UNCOUNTED) in list(again._marks)


def test_a_row_beyond_the_last_that_was_known_arrives_after_a_second_file_was_set_aside() -> None:
    rows = away(LAST, oldest_pending=1)
    rows.begin(BORDER, BORDER)  # the second file had no rows
    assert arrive(rows, list(range(1, LAST + 3))) == [Span(LAST + 3, BORDER, UNUSED)]


# The border up to which numbers may never have been used


@pytest.mark.parametrize(
    ("oldest_pending", "end"), [(1, SPARE), (1, BORDER), (SPARE, SPARE), (BORDER, BORDER)]
)
def test_numbers_up_to_the_spare_one_are_perhaps_unused(oldest_pending: int, end: int) -> None:
    """Two files are away. The mark that ends the generation of the first one is lost."""
    rows = away(BORDER + 20, 2 * BORDER, oldest_pending=oldest_pending)
    found = [*range(1, 11), *range(end + 3, BORDER + 21)]
    rows._marks.paint(end + 1, end + 2, ACKED)
    marks = arrive(rows, found)
    assert marks == [
        Span(11, SPARE - 1, PURGED if oldest_pending > 1 else UNUSED),
        Span(SPARE, SPARE, UNCOUNTED),
        *([Span(BORDER, BORDER, UNUSED)] if end == BORDER else []),
        Span(end + 1, end + 2, PURGED),
        Span(BORDER + 21, 2 * BORDER, UNUSED),
    ]


def test_above_a_border_a_missing_number_was_used() -> None:
    rows = away(BORDER + 20, 2 * BORDER, oldest_pending=1)
    marks = arrive(rows, [*range(1, 11), *range(BORDER + 6, BORDER + 21)])
    assert marks == [
        Span(11, SPARE - 1, UNUSED),
        Span(SPARE, SPARE, UNCOUNTED),
        Span(BORDER, BORDER, UNUSED),
        Span(BORDER + 1, BORDER + 5, DAMAGED),
        Span(BORDER + 21, 2 * BORDER, UNUSED),
    ]


# The border above which each number was used


@pytest.mark.parametrize("end", [15, SPARE - 1])
def test_below_the_mark_that_ends_a_generation_each_number_was_used(end: int) -> None:
    rows = away(BORDER + 20, 2 * BORDER, oldest_pending=1)
    ended = [Span(end + 1, BORDER, UNUSED)]
    marks = arrive(rows, [*range(1, 11), *range(BORDER + 6, BORDER + 21)], ended)
    assert marks == [
        Span(11, end, DAMAGED),
        Span(end + 1, BORDER, UNUSED),
        Span(BORDER + 1, BORDER + 5, DAMAGED),
        Span(BORDER + 21, 2 * BORDER, UNUSED),
    ]


def test_delivered_unused_and_lost_numbers_can_follow_each_other() -> None:
    rows = away(BORDER + 20, 2 * BORDER, oldest_pending=5)
    marks = arrive(rows, list(range(BORDER + 6, BORDER + 21)))
    assert marks[:5] == [
        Span(1, 4, PURGED),
        Span(5, SPARE - 1, UNUSED),
        Span(SPARE, SPARE, UNCOUNTED),
        Span(BORDER, BORDER, UNUSED),
        Span(BORDER + 1, BORDER + 5, DAMAGED),
    ]


# Numbers that have a mark


@pytest.mark.parametrize("place", ["this file", "the file that was set aside"])
@pytest.mark.parametrize(
    ("mark", "becomes"),
    [
        (ACKED, PURGED),
        (RowState(State.READY), DAMAGED),
        (RowState(State.UNACK, batch=7), DAMAGED),
        (dead_letter("too old"), DAMAGED),
        (PURGED, PURGED),
        (UNUSED, UNUSED),
        (RowState(State.AWAY, oldest_pending=1), UNUSED),
    ],
)
def test_a_missing_row_becomes_what_its_mark_implies(
    place: str, mark: RowState, becomes: RowState
) -> None:
    rows, found, marks = away(8), [*range(1, 7), 8], [Span(7, 7, mark)]
    if place == "this file":
        rows._marks.paint(*marks.pop())
    assert arrive(rows, found, marks)[0] == Span(7, 7, becomes)


def test_a_row_in_a_batch_that_is_out_is_not_missed() -> None:
    marks = arrive(away(8, oldest_pending=1), [1, 2, 6, 7, 8], leased=[(4, 5)])
    assert marks == [Span(3, 3, DAMAGED), Span(9, BORDER, UNUSED)]
