"""Metres driven: chords, jumps, parking and restarts."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from road import at

from telemetry_agent.gnss.geodesy import place_of
from telemetry_agent.gnss.motion import Step
from telemetry_agent.gnss.odometer import Odometer
from telemetry_agent.model import Fix


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
        (0.5, 9, 9),  # an open chord counts while the device moves,
        (0.4, 24, 0),  # not while it stands
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
    # A device that really was elsewhere has not driven there.
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
