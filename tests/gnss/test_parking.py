"""The start and the end of parking."""

import pytest
from road import at, feed, parked, seconds, standing

from telemetry_agent.gnss.geodesy import PoorFix, distance_m, place_of
from telemetry_agent.gnss.motion import Step
from telemetry_agent.gnss.parking import Parking
from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy
from telemetry_agent.model import Fix


def test_parking_begins_with_a_recorded_fix_then_only_heartbeats() -> None:
    sampler = Sampler(SamplingPolicy(interval_s=60, heartbeat_s=900))
    kept = feed(sampler, standing(0, 3000))
    assert seconds(kept) == [0, 60, 120, 180, 1080, 1980, 2880]
    assert sampler.dropped == {"not-due": 177, "parked": 3000 - 177 - 7 - 1}  # the last one is held


def test_the_last_fix_inside_and_the_first_outside_are_recorded() -> None:
    sampler = parked(SamplingPolicy(interval_s=20))
    leaving = [at(201 + i, 1.2 * i, speed_m_s=1.2) for i in range(40)]
    kept = feed(sampler, leaving)
    # 24 m is still inside; 25.2, 26.4 and 27.6 m are three fixes outside in a row.
    assert seconds(kept) == [221, 224]
    assert not sampler.parking.parked


@pytest.mark.parametrize("hdop_e2", [90, None, 8999])
@pytest.mark.parametrize("make", [Fix, PoorFix])
def test_a_speed_above_walking_speed_always_ends_parking(
    make: type[Fix], hdop_e2: int | None
) -> None:
    sampler = parked()
    leaving = [at(201 + i, 2 * i, speed_m_s=2)._replace(hdop_e2=hdop_e2) for i in range(5)]
    kept = feed(sampler, map(make._make, leaving))
    assert seconds(kept) == [200, 201, 202, 203, 204, 205]
    assert not sampler.parking.parked
    # Driving in a small circle is not parking either.
    for i in range(400):
        feed(sampler, [at(210 + i, 10 if i % 2 else 14, speed_m_s=4)])
        assert not sampler.parking.parked


def test_far_outside_parking_ends_at_once() -> None:
    sampler = parked()
    assert seconds(feed(sampler, [at(500, 49)])) == []
    assert sampler.parking.parked
    assert seconds(feed(sampler, [at(501, 51)])) == [200, 501]
    assert not sampler.parking.parked


@pytest.mark.parametrize(
    "outside",
    [
        [at(201 + i, 40, speed_m_s=0.9) for i in range(100)],
        [at(201 + i, 40 if i % 3 else 0, speed_m_s=1.4) for i in range(100)],
    ],
    ids=["slow", "not three in a row"],
)
def test_drift_does_not_end_parking(outside: list[Fix]) -> None:
    sampler = parked()
    assert feed(sampler, outside) == []
    assert sampler.parking.parked


@pytest.mark.parametrize(("hdop_e2", "err_h_mm"), [(500, None), (90, 13_400)])
def test_the_circle_is_as_large_as_the_noise(hdop_e2: int, err_h_mm: int | None) -> None:
    sampler = parked()
    outside = [at(201 + i, 39, speed_m_s=1.4) for i in range(9)]
    noisy = [fix._replace(hdop_e2=hdop_e2, err_h_mm=err_h_mm) for fix in outside]
    assert feed(sampler, noisy) == []
    assert sampler.parking.parked


def test_a_slow_start_out_of_the_circle_ends_parking_too() -> None:
    sampler = parked()
    kept = feed(sampler, [at(201 + i, 0.2 * i, speed_m_s=0.2) for i in range(400)])
    assert kept
    assert kept[0].lon_e9 <= kept[1].lon_e9 < at(0, 51).lon_e9


def test_a_shorter_stop_is_no_parking() -> None:
    sampler = Sampler(SamplingPolicy())
    assert len(feed(sampler, standing(0, 180))) == 180


def test_parking_can_be_switched_off_meanwhile() -> None:
    sampler = parked()
    held = feed(sampler, standing(201, 1))
    sampler.use(SamplingPolicy(interval_s=0))
    assert seconds([*held, *feed(sampler, standing(202, 3))]) == [201, 202, 203, 204]
    assert sampler.parking.parked
    sampler = parked()
    sampler.use(SamplingPolicy(parked_radius_m=0))
    assert len(feed(sampler, standing(201, 50))) == 51  # including the one held back
    sampler.use(SamplingPolicy(parked_radius_m=5))
    assert len(feed(sampler, standing(251, 500))) < 250


# ---- without a sampler


def new_parking() -> Parking:
    parking = Parking()
    parking.use(25, 180)
    return parking


def followed(parking: Parking, fixes: list[Fix], *, jump: bool = False) -> Parking:
    for fix in fixes:
        speed_m_s = None if fix.speed_mm_s is None else fix.speed_mm_s / 1000
        parking.follow(Step(fix, place_of(fix), 1.0, jump, False, speed_m_s))
    return parking


def test_parking_begins_after_its_time_inside() -> None:
    parking = followed(new_parking(), standing(0, 180))
    assert not parking.parked
    assert followed(parking, standing(180, 1)).parked


def test_the_centre_is_the_mean_and_is_fixed_once_parked() -> None:
    draw = [at(n, 10 if n % 2 else -10, speed_m_s=0) for n in range(182)]
    parking = followed(new_parking(), draw)
    assert parking.parked
    assert distance_m(parking.place, place_of(at(0))) < 1
    place = parking.place
    assert followed(parking, standing(182, 100, east_m=20)).place == place


def test_a_jump_is_neither_inside_nor_outside() -> None:
    parking = followed(new_parking(), standing(0, 200))
    followed(parking, [at(200 + n, 1_000, speed_m_s=0) for n in range(9)], jump=True)
    assert parking.parked
    assert not parking.inside
    assert followed(parking, standing(209, 1)).inside


def test_rows_from_before_a_restart_show_whether_it_is_parked() -> None:
    rows = [at(900 * n, 5 * n) for n in range(3, -1, -1)]
    parking = new_parking()
    parking.resume(rows)
    assert parking.parked
    moving = [at(60 * n, 100 * n) for n in range(9, -1, -1)]
    parking = new_parking()
    parking.resume(moving)
    assert not parking.parked
    # A jump among the rows is ignored; a time that steps back ends the search.
    parking = new_parking()
    parking.resume([rows[0], at(2000, 9_000)._replace(flags=("jump",)), *rows[1:]])
    assert parking.parked
    parking = new_parking()
    parking.resume([rows[-1], rows[0]])
    assert not parking.parked


def test_the_first_fix_is_in_no_circle_also_at_0_0() -> None:
    parking = new_parking()
    parking.follow(Step(Fix(0, 0, 0), (0, 0), None, False, False, None))
    assert not parking.inside
