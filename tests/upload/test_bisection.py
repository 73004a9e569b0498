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


@dataclass
class Found:
    """How a search ended."""

    requests: int = 1  # the batch itself
    dead: set[int] = field(default_factory=set)
    delivered: set[int] = field(default_factory=set)
    hopeless: bool = False


def search(size: int, bad: set[int], *, others: int = 0, limit: int = 10**9) -> Found:
    """Bisection a batch of the seqs 1 to ``size``; ``others`` good fixes wait beside it."""
    waiting = [batch_of(1000 + number) for number in range(others)]
    found = Found()
    root = batch_of(*range(1, size + 1))
    searching = Bisection(size, split, lambda: waiting.pop() if waiting else None)
    searching.refused(root, "bad")
    while not searching.hopeless:
        if searching.witness:
            found.dead |= {seq for batch, _ in searching.refused_alone for seq in seqs(batch)}
            searching.refused_alone.clear()
        batch = searching.next(limit)
        if batch is None:
            found.hopeless = bool(searching.refused_alone)
            return found
        found.requests += 1
        assert len(batch.records) <= limit
        if seqs(batch) & bad:
            searching.refused(batch, "bad")
        else:
            found.delivered |= seqs(batch)
            searching.accepted(batch)
    found.hopeless = True
    return found


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7, 8, 16, 31, 33])
def test_one_bad_fix_costs_at_most_two_requests_a_level(size: int) -> None:
    for bad in range(1, size + 1):
        found = search(size, {bad})
        assert found.dead == {bad}
        assert found.delivered == set(range(1, size + 1)) - {bad}
        assert found.requests - 1 <= 2 * ceil(log2(size))


def test_a_half_that_must_hold_the_bad_fix_is_not_tried_whole() -> None:
    assert search(64, {64}).requests == 1 + 6 + 1  # whole, six first halves, the bad fix


@given(st.integers(2, 1000), st.data())
def test_one_bad_fix_in_many_costs_at_most_two_requests_a_level(
    size: int, data: st.DataObject
) -> None:
    bad = data.draw(st.integers(1, size))
    found = search(size, {bad})
    assert (found.dead, len(found.delivered)) == ({bad}, size - 1)
    assert found.requests - 1 <= 2 * ceil(log2(size))


@given(st.integers(1, 1000), st.integers(1, 5))
def test_to_find_that_everything_is_refused_costs_little_and_kills_nothing(
    size: int, others: int
) -> None:
    everything = set(range(1, 2000))
    for found in (search(size, everything), search(size, everything, others=others)):
        assert found.hopeless
        assert not found.dead
        assert found.requests <= ceil(log2(size)) + 3


def test_one_fix_alone_needs_another_one_for_a_witness() -> None:
    assert search(1, {1}) == Found(requests=1, hopeless=True)
    assert search(1, {1}, others=1) == Found(requests=2, dead={1}, delivered={1000})


@given(st.integers(2, 64), st.data())
def test_the_dead_were_bad_and_nobody_else_is_kept_from_delivery(
    size: int, data: st.DataObject
) -> None:
    bad = data.draw(st.sets(st.integers(1, size), max_size=size - 1))
    found = search(size, bad, others=2 * size)
    assert found.dead <= bad
    assert not found.delivered & bad
    if not found.hopeless:
        assert found.dead | found.delivered >= set(range(1, size + 1))


def test_a_run_of_bad_fixes_at_the_front_is_found() -> None:
    found = search(64, set(range(1, 6)))
    assert found.dead == set(range(1, 6))
    assert len(found.delivered) == 59


def test_a_witness_is_renewed_during_a_long_run_of_bad_fixes() -> None:
    found = search(64, set(range(20, 60)), others=100)
    assert found.dead == set(range(20, 60))
    assert len(found.delivered) < 100


def test_pieces_above_the_limit_are_not_tried_whole() -> None:
    found = search(64, {5}, limit=8)
    assert found.dead == {5}
    assert len(found.delivered) == 63


def test_too_large_says_nothing_about_the_second_half() -> None:
    searching = Bisection(4, split, lambda: None)
    searching.refused(batch_of(1, 2, 3, 4), "413", too_large=True)
    first = searching.next(100)
    assert first is not None
    searching.accepted(first)
    second = searching.next(100)
    assert second is not None
    assert seqs(second) == {3, 4}


def test_a_batch_crashes_the_endpoint_if_it_fails_five_times_while_others_pass() -> None:
    crashes = CrashCount()
    bad, other = batch_of(1, 2), batch_of(3)
    assert not any(crashes.crashed(bad) for _ in range(2))
    crashes.accepted(other)
    assert [crashes.crashed(bad) for _ in range(3)] == [False, False, True]


def test_an_endpoint_that_is_down_blames_no_batch_but_asks_for_another_try() -> None:
    crashes = CrashCount()
    bad, other = batch_of(1, 2), batch_of(3)
    assert not any(crashes.crashed(bad) for _ in range(5))
    assert crashes.wants_another
    assert not crashes.crashed(other)
    assert crashes.wants_another
    crashes.accepted(other)
    assert not crashes.wants_another
    assert crashes.crashed(bad)


def test_a_batch_that_passes_is_blamed_no_more() -> None:
    crashes = CrashCount()
    bad, other = batch_of(1, 2), batch_of(3)
    for _ in range(4):
        crashes.crashed(bad)
    crashes.accepted(bad)
    crashes.accepted(other)
    assert not any(crashes.crashed(bad) for _ in range(4))
