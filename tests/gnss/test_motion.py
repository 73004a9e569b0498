"""Positions that a device cannot have reached, and the distance driven."""

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from road import ALWAYS_MOVING, at, feed, jumps, parked, seconds, standing

from telemetry_agent.gnss.geodesy import place_of
from telemetry_agent.gnss.motion import Motion, Odometer, Step
from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy
from telemetry_agent.model import Fix


def test_a_jump_is_flagged_and_the_way_back_is_none() -> None:
    sampler = Sampler(ALWAYS_MOVING)
    fixes = [at(i, 10 * i, speed_m_s=10) for i in range(20)]
    fixes[10] = at(10, 250, speed_m_s=10)
    kept = feed(sampler, fixes)
    assert len(kept) == 20
    assert [i for i, fix in enumerate(kept) if "jump" in fix.flags] == [10]
    assert kept[-1].odo_m == pytest.approx(190, abs=1)


def test_two_fixes_of_one_time_are_no_jump() -> None:
    """Second 60 has the same time as the second after it."""
    motion = Motion(None)
    for elapsed_s in (None, 0.0, 1.0, 0.0):
        step = motion.judge(at(0), elapsed_s)
        assert (step.jump, step.speed_m_s or 0.0) == (False, 0.0)


def test_a_jump_asks_for_nothing() -> None:
    policy = SamplingPolicy(interval_s=60, distance_m=100, turn_deg=15, parked_radius_m=0)
    aside = at(3, 400, speed_m_s=5, course_deg=200)
    fixes = [at(i, 5 * i, speed_m_s=5) for i in range(10)]
    assert seconds(feed(Sampler(policy), [*fixes[:3], aside, *fixes[4:]])) == [0]


def test_a_place_that_lasts_is_no_jump_for_long() -> None:
    sampler = Sampler(ALWAYS_MOVING)
    kept = feed(sampler, [*standing(0, 100), *standing(100, 100, east_m=500_000)])
    assert len(kept) == 200
    assert jumps(kept) == list(range(100, 130))
    assert kept[-1].odo_m == 0


NULL: dict[str, Any] = {"lat_e9": 0, "lon_e9": 0}


@pytest.mark.parametrize("speed", [True, False])
@pytest.mark.parametrize("count", [1, 2, 5, 20, 50])
@pytest.mark.parametrize("where", [NULL, {"lat_e9": 31_000_000_000}, {"lat_e9": 48_200_000_000}])
def test_after_a_bad_first_position_the_good_ones_are_soon_believed(
    where: dict[str, Any], count: int, speed: bool
) -> None:
    sampler = Sampler(ALWAYS_MOVING)
    bad = [at(i, speed_m_s=0 if speed else None)._replace(**where) for i in range(count)]
    good = [at(count + i, 10 * i, speed_m_s=10 if speed else None) for i in range(200)]
    kept = feed(sampler, [*bad, *good])
    assert jumps(kept) == [count, count + 1]
    assert kept[-1].odo_m == pytest.approx(1990, abs=40)


def test_the_very_first_position_may_be_wrong_by_little_too() -> None:
    kept = feed(Sampler(ALWAYS_MOVING), [*standing(0, 5), *standing(5, 60, east_m=60)])
    assert jumps(kept) == [5, 6]


def test_at_0_0_it_is_never_believed_to_have_been() -> None:
    sampler = Sampler(SamplingPolicy(interval_s=0))
    kept = feed(sampler, [*(fix._replace(**NULL) for fix in standing(0, 1000)), *standing(1000, 9)])
    assert jumps(kept) == [1000, 1001]
    assert kept[-1].odo_m == 0


def test_a_spell_of_bad_positions_amid_good_ones_is_flagged_and_drives_nothing() -> None:
    sampler = Sampler(ALWAYS_MOVING)
    fixes = [at(i, 10 * i, speed_m_s=10) for i in range(300)]
    fixes[100:125] = [fix._replace(**NULL) for fix in fixes[100:125]]
    kept = feed(sampler, fixes)
    assert jumps(kept) == list(range(100, 125))
    assert kept[-1].odo_m == pytest.approx(2990, abs=5)


