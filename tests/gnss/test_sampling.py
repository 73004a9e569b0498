import random
from collections.abc import Callable, Sequence
from itertools import pairwise

import corpus
import pytest
import tracks
from once import FURTHER
from road import ALWAYS_MOVING, at, feed, parked, poor, seconds, standing

from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy
from telemetry_agent.model import Fix, Quality

# ---- while the device moves


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
    assert sampler.parking.parked


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


def test_no_geometry_is_the_worst_hdop() -> None:
    sampler = Sampler(SamplingPolicy(interval_s=0, max_hdop=5))
    assert feed(sampler, [poor(at(i, 10 * i, speed_m_s=10)) for i in range(4)]) == []
    assert sampler.dropped == {"hdop": 4}
    everything = feed(Sampler(SamplingPolicy(interval_s=0)), [poor(at(0))])
    assert [fix.hdop_e2 for fix in everything] == [None]


@pytest.mark.parametrize("say", [poor, lambda fix: fix._replace(hdop_e2=8000)])
def test_the_noise_that_a_bad_hdop_is_allowed_ends_at_100_m(say: Callable[[Fix], Fix]) -> None:
    # A drive is followed as usual.
    sampler = Sampler(ALWAYS_MOVING)
    kept = feed(sampler, [say(at(i, 10 * i, speed_m_s=10)) for i in range(200)])
    assert kept[-1].odo_m == pytest.approx(1990, abs=101)
    assert not any("jump" in fix.flags for fix in kept)
    # A jump of more than 100 m is flagged.
    assert feed(sampler, [say(at(200, 2150, speed_m_s=10))])[0].flags == ("jump",)
    # Parking ends 100 m away.
    sampler = parked()
    assert feed(sampler, [say(at(201 + i, 99, speed_m_s=1.2)) for i in range(20)]) == []
    assert feed(sampler, [say(at(221 + i, 101 + i, speed_m_s=1.2)) for i in range(20)])
    assert not sampler.parking.parked


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


@pytest.mark.parametrize(
    ("seed", "speed"),
    [(1, True), pytest.param(2, True, marks=FURTHER), pytest.param(1, False, marks=FURTHER)],
)
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
    assert sampler.parking.parked
    assert feed(sampler, standing(430, 500)) == []
    # After everything was delivered and deleted, only the newest row remains.
    sampler = Sampler(SamplingPolicy(), kept[-1:])
    assert seconds(feed(sampler, standing(400, 600))) == [400]
    assert sampler.parking.parked


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
