"""How fast the device moves, and positions that it cannot have reached since the last good one.

The distance that it can have covered is the sum of the speeds that the receiver reports: they are
measured by Doppler shift, which reflections do not disturb as they disturb positions. If a receiver
reports no speed, its plausible steps give one. If neither is known, or seconds are missing, the
bound is a speed that no vehicle on the ground has.

A doubtful position is compared with the last plausible one, so the return from a jump is not a
jump. The bound grows with time, and after 30 s a doubtful place is believed.

The first position, at the start or after an outage, may be the wrong one: (0, 0), or the place
where the receiver was switched off. So in the first minute, and at (0, 0) always, three doubtful
positions in a row that fit each other are enough.
"""

from math import hypot
from typing import NamedTuple

from telemetry_agent.gnss.geodesy import Place, distance_m, noise_m, offset_m, place_of
from telemetry_agent.model import Fix

WALKING_MM_S = 1500
"""Below this speed the course is noise."""

_LEAST_M = 15.0
_SPEED_FACTOR = 1.3
_SPEED_MARGIN_M_S = 2.0
_ANY_SPEED_M_S = 100.0
_GAP_S = 2.5  # a vehicle keeps its speed, more or less, for this long
_DOUBT_S = 30.0
_FIRST_S = 60.0
_OUTAGE_S = 10.0  # the position after it is a first one again;
_FAR_M = 500.0  # it is wrong only if the next ones are farther away than reflections explain
_FIXES_TO_BELIEVE = 3
_SMOOTH_S = 3.0


class Step(NamedTuple):
    """One fix, compared with the one before."""

    fix: Fix
    place: Place
    elapsed_s: float | None
    """None: it is the first, or time stepped back."""
    jump: bool
    """The device cannot be there."""
    moved: bool
    """The device is there although it could not reach it: the places before were wrong."""
    speed_m_s: float | None
    """As reported, or from its own steps; None: unknown."""


class Motion:
    """Judges each fix, in the order of arrival.

    Args:
        last: the fix that came before the first, if any.
    """

    def __init__(self, last: Fix | None) -> None:
        self._plausible = last
        # How long plausible fixes followed each other; recorded fixes did.
        self._believed_s = 0.0 if last is None else _FIRST_S
        self._far_m = 0.0 if last is None else _FAR_M
        self._doubtful: Fix | None = None
        self._fitting = 0  # doubtful ones in a row that fit each other
        self._speed_m_s: float | None = None
        self._reach_m = 0.0  # the longest possible way since the last plausible fix
        self._since_s = 0.0
        self._doubted_s: float | None = None
        self._velocity_m_s: tuple[float, float] | None = None

    def judge(self, fix: Fix, elapsed_s: float | None) -> Step:
        """Compare a fix with the one before; ``elapsed_s`` is None if time stepped back."""
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
            self._velocity_m_s = None  # it may have changed since
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
            self._smooth(north_m / self._since_s, east_m / self._since_s)
        return False

    def _is_believed(self, plausible: Fix, fix: Fix) -> bool:
        """Whether a place that is out of reach is correct."""
        at_first = self._believed_s < _FIRST_S or place_of(plausible) == (0, 0)
        far = at_first and _apart_m(plausible, fix) >= self._far_m
        if far and self._fitting >= _FIXES_TO_BELIEVE:
            return True
        return self._doubted_s is not None and self._doubted_s >= _DOUBT_S

    def _smooth(self, north_m_s: float, east_m_s: float) -> None:
        """Move the velocity towards that of the last step, which has noise."""
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
    """The least distance between two fixes, given their noise."""
    return distance_m(place_of(one), place_of(other)) - _noise_m(one, other)
