"""Positions that the receiver cannot have reached since the last plausible one.

How far it can have come is summed up from the speeds that it reports itself: these are measured
by Doppler shift and do not feel the reflections that shift a position. Where no speed is known,
or some seconds are missing, the bound is a speed that no vehicle on the ground has.

A doubtful position is compared with the last plausible one, so the way back from a jump is no
jump. The bound grows with time, and doubt has an end: a place that lasts is where the receiver is.
"""

from telemetry_agent.gnss.geodesy import distance_m, noise_m, place_of
from telemetry_agent.model import Fix

_LEAST_M = 15.0
_SPEED_FACTOR = 1.3
_SPEED_MARGIN_M_S = 2.0
_BLIND_M_S = 100.0
_GAP_S = 2.5  # so long a vehicle keeps about the speed that it says
_DOUBT_S = 30.0


class Jumps:
    """Judges each fix, in the order of arrival.

    Args:
        last: the fix that came before the first, if any.
    """

    def __init__(self, last: Fix | None) -> None:
        self._before = self._plausible = last
        self._reach_m = 0.0  # from the last plausible fix on
        self._doubted_s: float | None = None

    def judge(self, fix: Fix, step_s: float | None) -> bool:
        """Whether this fix is a jump; ``step_s`` since the last one, None if time stepped back."""
        before, self._before = self._before, fix
        plausible = self._plausible
        if before is not None and plausible is not None and step_s is not None:
            self._reach_m += _reach_m(before, fix, step_s)
            if self._doubted_s is not None:
                self._doubted_s += step_s
            noise = max(_LEAST_M, noise_m(plausible), noise_m(fix))
            way_m = distance_m(place_of(plausible), place_of(fix))
            if way_m > self._reach_m + noise and (self._doubted_s or 0.0) < _DOUBT_S:
                if self._doubted_s is None:
                    self._doubted_s = 0.0
                return True
        self._plausible, self._reach_m, self._doubted_s = fix, 0.0, None
        return False


def _reach_m(before: Fix, fix: Fix, step_s: float) -> float:
    if before.speed_mm_s is None or fix.speed_mm_s is None or step_s > _GAP_S:
        return _BLIND_M_S * step_s
    fastest_m_s = max(before.speed_mm_s, fix.speed_mm_s) / 1000
    return (_SPEED_FACTOR * fastest_m_s + _SPEED_MARGIN_M_S) * step_s
