from dataclasses import dataclass, field, replace
from itertools import count
from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry_agent.model import Batch, Fix, Record
from telemetry_agent.upload.bisection import Bisection, CrashCount

LEASES = count(1)
FIX = Fix(0, 0, 0)


def batch_of(*seqs: int) -> Batch:
    records = tuple(Record("0" * 16, seq, "van-07", FIX) for seq in seqs)
    return Batch(next(LEASES), "0" * 16, "van-07", records, live=False)


def seqs(batch: Batch) -> set[int]:
    return {record.seq for record in batch.records}


def split(batch: Batch, at: int) -> tuple[Batch, Batch]:
    first, second = batch.records[:at], batch.records[at:]
    return (
        replace(batch, lease=next(LEASES), records=first),
        replace(batch, lease=next(LEASES), records=second),
    )


def begun(batch: Batch, *, too_large: bool = False) -> Bisection:
    searching = Bisection(split, batch)
    searching.refused(batch, too_large=too_large)
    return searching


@dataclass
class Found:
    """The result of a search."""

    requests: int = 1  # the batch itself
    refused_alone: set[int] = field(default_factory=set)
    delivered: set[int] = field(default_factory=set)


def search(size: int, bad: set[int], *, limit: int = 10**9) -> Found:
    """Search a batch with the seqs 1 to ``size`` to the end."""
    found = Found()
    searching = begun(batch_of(*range(1, size + 1)))
    while (batch := searching.next(limit)) is not None:
        found.requests += 1
        assert len(batch.records) <= limit
        if not seqs(batch) & bad:
            found.delivered |= seqs(batch)
            assert not searching.accepted(batch)
        elif len(batch.records) == 1:
            found.refused_alone |= seqs(batch)
        else:
            searching.refused(batch)
    return found


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7, 8, 16, 31, 33])
def test_one_bad_fix_costs_at_most_two_requests_a_level(size: int) -> None:
    for bad in range(1, size + 1):
        found = search(size, {bad})
        assert found.refused_alone == {bad}
        assert found.delivered == set(range(1, size + 1)) - {bad}
        assert found.requests - 1 <= 2 * ceil(log2(size))


def test_a_half_that_must_hold_the_bad_fix_is_not_tried_whole() -> None:
    assert search(64, {64}).requests == 1 + 6 + 1  # the whole batch, six first halves, the bad fix


@given(st.integers(2, 1000), st.data())
def test_one_bad_fix_in_many_costs_at_most_two_requests_a_level(
    size: int, data: st.DataObject
) -> None:
    bad = data.draw(st.integers(1, size))
    found = search(size, {bad})
    assert (found.refused_alone, len(found.delivered)) == ({bad}, size - 1)
    assert found.requests - 1 <= 2 * ceil(log2(size))


@given(st.integers(2, 64), st.data())
def test_each_fix_is_delivered_or_refused_alone(size: int, data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(1, size), min_size=1))
    found = search(size, bad)
    assert found.refused_alone == bad
    assert found.delivered == set(range(1, size + 1)) - bad


def test_pieces_above_the_limit_are_not_tried_whole() -> None:
    found = search(64, {5}, limit=8)
    assert found.refused_alone == {5}
    assert len(found.delivered) == 63


def test_too_large_says_nothing_about_the_second_half() -> None:
    searching = begun(batch_of(1, 2, 3, 4), too_large=True)
    first = searching.next(100)
    assert first is not None
    searching.accepted(first)
    second = searching.next(100)
    assert second is not None
    assert seqs(second) == {3, 4}


def test_both_halves_of_what_was_refused_contradict_it() -> None:
    searching = begun(batch_of(1, 2))
    first = searching.next(100)
    assert first is not None
    assert not searching.accepted(first)
    second = searching.next(100)
    assert second is not None
    assert searching.accepted(second)


def test_a_live_batch_that_is_refused_meanwhile_is_searched_for_itself() -> None:
    searching = begun(batch_of(1, 2))
    first = searching.next(100)
    assert first is not None
    assert not searching.accepted(first)
    searching.refused(batch_of(7, 8))
    live = searching.next(100)
    assert live is not None
    assert seqs(live) == {7}
    assert not searching.accepted(live)


def test_the_farthest_piece_is_tried_once() -> None:
    searching = begun(batch_of(1, 2, 3, 4))
    assert searching.farthest(1) is None
    farthest = searching.farthest(2)
    assert farthest is not None
    assert seqs(farthest) == {3, 4}
    first = searching.next(100)
    assert first is not None
    assert seqs(first) == {1, 2}
    assert searching.next(100) is None


def test_a_batch_crashes_the_endpoint_if_it_fails_five_times_while_others_pass() -> None:
    crashes = CrashCount()
    bad, other = batch_of(1, 2), batch_of(3)
    assert not any(crashes.crashed(bad, 5, answered=True) for _ in range(2))
    crashes.accepted(other)
    assert [crashes.crashed(bad, 5, answered=True) for _ in range(3)] == [False, False, True]


def test_an_endpoint_that_is_down_blames_no_batch_but_asks_for_another_try() -> None:
    crashes = CrashCount()
    bad, other = batch_of(1, 2), batch_of(3)
    assert not any(crashes.crashed(bad, 5, answered=True) for _ in range(5))
    assert crashes.wants_another
    assert not crashes.crashed(other, 5, answered=True)
    assert crashes.wants_another
    crashes.accepted(other)
    assert not crashes.wants_another
    assert crashes.crashed(bad, 5, answered=True)


def test_a_batch_that_passes_is_blamed_no_more() -> None:
    crashes = CrashCount()
    bad, other = batch_of(1, 2), batch_of(3)
    for _ in range(4):
        crashes.crashed(bad, 5, answered=True)
    crashes.accepted(bad)
    crashes.accepted(other)
    assert not any(crashes.crashed(bad, 5, answered=True) for _ in range(4))
