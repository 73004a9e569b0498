"""How fast the device moves, and positions that it cannot have reached since the last good one.

How far it can have come is summed up from the speeds that the receiver reports: they are measured
by Doppler shift and do not feel the reflections that put a position aside. A receiver that reports
none has its speed taken from its own plausible steps. Where neither is known, or some seconds are
missing, the bound is a speed that no vehicle on the ground has.

A doubtful position is compared with the last plausible one, so the way back from a jump is no
jump. The bound grows with time, and doubt has an end: a place that lasts is where the receiver is.
"""

from math import hypot
from typing import NamedTuple

from telemetry_agent.gnss.geodesy import Place, noise_m, offset_m, place_of
from telemetry_agent.model import Fix

WALKING_MM_S = 1500
"""Slower, the course is noise."""

_LEAST_M = 15.0
_SPEED_FACTOR = 1.3
_SPEED_MARGIN_M_S = 2.0
_ANY_SPEED_M_S = 100.0
_GAP_S = 2.5  # so long a vehicle keeps about its speed
_DOUBT_S = 30.0
_SMOOTH_S = 3.0


class Step(NamedTuple):
    """One fix, seen from the one before."""

    fix: Fix
    place: Place
    elapsed_s: float | None
    """None: there was none before, or time stepped back."""
    jump: bool
    """It cannot be there."""
    speed_m_s: float | None
    """As reported, or as its own steps show it; None: unknown."""


class Motion:
    """Judges each fix, in the order of arrival.

    Args:
        last: the fix that came before the first, if any.
    """

    def __init__(self, last: Fix | None) -> None:
        self._plausible = last
        self._speed_m_s: float | None = None
        self._reach_m = 0.0  # what can have been covered since the last plausible fix
        self._since_s = 0.0
        self._doubted_s: float | None = None
        self._velocity_m_s: tuple[float, float] | None = None

    def judge(self, fix: Fix, elapsed_s: float | None) -> Step:
        """See it from the fix before; ``elapsed_s`` is None if time stepped back."""
        place = place_of(fix)
        if elapsed_s is None or self._plausible is None:
            self._velocity_m_s = None
            jump = False
        else:
            jump = self._is_jump(self._plausible, fix, elapsed_s)
        if not jump:
            self._plausible, self._doubted_s = fix, None
            self._reach_m = self._since_s = 0.0
        self._speed_m_s = self._speed_of(fix)
        return Step(fix, place, elapsed_s, jump, self._speed_m_s)

    def _is_jump(self, plausible: Fix, fix: Fix, elapsed_s: float) -> bool:
        before_m_s, now_m_s = self._speed_m_s, self._speed_of(fix)
        if before_m_s is None or now_m_s is None or elapsed_s > _GAP_S:
            self._velocity_m_s = None
            self._reach_m += _ANY_SPEED_M_S * elapsed_s
        else:
            fastest_m_s = _SPEED_FACTOR * max(before_m_s, now_m_s) + _SPEED_MARGIN_M_S
            self._reach_m += fastest_m_s * elapsed_s
        self._since_s += elapsed_s
        if self._doubted_s is not None:
            self._doubted_s += elapsed_s
        north_m, east_m = offset_m(place_of(plausible), place_of(fix))
        noise = max(_LEAST_M, noise_m(plausible), noise_m(fix))
        if hypot(north_m, east_m) > self._reach_m + noise:
            if self._doubted_s is None:
                self._doubted_s = 0.0
            if self._doubted_s < _DOUBT_S:
                return True
            self._velocity_m_s = None
        elif self._since_s:
            self._follow(north_m / self._since_s, east_m / self._since_s)
        return False

    def _follow(self, north_m_s: float, east_m_s: float) -> None:
        if self._velocity_m_s is None:
            self._velocity_m_s = north_m_s, east_m_s
            return
        part = min(1.0, self._since_s / _SMOOTH_S)
        north, east = self._velocity_m_s
        self._velocity_m_s = north + part * (north_m_s - north), east + part * (east_m_s - east)

    def _speed_of(self, fix: Fix) -> float | None:
        if fix.speed_mm_s is not None:
            return fix.speed_mm_s / 1000
        return None if self._velocity_m_s is None else hypot(*self._velocity_m_s)
