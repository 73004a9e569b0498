import random
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import corpus
import pytest
import tracks

from telemetry_agent.gnss.geodesy import PoorFix
from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy
from telemetry_agent.model import Fix, Quality

ALWAYS_MOVING = SamplingPolicy(parked_radius_m=0)


def at(
    seconds: float, east_m: float = 0, *, speed_m_s: float | None = None, course_deg: float = 90
) -> Fix:
    lat_e9, lon_e9 = tracks.place(east_m, 0)
    return Fix(
        tracks.START_MS + round(seconds * 1000),
        round(lat_e9),
        round(lon_e9),
        speed_mm_s=None if speed_m_s is None else round(speed_m_s * 1000),
        course_mdeg=round(course_deg * 1000),
        hdop_e2=90,
    )


def standing(start_s: int, count: int, east_m: float = 0) -> list[Fix]:
    return [at(start_s + i, east_m, speed_m_s=0) for i in range(count)]


def feed(sampler: Sampler, fixes: Iterable[Fix]) -> list[Fix]:
    return [chosen for fix in fixes for chosen in sampler.feed(fix)]


def jumps(kept: Sequence[Fix]) -> list[int]:
    return [i for i, fix in enumerate(kept) if "jump" in fix.flags]


def seconds(fixes: Iterable[Fix]) -> list[float]:
    return [(fix.time_ms - tracks.START_MS) / 1000 for fix in fixes]


# ---- while it moves


def test_a_second_is_due_half_a_period_early() -> None:
    draw = random.Random(3)
    jittery = [at(i + draw.uniform(-0.2, 0.2), 15 * i, speed_m_s=15) for i in range(300)]
    sampler = Sampler(SamplingPolicy())
    assert len(feed(sampler, jittery)) == 300
    assert not sampler.dropped


def test_a_fast_receiver_gives_one_fix_each_interval() -> None:
    sampler = Sampler(SamplingPolicy(interval_s=2))
    kept = feed(sampler, [at(i / 10, i, speed_m_s=10) for i in range(200)])
    assert seconds(kept) == pytest.approx([2 * i for i in range(10)])
    assert sampler.dropped == {"not-due": 190}


def test_a_gap_is_no_period() -> None:
    sampler = Sampler(SamplingPolicy(interval_s=60, parked_radius_m=0))
    kept = feed(sampler, [at(0), at(1), at(51), at(52), at(53), at(60)])
    assert seconds(kept) == [0, 60]


@pytest.mark.parametrize("back_s", [0.3, 52 * 60, 20 * 365 * 86400])
def test_time_that_steps_back_is_due_and_wedges_nothing(back_s: float) -> None:
    sampler = Sampler(SamplingPolicy(interval_s=10))
    before = [at(i, 10 * i, speed_m_s=10) for i in range(15)]
    after = [at(14 + i - back_s, 10 * (15 + i), speed_m_s=10) for i in range(24)]
    kept = feed(sampler, before + after)
    assert seconds(kept) == pytest.approx([0, 10, 14 - back_s, 24 - back_s, 34 - back_s])
    assert all("jump" not in fix.flags for fix in kept)
    assert kept[-1].odo_m == pytest.approx(350, abs=20)


def test_interval_0_records_every_fix_parked_or_not() -> None:
    sampler = Sampler(SamplingPolicy(interval_s=0))
    assert len(feed(sampler, standing(0, 2000))) == 2000
    assert sampler.parked


def test_distance_asks_before_the_interval() -> None:
    sampler = Sampler(SamplingPolicy(interval_s=60, distance_m=100))
    kept = feed(sampler, [at(i, 15 * i, speed_m_s=15) for i in range(30)])
    assert seconds(kept) == [0, 7, 14, 21, 28]