def test_the_first_position_after_an_outage_may_be_wrong_as_well() -> None:
    sampler = Sampler(ALWAYS_MOVING)
    before = [at(i, 10 * i, speed_m_s=10) for i in range(100)]
    wrong = [at(700 + i, 40_000, speed_m_s=0) for i in range(3)]
    after = [at(703 + i, 1000 + 10 * i, speed_m_s=10) for i in range(100)]
    kept = feed(sampler, [*before, *wrong, *after])
    assert jumps(kept) == [103, 104]


def test_a_place_near_by_that_lasts_after_an_outage_is_believed_too() -> None:
    sampler = Sampler(ALWAYS_MOVING)
    kept = feed(sampler, [*standing(0, 100), *standing(500, 5), *standing(505, 60, east_m=200)])
    assert jumps(kept) == list(range(105, 135))


def test_a_jump_that_was_recorded_last_is_no_place_to_start_from() -> None:
    first = feed(Sampler(ALWAYS_MOVING), [at(i, 10 * i, speed_m_s=10) for i in range(100)])
    jump = at(100, 90_000)._replace(odo_m=first[-1].odo_m, flags=("jump",))
    later = [at(102 + i, 1020 + 10 * i, speed_m_s=10) for i in range(50)]
    kept = feed(Sampler(ALWAYS_MOVING, [jump, *first[::-1]]), later)
    assert jumps(kept) == []
    assert kept[-1].odo_m == pytest.approx(1510, abs=5)


def test_a_jump_does_not_end_parking_and_what_lasts_does() -> None:
    sampler = parked()
    assert feed(sampler, [at(201, 200, speed_m_s=0), *standing(202, 5)]) == []
    kept = feed(sampler, standing(210, 60, east_m=200))
    assert kept
    assert "jump" not in kept[0].flags


def test_other_flags_stay_and_the_jump_comes_first() -> None:
    sampler = Sampler(ALWAYS_MOVING)
    doubtful = at(1, 500, speed_m_s=0)._replace(flags=("time", "datum"))
    assert feed(sampler, [at(0, speed_m_s=0), doubtful])[1].flags == ("jump", "time", "datum")


def test_a_tunnel_is_no_jump_and_counts_as_driven() -> None:
    sampler = Sampler(SamplingPolicy())
    kept = feed(sampler, [at(0, speed_m_s=0), at(1, speed_m_s=0), at(90, 2000, speed_m_s=0)])
    assert [fix.flags for fix in kept] == [()] * 3
    assert kept[-1].odo_m == pytest.approx(2000, abs=5)


@pytest.mark.parametrize("speed", [True, False])
def test_a_start_at_full_speed_is_no_jump(speed: bool) -> None:
    sampler = Sampler(SamplingPolicy())
    fixes = [at(i / 5, 60 * i / 5, speed_m_s=60 if speed else None) for i in range(100)]
    kept = feed(sampler, fixes)
    assert all("jump" not in fix.flags for fix in kept)


# ---- without a sampler


def judged(motion: Motion, *fixes: Fix) -> list[Step]:
    since_s = [(fix.time_ms - fixes[0].time_ms) / 1000 for fix in fixes]
    elapsed_s = [None, *(now - before for before, now in pairwise(since_s))]
    return [motion.judge(fix, step_s) for fix, step_s in zip(fixes, elapsed_s, strict=True)]


@pytest.mark.parametrize(
    ("speed_m_s", "apart_m", "jump"),
    [
        (0, 16.9, False),  # 15 m of noise and 2 m/s
        (0, 17.5, True),
        (10, 29.9, False),  # 1.3 x 10 m/s, and the same noise and margin
        (10, 30.5, True),
        (None, 114, False),  # faster than any vehicle
        (None, 116, True),
    ],
)
def test_the_reach_of_a_second(speed_m_s: float | None, apart_m: float, jump: bool) -> None:
    minutes = [at(n, speed_m_s=speed_m_s)._replace(hdop_e2=None) for n in range(-99, 1)]
    if speed_m_s is None:
        minutes = minutes[-1:]  # the speed is unknown
    steps = judged(Motion(None), *minutes, at(1, apart_m, speed_m_s=speed_m_s))
    assert [step.jump for step in steps] == [False] * len(minutes) + [jump]


def test_seconds_that_are_missing_allow_any_speed() -> None:
    for gap_s, jump in ((2.4, True), (2.6, False)):
        last = at(gap_s, 100, speed_m_s=1)
        assert judged(Motion(at(-1)), at(0, speed_m_s=1), last)[-1].jump == jump


