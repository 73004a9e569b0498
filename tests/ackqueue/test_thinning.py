"""The fixes that remain of a thinned track."""

import math
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ackqueue.queue_parts import START_MS, put
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry_agent.ackqueue.file.rows import LAT_E9, LON_E9, TIME_MS, Row, encode
from telemetry_agent.ackqueue.file.schema import UnusableError
from telemetry_agent.ackqueue.limits.thinning import COARSEST, Thinner, thin
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.model import Fix

M_PER_DEGREE = 40_008_000 / 360
LAT, LON = 48.0, 11.0


def track(
    points: list[tuple[float, float, float]], *, lat: float = LAT, lon: float = LON, **values: Any
) -> list[Row]:
    """Rows at these seconds, metres east and metres north of a place."""
    east = 1 / (M_PER_DEGREE * math.cos(math.radians(lat)))
    rows = []
    for seq, (second, x, y) in enumerate(points, start=1):
        degrees = (lon + x * east + 180) % 360 - 180
        fix = Fix(
            START_MS + round(second * 1000),
            round((lat + y / M_PER_DEGREE) * 1e9),
            round(degrees * 1e9),
        )
        rows.append(encode(seq, values.get("stream", 1), seq, "van-07", fix))
    return rows


def seconds(rows: list[Row]) -> list[float]:
    return [(row[TIME_MS] - START_MS) / 1000 for row in rows]


def test_a_straight_way_at_constant_speed_is_its_two_ends() -> None:
    rows = track([(s, 15 * s, 7 * s) for s in range(100)])
    assert seconds(thin(rows, 0)) == [0, 99]


def test_a_turn_stays() -> None:
    rows = track([(s, 15 * min(s, 50), 15 * max(0, s - 50)) for s in range(100)])
    for level in range(6):
        assert seconds(thin(rows, level)) == [0, 50, 99]


def test_a_stop_on_a_straight_way_stays_with_both_its_ends() -> None:
    way = [15 * min(s, 40) + 15 * max(0, s - 70) for s in range(110)]
    rows = track([(s, x, 0.0) for s, x in enumerate(way)])
    for level in range(6):
        assert seconds(thin(rows, level)) == [0, 40, 70, 109]


def test_the_ends_of_a_stretch_stay() -> None:
    rows = track([(s + (600 if s >= 50 else 0), 15 * s, 0.0) for s in range(100)])
    for level in range(4):
        assert {49, 650} <= set(seconds(thin(rows, level)))


@pytest.mark.parametrize("place", [1, 2], ids=["device", "stream"])
def test_another_device_or_stream_is_another_stretch(place: int) -> None:
    rows = track([(s, 15 * s, 0.0) for s in range(20)])
    rows[10:] = [(*row[:place], "other", *row[place + 1 :]) for row in rows[10:]]
    assert seconds(thin(rows, COARSEST)) == [0, 9, 10, 19]


def test_where_time_goes_back_a_stretch_ends() -> None:
    rows = track([*((s, 15 * s, 0.0) for s in range(10)), *((s, 0.0, 0.0) for s in range(5, 15))])
    assert seconds(thin(rows, COARSEST)) == [0, 9, 5, 14]


def test_drift_of_a_parked_receiver_is_thinned_with_the_level() -> None:
    rows = track([(s, 3 * math.sin(s), 3 * math.cos(s * 1.3)) for s in range(200)])
    counts = [len(thin(rows, level)) for level in range(5)]
    assert counts[0] > 150
    assert counts[3:] == [2, 2]
    assert counts == sorted(counts, reverse=True)


def test_the_date_line_is_no_jump() -> None:
    rows = track([(s, 15 * s, 0.0) for s in range(200)], lon=179.98)
    assert min(row[LON_E9] for row in rows) < 0
    assert seconds(thin(rows, 0)) == [0, 199]


def test_a_few_rows_stay_as_they_are() -> None:
    rows = track([(0, 0, 0), (1, 1, 1)])
    assert [thin(rows[:count], 3) for count in range(3)] == [[], rows[:1], rows]


def test_a_damaged_row_does_not_count_as_thinned(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 400)
    change(path, "UPDATE fix SET lat_e9 = lat_e9 + 1 WHERE seq = 150")
    with AckQueue(path) as queue:
        with queue.shared.disk:
            assert Thinner(queue.shared).step()
        queue.commit()
        assert queue.stats().lost == {"damaged": 1}


def test_a_missing_row_does_not_count_as_thinned(path: Path) -> None:
    with AckQueue(path) as queue:
        put(queue, 400)
    change(path, "DELETE FROM fix WHERE seq = 150")
    with AckQueue(path) as queue:
        with queue.shared.disk, pytest.raises(UnusableError, match="1 row is missing"):
            Thinner(queue.shared).step()
        assert queue.stats().carrying_over


@pytest.mark.parametrize(("count", "devices"), [(99, "a"), (200, "ab")])
def test_few_rows_and_those_that_are_a_stretch_each_stay(
    path: Path, count: int, devices: str
) -> None:
    with AckQueue(path) as queue:
        for second in range(count):
            put(queue, 1, start=second, device=devices[second % len(devices)])
        queue.commit()
        with queue.shared.disk:
            thinner = Thinner(queue.shared)
            while thinner.step():
                pass
            assert not thinner.step()
        queue.commit()
        assert queue.stats().lost == {}


def change(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute(sql)
        file.commit()


STEPS = st.lists(
    st.tuples(st.sampled_from([1, 1, 1, 5, 30]), st.floats(-40, 40), st.floats(-40, 40)),
    min_size=1,
    max_size=150,
)


@settings(max_examples=2 * settings().max_examples)
@given(STEPS, st.integers(0, 6), st.sampled_from([0.0, 48.0, -75.0]))
def test_where_it_was_can_be_told_within_the_tolerance(
    steps: list[tuple[int, float, float]], level: int, lat: float
) -> None:
    points, now = [], (0.0, 0.0, 0.0)
    for took_s, x, y in steps:
        now = (now[0] + took_s, now[1] + took_s * x, now[2] + took_s * y)
        points.append(now)
    rows = track(points, lat=lat)
    kept = thin(rows, level)
    assert kept == [row for row in rows if row in kept]
    assert kept[0] == rows[0]
    assert kept[-1] == rows[-1]
    for row in rows:
        assert distance_m(row, kept) <= 2**level * 1.01 + 0.01


def distance_m(row: Row, kept: list[Row]) -> float:
    """The distance from a fix to its position interpolated from ``kept`` alone."""
    for before, after in pairwise(kept):
        if before[TIME_MS] <= row[TIME_MS] <= after[TIME_MS]:
            part = (row[TIME_MS] - before[TIME_MS]) / (after[TIME_MS] - before[TIME_MS])
            north, east = (
                (before[axis] + part * (after[axis] - before[axis]) - row[axis]) / 1e9
                for axis in (LAT_E9, LON_E9)
            )
            east *= math.cos(math.radians(row[LAT_E9] / 1e9))
            return math.hypot(north, east) * M_PER_DEGREE
    return 0.0
