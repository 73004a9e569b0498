"""Whether the device is parked: it stays inside a circle for a while.

The circle is as large as the user said, or as the noise of the fix at hand where that is more.
Its centre is the mean of the fixes since it was entered, and stays where it is once the device is
parked, so that a device that is carried away slowly leaves it all the same. Drift does not end
parking: it takes three fixes in a row that are outside and say that they move, or one that is
outside twice as far. A jump is neither inside nor outside.
"""

from collections.abc import Iterable

from telemetry_agent.gnss.geodesy import Place, distance_m, noise_m, offset_e9, place_of
from telemetry_agent.model import Fix

_FIXES_TO_LEAVE = 3
_LEAVING_MM_S = 1000


class Parking:
    """Follows one device.

    Args:
        radius_m: of the circle; 0: it is never parked.
        after_s: how long it must stay inside.
        recent: the fixes that were recorded last, the newest first: a device that was parked when
            the agent stopped is parked when it starts again.
    """

    def __init__(self, radius_m: float, after_s: float, recent: Iterable[Fix]) -> None:
        self.parked = False
        self.place: Place = (0, 0)
        """The centre of the circle."""
        self.inside = False
        """Whether the last fix was in it."""
        self._radius_m = radius_m
        self._after_s = after_s
        self._fixes = 0
        self._stayed_s = 0.0
        self._leaving = 0
        self._resume(recent)

    def follow(self, fix: Fix, step_s: float | None, *, jump: bool) -> None:
        """Take in one fix; ``step_s`` since the one before, None if time stepped back."""
        if not self._radius_m:
            return
        if not self.parked:
            self._stayed_s += step_s or 0.0
        if jump:
            self.inside = False
            return
        limit_m, way_m = self._limit_m(fix), distance_m(self.place, place_of(fix))
        self.inside = bool(self._fixes) and way_m <= limit_m
        if self.parked and self.inside:
            self._leaving = 0
        elif self.parked:
            moves = fix.speed_mm_s is None or fix.speed_mm_s > _LEAVING_MM_S
            self._leaving = self._leaving + 1 if moves else 0
            if self._leaving == _FIXES_TO_LEAVE or way_m > 2 * limit_m:
                self._enter(fix)
        elif self.inside:
            self._stay(fix)
        else:
            self._enter(fix)

    def _limit_m(self, fix: Fix) -> float:
        return max(self._radius_m, noise_m(fix))

    def _enter(self, fix: Fix) -> None:
        """A new circle."""
        self.place, self._fixes, self._stayed_s = place_of(fix), 1, 0.0
        self.parked, self._leaving = False, 0

    def _stay(self, fix: Fix) -> None:
        self._fixes += 1
        north_e9, east_e9 = offset_e9(self.place, place_of(fix))
        lat_e9, lon_e9 = self.place
        self.place = (lat_e9 + north_e9 / self._fixes, lon_e9 + east_e9 / self._fixes)
        self.parked = self._stayed_s >= self._after_s

    def _resume(self, recent: Iterable[Fix]) -> None:
        """Enter at the newest fix, then go back in time as long as the device was there."""
        newest_ms: int | None = None
        for fix in recent:
            if not self._radius_m or "jump" in fix.flags:
                continue
            if newest_ms is None:
                newest_ms = fix.time_ms
                self._enter(fix)
                continue
            stayed_s = (newest_ms - fix.time_ms) / 1000
            away = distance_m(self.place, place_of(fix)) > self._limit_m(fix)
            if away or stayed_s < self._stayed_s:
                return
            self._stayed_s = stayed_s
            self._stay(fix)