def test_speed_is_that_of_the_receiver_or_of_its_own_steps() -> None:
    steps = judged(Motion(None), *(at(n, 7 * n, speed_m_s=3) for n in range(9)))
    assert {step.speed_m_s for step in steps} == {3}
    steps = judged(Motion(None), *(at(n, 7 * n) for n in range(9)))
    assert steps[0].speed_m_s is None
    assert steps[-1].speed_m_s == pytest.approx(7, rel=0.01)


def test_time_that_steps_back_is_no_distance() -> None:
    motion = Motion(None)
    judged(motion, at(0, speed_m_s=1), at(1, speed_m_s=1))
    step = motion.judge(at(-5000, 90_000, speed_m_s=1), None)
    assert (step.jump, step.moved, step.elapsed_s) == (False, False, None)


# ---- the odometer


def step(fix: Fix, *, jump: bool = False, moved: bool = False, elapsed_s: float = 1.0) -> Step:
    speed_m_s = None if fix.speed_mm_s is None else fix.speed_mm_s / 1000
    return Step(fix, place_of(fix), elapsed_s, jump, moved, speed_m_s)


def driven(*steps: Step, last: Fix | None = None) -> int:
    odometer = Odometer(last)
    for each in steps:
        odometer.drive(each)
    return odometer.odo_m


@pytest.mark.parametrize(
    ("speed_m_s", "apart_m", "metres"),
    [
        (0.5, 9, 9),  # an open chord counts while the device moves
        (0.4, 24, 0),  # not while it is stationary
        (None, 24, 0),
        (0.4, 26, 26),
        (None, 26, 26),
    ],
)
def test_a_chord_is_longer_if_the_device_does_not_move(
    speed_m_s: float | None, apart_m: float, metres: int
) -> None:
    first, second = at(0, speed_m_s=speed_m_s), at(1, apart_m, speed_m_s=speed_m_s)
    assert driven(step(first), step(second)) == metres


def test_a_chord_is_as_long_as_the_noise() -> None:
    noisy = at(1, 90)._replace(err_h_mm=33_333)
    assert driven(step(at(0)), step(noisy)) == 0
    assert driven(step(at(0)), step(noisy._replace(err_h_mm=None))) == 90


@given(st.integers(0, 99))
def test_a_standing_receiver_drives_nothing(seed: int) -> None:
    draw = random.Random(seed)
    drift = (step(at(n, draw.uniform(-12, 12), speed_m_s=0.1)) for n in range(300))
    assert driven(*drift) == 0


@given(st.lists(st.floats(-50, 50), max_size=60))
def test_it_never_falls(steps_m: list[float]) -> None:
    odometer, place_m, before = Odometer(None), 0.0, 0
    for n, step_m in enumerate(steps_m):
        place_m += step_m
        odometer.drive(step(at(n, place_m, speed_m_s=abs(step_m)), jump=n % 7 == 3))
        assert odometer.odo_m >= before
        before = odometer.odo_m


def test_a_way_across_a_jump_counts_no_more_than_the_speed_allows() -> None:
    away = step(at(1, 5_000, speed_m_s=10), jump=True)
    assert driven(step(at(0, speed_m_s=10)), away, step(at(2, 20, speed_m_s=10))) == 20
    assert driven(step(at(0, speed_m_s=10)), away, step(at(2, 500, speed_m_s=10))) == 20
    # The device really was at the other place, but did not drive there.
    was_there = step(at(2, 5_000, speed_m_s=10), moved=True)
    assert driven(step(at(0, speed_m_s=10)), away, was_there) == 20
    unknown = step(at(2, 5_000), moved=True)
    assert driven(step(at(0)), step(at(1, 5_000), jump=True), unknown) == 0


def test_parking_ends_the_chord_where_the_device_is_parked() -> None:
    odometer = Odometer(None)
    odometer.drive(step(at(0, speed_m_s=10)))
    odometer.drive(step(at(1, 9, speed_m_s=10)))
    odometer.park(place_of(at(0, 12)))
    assert odometer.odo_m == 12
    odometer.drive(step(at(2, 37, speed_m_s=0.1)))
    assert odometer.odo_m == 37


def test_it_continues_from_the_fix_that_was_recorded_last() -> None:
    last = at(0)._replace(odo_m=1_000)
    assert driven(last=last) == 1_000
    assert driven(step(at(60, 300, speed_m_s=10)), last=last) == 1_300
