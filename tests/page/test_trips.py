"""Trips, stops and the complete track in bounded memory."""

import itertools
import math
import random
import tracemalloc
from pathlib import Path

import pytest

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.export.track import Gaps
from telemetry_agent.export.trips import ParkingRule, Trips
from telemetry_agent.model import Fix, Record
from telemetry_agent.page.track_index import (
    BEGINS,
    GLITCH,
    POINT,
    SHOWN,
    Box,
    Overview,
    Point,
    TrackIndex,
    Wanted,
    fitting,
    pack,
    thinned,
)

START_MS = 1_795_435_200_000
FLAGS = (0,) * 60 + (BEGINS, GLITCH)
M_E9 = 8_993  # a metre of latitude at 48 degrees north, in 1e-9 degrees


class Drive:
    """Fixes of a drive, one per second while it moves and while it waits."""

    def __init__(self, odometer: bool = True) -> None:
        self.fixes: list[Fix] = []
        self._north_m, self._second, self._odo = 0.0, 0, odometer

    def go(self, seconds: int, m_s: float) -> "Drive":
        for _ in range(seconds):
            self._north_m += m_s
            self._add(m_s)
        return self

    def wait(self, seconds: int) -> "Drive":
        for _ in range(seconds):
            self._add(0.0)
        return self

    def off(self, seconds: int) -> "Drive":
        self._second += seconds
        return self

    def _add(self, m_s: float, flags: tuple[str, ...] = ()) -> None:
        self._second += 1
        self.fixes.append(
            Fix(
                START_MS + 1000 * self._second,
                48_000_000_000 + round(self._north_m * M_E9),
                11_000_000_000,
                speed_mm_s=round(m_s * 1000),
                odo_m=round(self._north_m) if self._odo else None,
            )
        )


USUAL = Gaps()


def trips_of(fixes: list[Fix], gaps: Gaps = USUAL) -> Trips:
    trips = Trips(gaps.between, ParkingRule(25, 180))
    for row, fix in enumerate(fixes, 1):
        trips.feed(row, Record("9f0c2d6e11a7b354", row, "van-07", fix))
    return trips


@pytest.mark.parametrize("odometer", [True, False])
def test_a_trip_ends_by_parking(odometer: bool) -> None:
    drive = Drive(odometer).wait(60).go(300, 10).wait(400).go(100, 20)
    found = trips_of(drive.fixes)
    (trip,) = found.done
    assert trip.distance_m == pytest.approx(3000, abs=25)
    assert trip.end_ms - trip.start_ms == pytest.approx(300_000, abs=3000)
    assert trip.moving_s == pytest.approx(300, abs=3)
    assert trip.standing_s <= 2
    assert trip.highest_m_s == 10
    assert found.current is not None
    assert found.current.distance_m == pytest.approx(2000, abs=21)


def test_a_stop_is_no_parking() -> None:
    found = trips_of(
        Drive().wait(5).go(100, 10).wait(90).go(100, 12).wait(30).go(50, 10).wait(200).fixes
    )
    (trip,) = found.done
    assert trip.highest_m_s == 12
    assert trip.stops == 1
    assert trip.standing_s == pytest.approx(120, abs=3)
    assert trip.moving_s == pytest.approx(250, abs=3)


def test_switched_off_ends_a_trip_and_a_tunnel_does_not() -> None:
    found = trips_of(Drive().go(100, 10).off(3600).go(100, 10).wait(200).fixes)
    assert len(found.done) == 2
    found.forget_before(101)
    assert len(found.done) == 1
    assert len(trips_of(Drive().go(100, 10).off(100).go(100, 10).wait(200).fixes).done) == 1


def test_a_device_that_was_carried_away_while_it_was_off_makes_no_trip() -> None:
    found = trips_of(Drive().go(100, 10).wait(100).off(3600).go(1, 5000).wait(100).fixes)
    (trip,) = found.done
    assert trip.standing_s == pytest.approx(100, abs=2)
    assert found.current is None