def test_a_turn_asks_at_its_threshold_and_over_north() -> None:
    sampler = Sampler(SamplingPolicy(interval_s=600, turn_deg=15))
    courses = [350, 0, 4.9, 5, 6, 350, 349]
    fixes = [at(i, 5 * i, speed_m_s=5, course_deg=c) for i, c in enumerate(courses)]
    assert seconds(feed(sampler, fixes)) == [0, 3, 5]


def test_a_turn_on_foot_or_while_standing_is_noise() -> None:
    sampler = Sampler(SamplingPolicy(interval_s=600, turn_deg=15))
    courses = [0, 90, 180, 270] * 5
    fixes = [at(i, i, speed_m_s=1.5, course_deg=c) for i, c in enumerate(courses)]
    assert seconds(feed(sampler, fixes)) == [0]


def test_bad_fixes_are_left_out_by_reason_and_drive_nothing() -> None:
    sampler = Sampler(
        SamplingPolicy(interval_s=0, max_hdop=2, drop_quality=("estimated", "manual"))
    )
    far: list[tuple[Quality, int | None]] = [("estimated", 90), ("gps", 201), ("manual", None)]
    fixes = [at(0), *(at(1, 9e4)._replace(quality=q, hdop_e2=h) for q, h in far)]
    kept = feed(sampler, [*fixes, at(2)._replace(hdop_e2=200), at(3)._replace(hdop_e2=None)])
    assert seconds(kept) == [0, 2, 3]
    assert sampler.dropped == {"quality": 2, "hdop": 1}
    assert [fix.odo_m for fix in kept] == [0, 0, 0]


def poor(fix: Fix) -> Fix:
    """The receiver says HDOP 99.99."""
    return PoorFix._make(fix._replace(hdop_e2=None))


def test_no_geometry_is_the_worst_hdop() -> None:
    sampler = Sampler(SamplingPolicy(interval_s=0, max_hdop=5))
    assert feed(sampler, [poor(at(i, 10 * i, speed_m_s=10)) for i in range(4)]) == []
    assert sampler.dropped == {"hdop": 4}
    everything = feed(Sampler(SamplingPolicy(interval_s=0)), [poor(at(0))])
    assert [fix.hdop_e2 for fix in everything] == [None]


@pytest.mark.parametrize("say", [poor, lambda fix: fix._replace(hdop_e2=8000)])
def test_the_noise_that_a_bad_hdop_is_allowed_ends_at_100_m(say: Callable[[Fix], Fix]) -> None:
    # A drive is followed all the same,
    sampler = Sampler(ALWAYS_MOVING)
    kept = feed(sampler, [say(at(i, 10 * i, speed_m_s=10)) for i in range(200)])
    assert kept[-1].odo_m == pytest.approx(1990, abs=101)
    assert not any("jump" in fix.flags for fix in kept)
    # a jump of more than that is one,
    assert feed(sampler, [say(at(200, 2150, speed_m_s=10))])[0].flags == ("jump",)
    # and parking ends 100 m away.
    sampler = parked()
    assert feed(sampler, [say(at(201 + i, 99, speed_m_s=1.2)) for i in range(20)]) == []
    assert feed(sampler, [say(at(221 + i, 101 + i, speed_m_s=1.2)) for i in range(20)])
    assert not sampler.parked


# ---- parked


def parked(policy: SamplingPolicy | None = None) -> Sampler:
    """Stands since second 0; it is second 200."""
    sampler = Sampler(policy or SamplingPolicy())
    feed(sampler, standing(0, 201))
    assert sampler.parked
    return sampler


def test_parking_begins_with_a_recorded_fix_then_only_heartbeats() -> None:
    sampler = Sampler(SamplingPolicy(interval_s=60, heartbeat_s=900))
    kept = feed(sampler, standing(0, 3000))
    assert seconds(kept) == [0, 60, 120, 180, 1080, 1980, 2880]
    assert sampler.dropped == {"not-due": 177, "parked": 3000 - 177 - 7 - 1}  # the last one waits


