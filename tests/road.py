"""Fixes on a straight road to the east, and a sampler's choice of them."""

from collections.abc import Iterable, Sequence

from tracks import START_MS, place

from telemetry_agent.gnss.geodesy import PoorFix
from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy
from telemetry_agent.model import Fix

ALWAYS_MOVING = SamplingPolicy(parked_radius_m=0)


def at(
    seconds: float, east_m: float = 0, *, speed_m_s: float | None = None, course_deg: float = 90
) -> Fix:
    lat_e9, lon_e9 = place(east_m, 0)
    return Fix(
        START_MS + round(seconds * 1000),
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
    return [(fix.time_ms - START_MS) / 1000 for fix in fixes]


def poor(fix: Fix) -> Fix:
    """The fix with the HDOP 99.99 of a receiver."""
    return PoorFix._make(fix._replace(hdop_e2=None))


def parked(policy: SamplingPolicy | None = None) -> Sampler:
    """A sampler at second 200 of a vehicle that has been parked since second 0."""
    sampler = Sampler(policy or SamplingPolicy())
    feed(sampler, standing(0, 201))
    assert sampler.parking.parked
    return sampler
