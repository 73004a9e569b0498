"""Metres driven, from positions with noise.

The sum of distances from fix to fix would be a sum of noise: a standing receiver at 1 Hz "drives"
some hundred kilometres a day. So the distance is summed in chords. A chord begins where the last
one ended and ends at the first fix that is clearly elsewhere: 10 m away if the receiver's speed
shows that it moves, 25 m if it shows that it stands or is missing, and more if the fix reports a
larger error. A corner within a chord costs centimetres, and noise across it adds only its square.

The value includes the open chord while the device moves, so that a power cut loses no distance. It
never falls.
"""

from math import inf

from telemetry_agent.gnss.geodesy import Place, distance_m, noise_m, place_of
from telemetry_agent.gnss.motion import Step
from telemetry_agent.model import Fix

_MOVING_MM_S = 500
_CHORD_MOVING_M = 10.0
_CHORD_STANDING_M = 25.0


class Odometer:
    """Sums up the distance.

    Args:
        last: the fix that was recorded last, if any: continues from its place and its metres.
    """

    def __init__(self, last: Fix | None) -> None:
        self._whole_m = 0.0 if last is None else float(last.odo_m or 0)
        self._shown_m = self._whole_m
        self._from = None if last is None else place_of(last)
        self._open_m = 0.0
        self._bridge_m: float | None = None  # the most that can have been driven since a jump

    @property
    def odo_m(self) -> int:
        """Metres driven."""
        return round(self._shown_m)

    def drive(self, step: Step) -> None:
        """Add one fix.

        The distance across a jump counts no more than the speed allows, and nothing if the places
        before were wrong and the speed is unknown.
        """
        driven_m = inf if step.speed_m_s is None else step.speed_m_s * (step.elapsed_s or 0.0)
        if step.jump:
            self._bridge_m = driven_m + (self._open_m if self._bridge_m is None else self._bridge_m)
            return
        if self._from is None:
            self._from = step.place
        way_m = distance_m(self._from, step.place)
        reported_mm_s = step.fix.speed_mm_s
        moves = reported_mm_s is not None and reported_mm_s >= _MOVING_MM_S
        chord_m = max(_CHORD_MOVING_M if moves else _CHORD_STANDING_M, noise_m(step.fix))
        if step.moved:
            most_m = driven_m + (self._bridge_m or 0.0)
            self._end_chord(step.place, 0.0 if most_m == inf else min(way_m, most_m))
        elif self._bridge_m is not None:
            self._end_chord(step.place, min(way_m, self._bridge_m + driven_m))
        elif way_m >= chord_m:
            self._end_chord(step.place, way_m)
        else:
            self._open_m = way_m
            if moves:
                self._shown_m = max(self._shown_m, self._whole_m + way_m)

    def park(self, place: Place) -> None:
        """End the chord at the place where the device is parked; the next begins there."""
        if self._from is not None and self._bridge_m is None:
            self._whole_m += distance_m(self._from, place)
        self._end_chord(place, 0.0)

    def _end_chord(self, place: Place, way_m: float) -> None:
        self._whole_m += way_m
        self._shown_m = max(self._shown_m, self._whole_m)
        self._from, self._open_m, self._bridge_m = place, 0.0, None
