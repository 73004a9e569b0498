import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry_agent.upload.retry import Backoff, retry_after_s

DATE = "Mon, 23 Nov 2026 12:00:00 GMT"


class Extreme(random.Random):
    """Draws the same end of every interval."""

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
    assert Backoff(1, 300, Extreme(0)).wait_s(attempt) == 0
    assert Backoff(1, 300, Extreme(1)).wait_s(attempt) == ceiling_s


def test_a_fleet_at_the_cap_spreads_evenly() -> None:
    backoff = Backoff(1, 300, random.Random(7))
    waits = [backoff.wait_s(50) for _ in range(4000)]
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
