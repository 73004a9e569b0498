import random

import pytest

from telemetry_agent.upload.pace import Pace
from telemetry_agent.upload.retry import Backoff


class Longest(random.Random):
    """Draws the end of every interval."""

    def uniform(self, a: float, b: float) -> float:
        return b


def pace(initial_s: float = 1, cap_s: float = 120) -> Pace:
    return Pace(Backoff(initial_s, cap_s, Longest()))


def later(pace: Pace, retry_after_s: float | None = None) -> float:
    return pace.failed(crowded=True, retry_after_s=retry_after_s)


def unanswered(pace: Pace) -> float:
    return pace.failed(crowded=False, retry_after_s=None)


def waits_between_batches(pace: Pace, count: int) -> list[float]:
    waits = []
    for _ in range(count):
        pace.delivered(0, live=False)
        waits.append(pace.backlog_in_s(0))
    return waits


def test_failures_double_the_wait() -> None:
    waiting = pace()
    assert [unanswered(waiting) for _ in range(9)] == [1, 2, 4, 8, 16, 32, 64, 120, 120]


def test_an_outage_says_nothing_of_how_crowded_the_endpoint_is() -> None:
    waiting = pace()
    for _ in range(9):
        unanswered(waiting)
    assert waits_between_batches(waiting, 2) == [0, 0]
    assert unanswered(waiting) == 1


def test_later_spaces_the_backlog_until_four_deliveries_for_each() -> None:
    waiting = pace()
    assert [later(waiting) for _ in range(2)] == [1, 2]
    assert waits_between_batches(waiting, 9) == [2, 2, 2, 1, 1, 1, 1, 0, 0]


def test_one_success_does_not_make_the_next_failure_the_first() -> None:
    waiting = pace()
    assert [later(waiting) for _ in range(5)] == [1, 2, 4, 8, 16]
    waiting.delivered(0, live=True)
    assert later(waiting) == 32


def test_a_fresh_fix_says_nothing_of_the_backlogs_turn() -> None:
    waiting = pace()
    later(waiting)
    later(waiting)
    waiting.delivered(0, live=True)
    assert waiting.backlog_in_s(0) == 0
    waiting.delivered(0, live=False)
    waiting.delivered(1, live=True)
    assert waiting.backlog_in_s(1) == 1


def test_who_returned_together_spreads_the_backlog_as_far() -> None:
    waiting = pace()
    waiting.network_returned(15)
    waits = waits_between_batches(waiting, 25)
    assert waits[0] == 16
    assert waits == sorted(waits, reverse=True)
    assert waits[-1] == 0
    waiting.network_returned(0)
    assert waits_between_batches(waiting, 1) == [0]


def test_what_the_endpoint_asked_for_comes_before_the_wait() -> None:
    assert later(pace(), 10) == 11


def test_however_long_it_was_crowded_it_is_over_after_a_while() -> None:
    waiting = pace()
    for _ in range(1000):
        later(waiting)
    assert sum(waits_between_batches(waiting, 40)) < 1200
    assert waiting.backlog_in_s(0) == 0


@pytest.mark.parametrize(("initial_s", "cap_s"), [(10, 5), (5, 5), (0.005, 0.02)])
def test_any_limits_will_do(initial_s: float, cap_s: float) -> None:
    waiting = pace(initial_s, cap_s)
    waiting.network_returned(0.001)
    assert max(later(waiting) for _ in range(20)) == cap_s


def test_three_times_later_is_a_door_to_knock_at() -> None:
    waiting = pace()
    for heard in (later, later, unanswered, later, later):
        heard(waiting)
        assert not waiting.knocks
    later(waiting)
    assert waiting.knocks
    waiting.delivered(0, live=True)
    assert not waiting.knocks


def test_haste_forgets_everything() -> None:
    waiting = pace()
    for _ in range(5):
        later(waiting)
    waiting.delivered(0, live=False)
    waiting.hurry()
    assert waiting.backlog_in_s(0) == 0
    assert later(waiting) == 1
