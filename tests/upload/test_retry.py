import random
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import ROOT

from telemetry_agent.upload.retry import Pace, retry_after_s

DATE = "Mon, 23 Nov 2026 12:00:00 GMT"


class Extreme(random.Random):
    """Draw the same end of each interval."""

    def __init__(self, part: float) -> None:
        super().__init__()
        self.part = part

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.part


@pytest.mark.parametrize(
    ("attempt", "ceiling_s"), [(1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (11, 300), (9999, 300)]
)
def test_the_wait_lies_between_nothing_and_the_doubled_and_capped_ceiling(
    attempt: int, ceiling_s: float
) -> None:
    assert Pace(1, 300, Extreme(0)).wait_s(attempt) == 0
    assert Pace(1, 300, Extreme(1)).wait_s(attempt) == ceiling_s


def test_a_fleet_at_the_cap_spreads_evenly() -> None:
    waiting = Pace(1, 300, random.Random(7))
    waits = [waiting.wait_s(50) for _ in range(4000)]
    quarters = [sum(q * 75 <= wait < (q + 1) * 75 for wait in waits) for q in range(4)]
    assert all(900 < count < 1100 for count in quarters)
    assert len(set(waits)) == len(waits)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "120"}, 120),
        ({"retry-after": " 120 "}, 120),
        ({"retry-after": "3601"}, 3600),
        ({"retry-after": "9" * 400}, 3600),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "²"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Mon, 23 Nov 2026 12:02:00 GMT", "date": DATE}, 120),
        ({"retry-after": "Mon, 23 Nov 2026 12:02:00 -0000", "date": DATE}, 120),
        ({"retry-after": "Mon, 23 Nov 2026 13:02:00 +0100", "date": DATE}, 120),
        ({"retry-after": "Mon, 23 Nov 2026 11:00:00 GMT", "date": DATE}, 0),
        ({"retry-after": "Tue, 24 Nov 2026 12:00:00 GMT", "date": DATE}, 3600),
        ({"retry-after": "Mon, 23 Nov 2026 12:02:00 GMT"}, None),
        ({"retry-after": "Mon, 23 Nov 2026 12:02:00 GMT", "date": "today"}, None),
        ({"retry-after": "Mon, 99 Nov 2026 12:02:00 GMT", "date": DATE}, None),
        ({"retry-after": "Mon, 23 Nov 2026 12:02:00 +99999999999999999", "date": DATE}, None),
        ({"retry-after": "60, 120"}, 120),
        ({"retry-after": "120, soon"}, 120),
        ({"retry-after": "60, Mon, 23 Nov 2026 12:02:00 GMT", "date": DATE}, 120),
        ({"retry-after": "Monday, 23-Nov-26 12:02:00 GMT, 60", "date": DATE}, 120),
    ],
)
def test_retry_after_is_seconds_or_a_date_against_the_answers_own(
    headers: dict[str, str], wait_s: float | None
) -> None:
    assert retry_after_s(headers) == wait_s


@given(st.text(), st.text())
def test_whatever_a_server_writes_there_is_a_wait_of_at_most_an_hour(value: str, date: str) -> None:
    wait_s = retry_after_s({"retry-after": value, "date": date})
    assert wait_s is None or 0 <= wait_s <= 3600


def pace(initial_s: float = 1, cap_s: float = 120) -> Pace:
    return Pace(initial_s, cap_s, Extreme(1))


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
    waiting.network_returned(1)  # once more, after a short outage
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


def test_haste_forgets_everything() -> None:
    waiting = pace()
    for _ in range(5):
        later(waiting)
    waiting.delivered(0, live=False)
    waiting.hurry()
    assert waiting.backlog_in_s(0) == 0
    assert later(waiting) == 1


def test_the_benchmark_of_a_fleet_knows_the_uploader() -> None:
    """Its fakes replace a transport and a pace, and no type checker compares them."""
    argv = [sys.executable, str(ROOT / "benchmarks/fleet.py"), "--agents", "40", "--backlog", "500"]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    peaks = dict(re.findall(r"^(naive|the defaults) +(\d+) ", said, re.MULTILINE))
    assert int(peaks["the defaults"]) < int(peaks["naive"])
