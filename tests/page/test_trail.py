"""The positions as a browser reads them."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from telemetry_agent.model import Fix, Record
from telemetry_agent.page.points import Trail

START_MS = 1_795_435_200_000


def record(number: int) -> Record:
    return Record(
        "9f0c2d6e11a7b354",
        number,
        "van-07",
        Fix(START_MS + 1000 * number, -33_860_000_050, 151_209_999_949),
    )


def never(_before: Record, _after: Record) -> bool:
    return False


def rows(packed: bytes) -> list[int]:
    return [row for row, *_ in struct.iter_unpack("<diiII", packed)]


def test_a_position_is_24_bytes() -> None:
    trail = Trail(lambda _before, after: after.seq == 8)
    points = trail.extend(8, [(7, record(7)), (8, record(8))])
    packed = trail.after(0)
    assert list(struct.iter_unpack("<diiII", packed)) == points
    assert points == [
        (7, -338_600_000, 1_512_100_000 - 1, START_MS // 1000 + 7, 0),
        (8, -338_600_000, 1_512_100_000 - 1, START_MS // 1000 + 8, 1),
    ]


def test_the_oldest_make_room() -> None:
    trail = Trail(never, limit=5000)
    for first in range(1, 20_001, 1000):
        trail.extend(first + 999, [(row, record(row)) for row in range(first, first + 1000)])
        assert len(trail) <= 6000
    assert rows(trail.after(0))[-5000:] == list(range(15_001, 20_001))
    assert trail.first == rows(trail.after(0))[0]


@given(
    st.sets(st.integers(1, 60)),
    st.lists(st.tuples(st.integers(0, 61), st.integers(0, 20))),
    st.integers(0, 61),
)
def test_it_tells_what_is_behind_a_row_and_forgets_what_is_gone(
    present: set[int], gone: list[tuple[int, int]], after: int
) -> None:
    trail = Trail(never)
    trail.extend(60, [(row, record(row)) for row in sorted(present)])
    left = set(present)
    for lo, size in gone:
        trail.forget([(lo, lo + size)])
        left -= set(range(lo, lo + size + 1))
    assert rows(trail.after(after)) == sorted(row for row in left if row > after)
    assert len(trail) == len(left)
    assert trail.first == min(left, default=61)


def test_a_segment_whose_first_position_is_gone_begins_with_the_next() -> None:
    trail = Trail(lambda _before, after: after.seq == 3)
    trail.extend(9, [(row, record(row)) for row in range(1, 10)])
    trail.forget([(2, 3), (4, 4), (8, 8), (20, 30)])
    found = struct.iter_unpack("<diiII", trail.after(0))
    assert [(row, begins) for row, *_, begins in found] == [(1, 0), (5, 1), (6, 0), (7, 0), (9, 0)]
