from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from telemetry_agent.ackqueue.ranges import RangeMap, Span, runs

ROWS = st.one_of(
    st.integers(1, 30),
    st.integers((1 << 16) - 15, (1 << 16) + 15),
    st.sampled_from([(1 << 32) - 1, 1 << 40]),
)
PAINTS = st.lists(st.tuples(ROWS, st.integers(0, 12), st.sampled_from(["a", "b", "c", None])))


@given(PAINTS)
def test_it_agrees_with_a_dict_of_rows_and_holds_its_invariant(
    paints: list[tuple[int, int, str | None]],
) -> None:
    ranges: RangeMap[str] = RangeMap()
    rows: dict[int, str] = {}
    mirror: dict[int, Span[str]] = {}
    for lo, more, value in paints:
        changed = ranges.paint(lo, lo + more, value)
        for row in range(lo, lo + more + 1):
            rows.pop(row, None)
            if value is not None:
                rows[row] = value
        for start in changed:
            mirror.pop(start, None)
            if (span := ranges.starting_at(start)) is not None:
                mirror[start] = span

        spans = list(ranges)
        assert {row: s.value for s in spans for row in range(s.lo, s.hi + 1)} == rows
        assert all(span.lo <= span.hi for span in spans)
        for left, right in pairwise(spans):
            assert left.hi < right.lo
            assert left.value != right.value or left.hi + 1 < right.lo
        assert [mirror[lo] for lo in sorted(mirror)] == spans
        assert list(ranges.descending()) == spans[::-1]
        assert ranges.total == len(rows)
        held = list(rows.values())
        assert dict(ranges.totals()) == {value: held.count(value) for value in set(held)}
        for row in (*range(45), *range((1 << 16) - 16, (1 << 16) + 30), 1 << 50):
            assert ranges.value_at(row) == rows.get(row)
            assert list(ranges.descending(row)) == [span for span in spans[::-1] if span.lo <= row]
            assert list(ranges.where("ab".__contains__, row)) == [
                Span(max(lo, row), hi, value)
                for lo, hi, value in spans
                if hi >= row and value != "c"
            ]


@given(PAINTS, PAINTS)
def test_changes_within_reach_are_those_made_one_by_one(
    before: list[tuple[int, int, str | None]], paints: list[tuple[int, int, str | None]]
) -> None:
    alone: RangeMap[str] = RangeMap()
    together: RangeMap[str] = RangeMap()
    for lo, more, value in before:
        alone.paint(lo, lo + more, value)
        together.paint(lo, lo + more, value)
    changed = [alone.paint(lo, lo + more, value) for lo, more, value in paints]
    with together.within_reach([(lo, lo + more) for lo, more, _ in paints]):
        assert [together.paint(lo, lo + more, value) for lo, more, value in paints] == changed
    assert list(together) == list(alone)
    assert dict(together.totals()) == dict(alone.totals())


def test_each_row_can_have_a_value_of_its_own() -> None:
    ranges: RangeMap[str] = RangeMap()
    for row in range(1, 60_001):
        ranges.paint(row, row, str(row))
    with ranges.within_reach([(60_001, 70_000)]):
        for row in range(60_001, 70_001):
            ranges.paint(row, row, str(row))
    assert [ranges.value_at(row) for row in (1, 65_536, 70_000)] == ["1", "65536", "70000"]
    assert ranges.paint(65_537, 70_000, "1") == set(range(65_537, 70_001))
    assert list(ranges.where("1".__eq__)) == [Span(1, 1, "1"), Span(65_537, 70_000, "1")]


@given(st.sets(st.integers(1, 40)))
def test_runs_hold_the_same_rows(rows: set[int]) -> None:
    found = runs(sorted(rows))
    assert [row for lo, hi in found for row in range(lo, hi + 1)] == sorted(rows)
    assert all(left[1] + 1 < right[0] for left, right in pairwise(found))
