"""The positions of the track as the browser reads them."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.export.trips import ParkingRule
from telemetry_agent.model import Fix, Record
from telemetry_agent.page import track_index
from telemetry_agent.page.track_index import Overview, TrackIndex, Wanted, pack, points_of

START_MS = 1_795_435_200_000


def fix(number: int) -> Fix:
    return Fix(START_MS + 1000 * number, -33_860_000_050, 151_209_999_949)


def record(number: int) -> Record:
    return Record("9f0c2d6e11a7b354", number, "van-07", fix(number))


def never(_before: Record, _after: Record) -> bool:
    return False


def rows(packed: bytes) -> list[int]:
    return [row for row, *_ in struct.iter_unpack("<diiII", packed)]


def overview_of(present: set[int], begins: int = 0) -> Overview:
    """An overview of positions that are far enough apart to be visible."""
    overview = Overview()
    overview.extend((row, 1000 * row, 0, row, int(row == begins)) for row in sorted(present))
    return overview


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[AckQueue]:
    with AckQueue(tmp_path / "queue.db", commit_every_s=60) as queue:
        yield queue


def put(queue: AckQueue, numbers: range, step_e9: int = 0) -> None:
    for number in numbers:
        north = fix(number)
        queue.put(north._replace(lat_e9=north.lat_e9 + number * step_e9), "van-07")
    queue.commit()


def test_a_position_is_24_bytes() -> None:
    found = [(7, record(7)), (8, record(8))]
    points = list(points_of(found, lambda _before, after: after.seq == 8))
    assert list(struct.iter_unpack("<diiII", pack(points))) == points
    assert points == [
        (7, -338_600_000, 1_512_100_000 - 1, START_MS // 1000 + 7, 0),
        (8, -338_600_000, 1_512_100_000 - 1, START_MS // 1000 + 8, 1),
    ]


def test_who_missed_more_than_the_newest_gets_the_newest(
    queue: AckQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track_index, "NEWEST", 5000)
    put(queue, range(1, 12_001))
    index = TrackIndex(queue, never, ParkingRule())
    last, packed = index.behind(0)
    assert (last, rows(packed)) == (12_000, list(range(7001, 12_001)))
    assert index.behind(11_990) == (12_000, packed[-240:])
    assert index.behind(12_000) == (12_000, b"")


@pytest.mark.parametrize("seen", [0, 1, 1000, 1001])
def test_who_missed_the_begin_of_a_segment_gets_it(queue: AckQueue, seen: int) -> None:
    put(queue, range(1, 1003))
    index = TrackIndex(queue, lambda _before, after: after.seq in {2, 1001}, ParkingRule())
    last, packed = index.behind(seen)
    found = list(struct.iter_unpack("<diiII", packed))
    assert (last, rows(packed)) == (1002, list(range(seen + 1, 1003)))
    assert [row for row, *_, begins in found if begins] == [r for r in (2, 1001) if r > seen]


def test_rows_that_were_not_read_yet_are_shown_from_the_disk(queue: AckQueue) -> None:
    put(queue, range(1, 2001), step_e9=1000)
    index = TrackIndex(queue, lambda _before, after: after.seq == 1001, ParkingRule())
    assert index.scan()
    assert index.last == 1000
    last, packed, exact = index.shown(Wanted(tolerance_e7=1))
    assert (last, exact) == (2000, 0)
    found = list(struct.iter_unpack("<diiII", packed))
    assert [row for row, *_ in found] == list(range(1, 2001))
    assert [row for row, *_, begins in found if begins] == [1001]


@pytest.mark.parametrize("west_e7", [115_000_000, 1_798_000_000])
def test_a_track_over_the_antimeridian_is_shown_as_exactly_as_elsewhere(
    queue: AckQueue, west_e7: int
) -> None:
    for number in range(4000):
        lon_e9 = 100 * ((west_e7 + 1000 * number + 1_800_000_000) % 3_600_000_000 - 1_800_000_000)
        queue.put(fix(number)._replace(lon_e9=lon_e9), "van-07")
    queue.commit()
    _, packed, exact_e7 = TrackIndex(queue, never, ParkingRule()).shown(Wanted(across_px=1000))
    assert (len(rows(packed)), exact_e7) == (1001, 3999)


def test_of_too_many_rows_the_newest_are_read_from_the_disk(
    queue: AckQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track_index, "_ROWS_FROM_DISK", 500)
    put(queue, range(1, 2001))
    index = TrackIndex(queue, never, ParkingRule())
    while index.scan():
        pass
    _, packed, exact = index.shown(Wanted(tolerance_e7=1))  # all at one place
    assert rows(packed) == [1, *range(1501, 2001)]
    assert exact == 50


@given(
    st.sets(st.integers(1, 60)),
    st.lists(st.tuples(st.integers(0, 61), st.integers(0, 20))),
)
def test_it_forgets_what_is_gone(present: set[int], gone: list[tuple[int, int]]) -> None:
    overview, left = overview_of(present), set(present)
    for lo, size in gone:
        overview.forget([(lo, lo + size)])
        left -= set(range(lo, lo + size + 1))
    assert rows(bytes(overview.packed)) == sorted(left)


def test_a_segment_whose_first_position_is_gone_begins_with_the_next() -> None:
    overview = overview_of(set(range(1, 10)), begins=3)
    overview.forget([(2, 3), (4, 4), (8, 8), (20, 30)])
    found = struct.iter_unpack("<diiII", overview.packed)
    assert [(row, begins) for row, *_, begins in found] == [(1, 0), (5, 1), (6, 0), (7, 0), (9, 0)]
