"""How fast the device moves, and positions that it cannot have reached since the last good one.

How far it can have come is summed up from the speeds that the receiver reports: they are measured
by Doppler shift and do not feel the reflections that put a position aside. A receiver that reports
none has its speed taken from its own plausible steps. Where neither is known, or some seconds are
missing, the bound is a speed that no vehicle on the ground has.

A doubtful position is compared with the last plausible one, so the way back from a jump is no
jump. The bound grows with time, and doubt has an end: a place that lasts is where the receiver is.

What came first, at the start or after an outage, may be the wrong one: (0, 0), or where the
receiver was when it was switched off. So in the first minute, and at (0, 0) always, three doubtful
positions in a row that fit each other are enough.
"""

from math import hypot
from typing import NamedTuple

from telemetry_agent.gnss.geodesy import Place, distance_m, noise_m, offset_m, place_of
from telemetry_agent.model import Fix

WALKING_MM_S = 1500
"""Slower, the course is noise."""

_LEAST_M = 15.0
_SPEED_FACTOR = 1.3
_SPEED_MARGIN_M_S = 2.0
_ANY_SPEED_M_S = 100.0
_GAP_S = 2.5  # so long a vehicle keeps about its speed
_DOUBT_S = 30.0
_FIRST_S = 60.0
_OUTAGE_S = 10.0  # what comes behind it is a first position again,
_FAR_M = 500.0  # but is wrong only where the next ones are farther away than reflections put them
_FIXES_TO_BELIEVE = 3
_SMOOTH_S = 3.0


class Step(NamedTuple):
    """One fix, seen from the one before."""

    fix: Fix
    place: Place
    elapsed_s: float | None
    """None: there was none before, or time stepped back."""
    jump: bool
    """It cannot be there."""
    moved: bool
    """It is there in spite of that: the places before were wrong, or are no longer believed."""
    speed_m_s: float | None
    """As reported, or as its own steps show it; None: unknown."""


class Motion:
    """Judges each fix, in the order of arrival.

    Args:
        last: the fix that came before the first, if any.
    """

    def __init__(self, last: Fix | None) -> None:
        self._plausible = last
        # For how long the plausible ones followed each other; what was recorded did so.
        self._believed_s = 0.0 if last is None else _FIRST_S
        self._far_m = 0.0 if last is None else _FAR_M
        self._doubtful: Fix | None = None
        self._fitting = 0  # doubtful ones in a row that fit each other
        self._speed_m_s: float | None = None
        self._reach_m = 0.0  # what can have been covered since the last plausible fix
        self._since_s = 0.0
        self._doubted_s: float | None = None
        self._velocity_m_s: tuple[float, float] | None = None

    def judge(self, fix: Fix, elapsed_s: float | None) -> Step:
        """See it from the fix before; ``elapsed_s`` is None if time stepped back."""
        place = place_of(fix)
        jump = moved = False
        if elapsed_s is None or self._plausible is None:
            self._velocity_m_s = None
        elif self._is_out_of_reach(self._plausible, fix, elapsed_s):
            moved = self._is_believed(self._plausible, fix)
            jump = not moved
        if moved:
            self._velocity_m_s, self._believed_s, self._far_m = None, 0.0, 0.0
        elif self._plausible and (elapsed_s is None or elapsed_s > _OUTAGE_S):
            self._believed_s, self._far_m = 0.0, _FAR_M
        if jump:
            self._doubtful = fix
        else:
            self._believed_s += min(elapsed_s or 0.0, _OUTAGE_S)
            self._plausible, self._doubtful, self._doubted_s = fix, None, None
            self._reach_m = self._since_s = 0.0
            self._fitting = 0
        self._speed_m_s = self._speed_of(fix)
        return Step(fix, place, elapsed_s, jump, moved, self._speed_m_s)

    def _is_out_of_reach(self, plausible: Fix, fix: Fix, elapsed_s: float) -> bool:
        before_m_s, now_m_s = self._speed_m_s, self._speed_of(fix)
        if before_m_s is None or now_m_s is None or elapsed_s > _GAP_S:
            self._velocity_m_s = None
            step_m = _ANY_SPEED_M_S * elapsed_s
        else:
            fastest_m_s = _SPEED_FACTOR * max(before_m_s, now_m_s) + _SPEED_MARGIN_M_S
            step_m = fastest_m_s * elapsed_s
        self._reach_m += step_m
        self._since_s += elapsed_s
        self._doubted_s = 0.0 if self._doubted_s is None else self._doubted_s + elapsed_s
        fits = self._doubtful is not None and _apart_m(self._doubtful, fix) <= step_m
        self._fitting = self._fitting + 1 if fits else 1
        north_m, east_m = offset_m(place_of(plausible), place_of(fix))
        if hypot(north_m, east_m) > self._reach_m + _noise_m(plausible, fix):
            return True
        if self._since_s:
            self._follow(north_m / self._since_s, east_m / self._since_s)
        return False

    def _is_believed(self, plausible: Fix, fix: Fix) -> bool:
        """Whether the fix is where it says, although that is out of reach."""
        at_first = self._believed_s < _FIRST_S or place_of(plausible) == (0, 0)
        far = at_first and _apart_m(plausible, fix) >= self._far_m
        if far and self._fitting >= _FIXES_TO_BELIEVE:
            return True
        return self._doubted_s is not None and self._doubted_s >= _DOUBT_S

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


def _noise_m(one: Fix, other: Fix) -> float:
    return max(_LEAST_M, noise_m(one), noise_m(other))


def _apart_m(one: Fix, other: Fix) -> float:
    """How far they are apart at least."""
    return distance_m(place_of(one), place_of(other)) - _noise_m(one, other)