def test_a_fix_each_ten_minutes_is_enough_for_a_trip() -> None:
    fixes = Drive().go(3000, 10).wait(1300).fixes[::600]
    (trip,) = trips_of(fixes, Gaps.of_sampling(interval_s=600, heartbeat_s=900)).done
    assert trip.distance_m == pytest.approx(29_990, abs=10)


def test_the_odometer_begins_again_when_the_agent_starts_on_the_way() -> None:
    """The odometer includes the curves between fixes: here 1.5 times the straight distance."""
    fixes = Drive().go(200, 10).wait(200).fixes
    begins_at = [0] * 100 + [1000] * 300
    for i, (fix, odo_m) in enumerate(zip(fixes, begins_at, strict=True)):
        fixes[i] = fix._replace(odo_m=3 * ((fix.odo_m or 0) - odo_m) // 2)
    (trip,) = trips_of(fixes).done
    assert trip.distance_m == pytest.approx(3000, abs=70)


@pytest.mark.parametrize("odometer", [True, False])
def test_drift_and_glitches_are_no_trip(odometer: bool) -> None:
    drive = Drive(odometer).wait(2000)
    fixes = [
        fix._replace(lat_e9=fix.lat_e9 + round(9 * M_E9 * math.sin(i)))
        for i, fix in enumerate(drive.fixes)
    ]
    fixes[700] = fixes[700]._replace(lat_e9=0, lon_e9=0)
    fixes[900] = fixes[900]._replace(lat_e9=50_000_000_000, flags=("jump",))
    found = trips_of(fixes)
    assert (found.done, found.current) == ([], None)
    assert trips_of(Drive().wait(10).go(4, 10).wait(200).fixes).done == []


def line(count: int, step: int = 100) -> list[Point]:
    return [(row, step * row, 0, row, int(row == 1)) for row in range(1, count + 1)]


def test_the_overview_is_bounded_and_keeps_ends_and_glitches() -> None:
    overview = Overview(limit=1000)
    for point in line(20_000):
        flags = GLITCH if point[0] == 777 else BEGINS if point[0] == 5000 else point[4]
        overview.extend([(*point[:4], flags)])
    points = list(POINT.iter_unpack(overview.packed))
    assert len(points) <= 1000
    rows = [point[0] for point in points]
    assert rows == sorted(rows)
    assert {1, 777, 4999, 5000, 20_000} <= set(rows)
    assert max(b[1] - a[1] for a, b in itertools.pairwise(points)) <= 2 * overview.tolerance_e7
    overview.forget([(0, 9_999)])
    assert next(POINT.iter_unpack(overview.packed))[0] >= 10_000


@pytest.mark.parametrize("at_once", [1, 2, 7, 1000, 20_000])
def test_the_overview_is_what_thinning_leaves_whatever_comes_at_once(at_once: int) -> None:
    points = [
        (row, round(4000 * math.sin(row / 50)), row // 700, row, random.Random(row).choice(FLAGS))
        for row in range(1, 20_001)
    ]
    overview = Overview()
    for i in range(0, len(points), at_once):
        overview.extend(points[i : i + at_once])
    assert list(POINT.iter_unpack(overview.packed)) == list(thinned(points, overview.tolerance_e7))


def test_an_overview_of_segments_of_a_point_each_is_bounded_too() -> None:
    overview = Overview(limit=1000)
    for row in range(1, 5001):
        overview.extend([(row, row, 0, row, BEGINS)])
    points = list(POINT.iter_unpack(overview.packed))
    assert len(points) <= 1000
    assert points[-1][0] >= 4990


def ends_of_segments(count: int) -> list[Point]:
    """One point, followed by segments of two points each."""
    return [(row, row, row % 7, row, BEGINS * (row % 2 == 0)) for row in range(1, count + 1)]


def test_what_drops_ends_of_segments_joins_no_segments() -> None:
    points = ends_of_segments(50_000)
    overview = Overview(limit=1000)
    for i in range(0, len(points), 100):
        overview.extend(points[i : i + 100])
    kept = list(POINT.iter_unpack(overview.packed))
    assert 300 < len(kept) <= 1000
    assert overview.tolerance_e7 < 10_000_000_000  # more than the size of the earth
    packed, _ = fitting(lambda: iter(points), 1)
    for some in (kept, list(POINT.iter_unpack(packed))):
        joined = [
            (before, after)
            for before, after in itertools.pairwise(some)
            if not after[4] & BEGINS and before[0] // 2 != after[0] // 2
        ]
        assert joined == []
        assert some[-1][0] > 49_000


def test_thinning_is_by_what_can_be_seen() -> None:
    assert [point[0] for point in thinned(line(10), 250)] == [1, 4, 7, 10]
    shown, exact = fitting(lambda: iter(line(100_000)), 1)
    assert len(shown) <= SHOWN * POINT.size
    assert exact >= 1600
    assert fitting(lambda: iter(line(50)), 1e9) == (pack(line(50)), 0)


def test_a_box_may_lie_beyond_the_antimeridian() -> None:
    box = Box(-10, 1_790_000_000, 10, 1_810_000_000)
    assert box.holds((1, 0, 1_795_000_000, 0, 0))
    assert box.holds((1, 0, -1_795_000_000, 0, 0))
    assert not box.holds((1, 0, 0, 0, 0))
    assert not box.holds((1, 50, 1_795_000_000, 0, 0))


def test_a_track_that_was_read_once_stays_read_while_it_grows(tmp_path: Path) -> None:
    with AckQueue(tmp_path / "queue.db", commit_every_s=60) as queue:
        first, second, third, *_ = Drive().go(3, 3).fixes
        queue.put(first, "van-07")
        queue.put(second, "van-07")
        queue.commit()
        index = TrackIndex(queue, Gaps().between, ParkingRule())
        assert index.scan()
        assert not index.is_complete  # there may be more rows
        assert not index.scan()
        queue.put(third, "van-07")
        queue.commit()
        assert index.is_complete
        assert index.scan()
        assert index.is_complete


def test_who_looks_closely_gets_what_is_on_the_disk(tmp_path: Path) -> None:
    with AckQueue(tmp_path / "queue.db", commit_every_s=60) as queue:
        fixes = Drive().go(20_000, 3).fixes
        for fix in fixes:
            queue.put(fix, "van-07")
        queue.commit()
        index = TrackIndex(queue, Gaps().between, ParkingRule())
        index._overview = Overview(limit=500)
        while index.scan():
            pass
        _, packed, exact = index.shown(Wanted(across_px=500))
        whole = list(POINT.iter_unpack(packed))
        assert (whole[0][0], whole[-1][0]) == (1, 20_000)
        assert len(whole) < 2000
        assert exact > 0
        lat = round(fixes[10_000].lat_e9 / 100)
        box = Box(lat - 100_000, 109_000_000, lat + 100_000, 111_000_000)
        _, packed, exact = index.shown(Wanted(tolerance_e7=1, box=box))
        near = [point for point in POINT.iter_unpack(packed) if box.holds(point)]
        assert len(near) == pytest.approx(740, abs=5)  # all points of 2.2 km at 3 m/s
        assert exact <= 1
        _, packed, _ = index.shown(
            Wanted(since_s=START_MS / 1000 + 100, until_s=START_MS / 1000 + 199)
        )
        assert [point[3] - START_MS // 1000 for point in POINT.iter_unpack(packed)] == list(
            range(100, 200)
        )


def test_a_viewer_of_a_long_track_costs_little_memory(tmp_path: Path) -> None:
    """Twenty viewers may ask at once. With an object for each point, each of them needed 14 MB."""
    with AckQueue(tmp_path / "queue.db") as queue:
        index = TrackIndex(queue, Gaps().between, ParkingRule())
        index._overview.extend(line(20_000))
        tracemalloc.start()
        _, packed, _ = index.shown(Wanted(across_px=1400))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert 1000 < len(packed) / POINT.size <= SHOWN
    assert peak < 4_000_000
