"""Distances on WGS 84, and how far a standing receiver may seem to move."""

from math import cos, hypot, radians, sin, sqrt

from telemetry_agent.model import Fix

_A_M = 6_378_137.0
_E2 = 0.0066943799901413165
_TURN_E9 = 360_000_000_000
_NOISE_SIGMAS = 3
_NOISE_M_PER_HDOP = 8.0
_NOISE_BY_HDOP_AT_MOST_M = 100.0

Place = tuple[float, float]
"""Latitude and longitude in 1e-9 degrees."""


class PoorFix(Fix):
    """A fix whose satellites give no useful position (HDOP 99.99).

    It has no HDOP and equals the fix without one; only sampling looks at its type.
    """

    __slots__ = ()


def place_of(fix: Fix) -> Place:
    """The place of a fix."""
    return fix.lat_e9, fix.lon_e9


def offset_e9(start: Place, end: Place) -> Place:
    """How far north and east ``end`` lies, in 1e-9 degrees, the short way round the globe."""
    east_e9 = (end[1] - start[1] + _TURN_E9 // 2) % _TURN_E9 - _TURN_E9 // 2
    return end[0] - start[0], east_e9


def offset_m(start: Place, end: Place) -> tuple[float, float]:
    """How far north and east ``end`` lies, in metres.

    From the curvature of the ellipsoid at the latitude between them: correct to a millionth up to
    10 km and to a percent up to 1,000 km, except near the poles.
    """
    north_e9, east_e9 = offset_e9(start, end)
    latitude = radians((start[0] + end[0]) / 2e9)
    slimness = 1 - _E2 * sin(latitude) ** 2
    normal_m = _A_M / sqrt(slimness)
    meridian_m = normal_m * (1 - _E2) / slimness
    return radians(north_e9 / 1e9) * meridian_m, radians(east_e9 / 1e9) * normal_m * cos(latitude)


def distance_m(start: Place, end: Place) -> float:
    """Metres between two places; see ``offset_m``."""
    return hypot(*offset_m(start, end))


def noise_m(fix: Fix) -> float:
    """The error in metres that a fix reports; 0: it reports none.

    From its dilution at most 100 m: a larger dilution does not show how large the error is.
    """
    by_error = _NOISE_SIGMAS * (fix.err_h_mm or 0) / 1000
    by_dilution = _NOISE_M_PER_HDOP * (fix.hdop_e2 or 0) / 100
    if isinstance(fix, PoorFix) or by_dilution > _NOISE_BY_HDOP_AT_MOST_M:
        by_dilution = _NOISE_BY_HDOP_AT_MOST_M
    return max(by_error, by_dilution)