def test_the_last_fix_inside_and_the_first_outside_are_recorded() -> None:
    sampler = parked(SamplingPolicy(interval_s=20))
    leaving = [at(201 + i, 1.2 * i, speed_m_s=1.2) for i in range(40)]
    kept = feed(sampler, leaving)
    # 24 m are still inside; 25.2, 26.4 and 27.6 m are three in a row.
    assert seconds(kept) == [221, 224]
    assert not sampler.parked


@pytest.mark.parametrize("hdop_e2", [90, None, 8999])
@pytest.mark.parametrize("make", [Fix, PoorFix])
def test_a_speed_above_walking_speed_always_ends_parking(
    make: type[Fix], hdop_e2: int | None
) -> None:
    sampler = parked()
    leaving = [at(201 + i, 2 * i, speed_m_s=2)._replace(hdop_e2=hdop_e2) for i in range(5)]
    kept = feed(sampler, map(make._make, leaving))
    assert seconds(kept) == [200, 201, 202, 203, 204, 205]
    assert not sampler.parked
    # Driving in a small circle is no parking either.
    for i in range(400):
        feed(sampler, [at(210 + i, 10 if i % 2 else 14, speed_m_s=4)])
        assert not sampler.parked


def test_far_outside_parking_ends_at_once() -> None:
    sampler = parked()
    assert seconds(feed(sampler, [at(500, 49)])) == []
    assert sampler.parked
    assert seconds(feed(sampler, [at(501, 51)])) == [200, 501]
    assert not sampler.parked


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
    assert sampler.parked


@pytest.mark.parametrize(("hdop_e2", "err_h_mm"), [(500, None), (90, 13_400)])
def test_the_circle_is_as_large_as_the_noise(hdop_e2: int, err_h_mm: int | None) -> None:
    sampler = parked()
    outside = [at(201 + i, 39, speed_m_s=1.4) for i in range(9)]
    noisy = [fix._replace(hdop_e2=hdop_e2, err_h_mm=err_h_mm) for fix in outside]
    assert feed(sampler, noisy) == []
    assert sampler.parked


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
    sampler.policy = SamplingPolicy(interval_s=0)
    assert seconds([*held, *feed(sampler, standing(202, 3))]) == [201, 202, 203, 204]
    assert sampler.parked
    sampler = parked()
    sampler.policy = SamplingPolicy(parked_radius_m=0)
    assert len(feed(sampler, standing(201, 50))) == 51  # the one that waited comes too
    sampler.policy = SamplingPolicy(parked_radius_m=5)
    assert len(feed(sampler, standing(251, 500))) < 250


# ---- jumps


def test_a_jump_is_flagged_and_the_way_back_is_none() -> None:
    sampler = Sampler(ALWAYS_MOVING)
    fixes = [at(i, 10 * i, speed_m_s=10) for i in range(20)]
    fixes[10] = at(10, 250, speed_m_s=10)
    kept = feed(sampler, fixes)
    assert len(kept) == 20
    assert [i for i, fix in enumerate(kept) if "jump" in fix.flags] == [10]
    assert kept[-1].odo_m == pytest.approx(190, abs=1)


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


# ---- whole days


def day(
    vehicle: tracks.Vehicle, policy: SamplingPolicy, *, seed: int = 1, speed: bool = True
) -> tuple[Sampler, list[Fix]]:
    sampler = Sampler(policy)
    kept = feed(sampler, tracks.received(vehicle.states, seed=seed, speed=speed))
    assert len(vehicle.states) - 1 <= len(kept) + sum(sampler.dropped.values())
    odo = [fix.odo_m or 0 for fix in kept]
    assert odo == sorted(odo)
    assert all(a.time_ms < b.time_ms for a, b in pairwise(kept))
    return sampler, kept


@pytest.mark.parametrize(("seed", "speed"), [(1, True), (2, True), (1, False)])
def test_a_parked_day(seed: int, speed: bool) -> None:
    vehicle = tracks.parked()
    _, kept = day(vehicle, SamplingPolicy(), seed=seed, speed=speed)
    assert len(kept) < 300
    assert (kept[-1].odo_m or 0) < 100
    assert tracks.largest_error_m(vehicle.states, kept) < 25


