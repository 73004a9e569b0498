"""Whether the device is parked: it stays inside a circle for a while.

The radius is the configured one, or the noise of the current fix if that is larger. The centre is
the mean of the fixes since the circle was entered. It is fixed once the device is parked, so that a
device that is carried away slowly leaves it too. Drift does not end parking: that takes three fixes
in a row that are outside and move, or one that is outside twice as far. A speed above walking
speed, which the receiver measures by itself, ends parking anywhere. A jump is neither inside nor
outside.
"""

from collections.abc import Iterable

from telemetry_agent.gnss.geodesy import Place, distance_m, noise_m, offset_e9, place_of
from telemetry_agent.gnss.motion import WALKING_MM_S, Step
from telemetry_agent.model import Fix

_FIXES_TO_LEAVE = 3
_LEAVING_M_S = 1.0


class Parking:
    """Follows one device."""

    def __init__(self) -> None:
        self._radius_m = self._after_s = 0.0
        self.parked = False
        self.place: Place = (0, 0)
        """The centre of the circle."""
        self.inside = False
        """Whether the last fix was in the circle."""
        self._fixes = 0
        self._stayed_s = 0.0
        self._leaving = 0

    def use(self, radius_m: float, after_s: float) -> None:
        """Take a device that stays inside for so long as parked; radius 0: none ever is."""
        self._radius_m, self._after_s = radius_m, after_s

    def follow(self, step: Step) -> None:
        """Add one fix."""
        if not self._radius_m:
            self.parked = False
            return
        drives = (step.fix.speed_mm_s or 0) > WALKING_MM_S
        limit_m = max(self._radius_m, noise_m(step.fix))
        way_m = distance_m(self.place, step.place)
        self.inside = bool(self._fixes) and way_m <= limit_m and not step.jump
        if self.parked:
            self._follow_parked(step, way_m, limit_m, drives=drives)
            return
        self._stayed_s += step.elapsed_s or 0.0
        if step.jump:
            return
        if self.inside:
            self._stay(step.place)
            self.parked = self.parked and not drives
        else:
            self._enter(step.place)

    def _follow_parked(self, step: Step, way_m: float, limit_m: float, *, drives: bool) -> None:
        """End parking if the device has left."""
        if drives:  # also in a jump: the speed does not come from the position
            self.inside = False
            self._enter(self.place if step.jump else step.place)
        elif self.inside:
            self._leaving = 0
        elif not step.jump:
            moves = step.speed_m_s is None or step.speed_m_s > _LEAVING_M_S
            self._leaving = self._leaving + 1 if moves else 0
            if self._leaving == _FIXES_TO_LEAVE or way_m > 2 * limit_m:
                self._enter(step.place)

    def resume(self, recent: Iterable[Fix]) -> None:
        """Continue from the recorded fixes, the newest first.

        A device that was parked when the agent stopped is parked when it starts again.
        """
        newest_ms: int | None = None
        for fix in recent:
            if "jump" in fix.flags:
                continue
            if newest_ms is None:
                newest_ms = fix.time_ms
                self._enter(place_of(fix))
                continue
            stayed_s = (newest_ms - fix.time_ms) / 1000
            limit_m = max(self._radius_m, noise_m(fix))
            if distance_m(self.place, place_of(fix)) > limit_m or stayed_s < self._stayed_s:
                return  # it came from elsewhere, or time stepped back
            self._stayed_s = stayed_s
            self._stay(place_of(fix))

    def _enter(self, place: Place) -> None:
        """Begin a new circle."""
        self.place, self._fixes, self._stayed_s = place, 1, 0.0
        self.parked, self._leaving = False, 0

    def _stay(self, place: Place) -> None:
        self._fixes += 1
        north_e9, east_e9 = offset_e9(self.place, place)
        lat_e9, lon_e9 = self.place
        self.place = (lat_e9 + north_e9 / self._fixes, lon_e9 + east_e9 / self._fixes)
        self.parked = self._stayed_s >= self._after_s
