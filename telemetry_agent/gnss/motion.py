"""How the device moves: positions that it cannot have reached, and the metres that it drove.

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

from math import hypot, inf
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
_MOVING_MM_S = 500
_CHORD_MOVING_M = 10.0
_CHORD_STANDING_M = 25.0


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
        # How far from the first position the next ones must be to show that it is wrong.
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
        else:
            self._extend_reach(fix, elapsed_s)
            if self._is_out_of_reach(self._plausible, fix):
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
        self._speed_m_s = self._speed_of(fix)
        return Step(fix, place, elapsed_s, jump, moved, self._speed_m_s)

    def _extend_reach(self, fix: Fix, elapsed_s: float) -> None:
        """Add one step: how far the device can have come, and how long it is in doubt."""
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

    def _is_out_of_reach(self, plausible: Fix, fix: Fix) -> bool:
        """Whether the device cannot be there. If it can, its velocity is known better."""
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


class Odometer:
    """Metres driven, from positions with noise.

    The sum of distances from fix to fix would be a sum of noise: a standing receiver at 1 Hz
    "drives" some hundred kilometres a day. So the distance is summed in chords. A chord begins
    where the last one ended and ends at the first fix that is clearly elsewhere: 10 m away if the
    receiver's speed shows that it moves, 25 m if it shows that it stands or is missing, and more if
    the fix reports a larger error. A corner within a chord costs centimetres, and noise across it
    adds only its square.

    The value includes the open chord while the device moves, so that a power cut loses no distance.
    It never falls.

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


def _noise_m(one: Fix, other: Fix) -> float:
    return max(_LEAST_M, noise_m(one), noise_m(other))


def _apart_m(one: Fix, other: Fix) -> float:
    """The least distance between two fixes, given their noise."""
    return distance_m(place_of(one), place_of(other)) - _noise_m(one, other)