@pytest.mark.parametrize("speed", [True, False])
def test_a_commute(speed: bool) -> None:
    vehicle = tracks.commute()
    _, kept = day(vehicle, SamplingPolicy(), seed=2, speed=speed)
    assert len(kept) < 6000
    assert kept[-1].odo_m == pytest.approx(vehicle.driven_m, rel=0.01)
    assert tracks.largest_error_m(vehicle.states, kept) < 60


def test_a_boat_at_anchor_is_parked() -> None:
    _, kept = day(tracks.boat_at_anchor(), SamplingPolicy())
    assert len(kept) < 300


def test_a_walk_and_a_tractor_are_followed() -> None:
    for vehicle in (tracks.walk(), tracks.tractor()):
        _, kept = day(vehicle, SamplingPolicy(interval_s=10, turn_deg=15))
        assert len(kept) < 0.12 * len(vehicle.states)
        assert kept[-1].odo_m == pytest.approx(vehicle.driven_m, rel=0.02)
        assert tracks.largest_error_m(vehicle.states, kept) < 60


def test_restarts_change_next_to_nothing() -> None:
    states = tracks.commute().states[5 * 3600 : 9 * 3600]
    said = list(tracks.received(states, seed=4))
    whole = feed(Sampler(SamplingPolicy()), said)
    draw = random.Random(9)
    cuts = sorted(draw.sample(range(len(said)), 60))
    kept: list[Fix] = []
    for start, end in pairwise([0, *cuts, len(said)]):
        recent: Sequence[Fix] = kept[-1000:][::-1]
        kept += feed(Sampler(SamplingPolicy(), recent), said[start:end])
    assert len(kept) == pytest.approx(len(whole), abs=60)
    assert kept[-1].odo_m == pytest.approx(whole[-1].odo_m, rel=0.01)
    assert all(a.time_ms < b.time_ms for a, b in pairwise(kept))


def test_a_parked_device_is_parked_when_it_starts_again() -> None:
    kept = feed(Sampler(SamplingPolicy()), standing(0, 400))
    sampler = Sampler(SamplingPolicy(), kept[::-1])
    assert sampler.parked
    assert feed(sampler, standing(430, 500)) == []
    # Only the newest row is left after everything was delivered and deleted.
    sampler = Sampler(SamplingPolicy(), kept[-1:])
    assert seconds(feed(sampler, standing(400, 600))) == [400]
    assert sampler.parked


def test_the_metres_go_on_after_a_restart_and_count_the_way_between() -> None:
    first = feed(Sampler(SamplingPolicy()), [at(i, 10 * i, speed_m_s=10) for i in range(100)])
    later = [at(160 + i, 1600 + 10 * i, speed_m_s=10) for i in range(10)]
    kept = feed(Sampler(SamplingPolicy(), first[::-1]), later)
    assert first[-1].odo_m == pytest.approx(990, abs=2)
    assert kept[0].odo_m == pytest.approx(1600, abs=2)


# ---- real receivers


@pytest.mark.parametrize("recording", corpus.recordings(), ids=lambda recording: recording.name)
def test_recordings(recording: corpus.Recording) -> None:
    fixes = corpus.decode(recording.data)
    everything = feed(Sampler(SamplingPolicy(interval_s=0)), fixes)
    assert [fix._replace(odo_m=None, flags=()) for fix in everything] == [
        fix._replace(flags=()) for fix in fixes
    ]
    sampler = Sampler(ALWAYS_MOVING)
    kept = feed(sampler, fixes)
    assert len(kept) + sum(sampler.dropped.values()) == len(fixes)
    steps_ms = [b.time_ms - a.time_ms for a, b in pairwise(fixes)]
    if steps_ms and min(steps_ms) >= 750:
        assert len(kept) == len(fixes)
