"""Where a track breaks."""

import pytest
from stored_fixes import HERE, after, stored

from telemetry_agent.export.track import Gaps
from telemetry_agent.model import Fix

MOVING = HERE._replace(speed_mm_s=20_000)
FAR = HERE.lat_e9 + 2_000_000  # 220 m


def breaks(before: Fix, end: Fix, gaps: Gaps = Gaps()) -> bool:  # noqa: B008 - immutable
    return gaps.between(stored(before).record, stored(end).record)


@pytest.mark.parametrize("seconds", [0, 0.1, 1, 59, 60])
def test_fixes_of_a_minute_belong_together(seconds: float) -> None:
    assert not breaks(MOVING, after(seconds, MOVING, lat_e9=FAR))


@pytest.mark.parametrize("seconds", [-3600, -0.1, 60.001, 600, 86400])
def test_a_longer_silence_and_a_step_back_in_time_break(seconds: float) -> None:
    assert breaks(MOVING, after(seconds, MOVING, lat_e9=FAR))


def test_a_restart_and_another_name_break() -> None:
    gaps = Gaps()
    here = stored(HERE).record
    assert gaps.between(here, stored(after(1), stream="b" * 16).record)
    assert gaps.between(here, stored(after(1), device="van-08").record)


def test_a_jump_stands_alone_and_a_lasting_one_keeps_together() -> None:
    jump = after(1, lat_e9=FAR, flags=("jump",))
    assert breaks(HERE, jump)
    assert not breaks(jump, after(1, jump))
    assert breaks(jump, after(2))
    assert not breaks(HERE, after(1, flags=("time", "datum")))


def test_heartbeats_of_a_parked_device_belong_together() -> None:
    assert not breaks(HERE, after(900))
    assert not breaks(HERE._replace(speed_mm_s=200), after(905, lat_e9=HERE.lat_e9 + 500_000))


@pytest.mark.parametrize(
    "end", [after(900, lat_e9=FAR), after(900, speed_mm_s=8000), after(961), after(-900)]
)
def test_it_did_not_stand_still_if_anything_says_so(end: Fix) -> None:
    assert breaks(HERE, end)


def test_gaps_follow_from_sampling() -> None:
    assert Gaps.of_sampling(0, 900) == Gaps.of_sampling(1, 900) == Gaps()
    assert Gaps.of_sampling(300, 7200) == Gaps(900, 8100)
