"""Trips: the drives between two times of parking. Pure: fixes in, trips out.

Theory of operation. The *anchor* is the first fix of a place where the device stays; a fix farther
than the radius from it is a departure, and becomes the next anchor. While the device drives, the
anchor moves with it. When the device has stayed long enough to be parked, the trip ended at its
arrival: the sums at the anchor are kept, and later ones dropped.

The distance is the odometer's, which excludes parked drift; for fixes without it (an older
recording) it is the distance from fix to fix. Jumps and fixes at 0, 0 are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from telemetry_agent.gnss.geodesy import distance_m, place_of
from telemetry_agent.model import Fix, Record

_STANDING_M_S = 0.5
_STOP_S = 60.0
_FASTEST_M_S = 340.0  # a higher speed between two fixes is an error


class ParkingRule(NamedTuple):
    """A trip ends when the device stays within the radius for so long."""

    radius_m: float = 25.0
    after_s: float = 180.0


@dataclass(frozen=True, slots=True)
class Trip:
    """From a departure to parking, or to the last fix."""

    first_row: int
    last_row: int
    start_ms: int
    end_ms: int
    distance_m: float = 0.0
    moving_s: float = 0.0
    standing_s: float = 0.0
    highest_m_s: float = 0.0
    stops: int = 0
    """How often the device stood for a minute or more, and then continued."""


class Trips:
    """Finds trips. Feed it every fix once, in the order of recording.

    Args:
        breaks: whether the second of two neighbours begins a segment of the track.
        parking: what ends a trip.
    """

    def __init__(self, breaks: Callable[[Record, Record], bool], parking: ParkingRule) -> None:
        self.done: list[Trip] = []
        self.current: Trip | None = None
        """The trip that has not ended yet."""
        self._breaks = breaks
        self._parking = parking
        self._shortest_m = 2 * parking.radius_m  # less is drift
        self._at_anchor: Trip | None = None
        self._anchor: Fix | None = None
        self._before: tuple[int, Record] | None = None

    def feed(self, row: int, record: Record) -> None:
        """Add a fix."""
        fix = record.fix
        if is_glitch(fix):
            return
        before, self._before = self._before, (row, record)
        if before is None or self._anchor is None:
            self._anchor = fix
            return
        last_row, last = before[0], before[1].fix
        elapsed_s = (fix.time_ms - last.time_ms) / 1000
        goes_on = 0 <= elapsed_s < self._parking.after_s
        if not goes_on and self._breaks(before[1], record):
            self._end_at_anchor_or(self.current)
            self._anchor = fix
            return
        if self.current is not None:
            self.current = _longer(self.current, last, row, fix, elapsed_s)
        stayed_s = (fix.time_ms - self._anchor.time_ms) / 1000
        if distance_m(place_of(self._anchor), place_of(fix)) <= self._parking.radius_m:
            if stayed_s >= self._parking.after_s:
                self._end_at_anchor_or(None)
            return
        if self.current is None:
            began = Trip(last_row, last_row, last.time_ms, last.time_ms)
            self.current = _longer(began, last, row, fix, elapsed_s)
        elif last.time_ms - self._anchor.time_ms >= 1000 * _STOP_S:
            self.current = replace(self.current, stops=self.current.stops + 1)
        self._anchor, self._at_anchor = fix, self.current

    def all(self) -> list[Trip]:
        """The oldest first."""
        return [*self.done, self.current] if self.current else list(self.done)

    def forget_before(self, row: int) -> None:
        """Drop the trips that ended before this row."""
        self.done = [trip for trip in self.done if trip.last_row >= row]

    def _end_at_anchor_or(self, otherwise: Trip | None) -> None:
        ended = otherwise or self._at_anchor
        if self.current is not None and ended is not None and ended.distance_m > self._shortest_m:
            self.done.append(ended)
        self.current = self._at_anchor = None


def _longer(trip: Trip, last: Fix, row: int, fix: Fix, elapsed_s: float) -> Trip:
    """The trip with one more fix; where time steps back, ``breaks`` has ended it before."""
    way_m = distance_m(place_of(last), place_of(fix))
    if last.odo_m is not None and fix.odo_m is not None and fix.odo_m >= last.odo_m:
        way_m = float(fix.odo_m - last.odo_m)
    way_m_s = way_m / elapsed_s if elapsed_s else 0.0
    moves = way_m_s >= _STANDING_M_S
    speed_m_s = way_m_s if fix.speed_mm_s is None else fix.speed_mm_s / 1000
    return replace(
        trip,
        last_row=row,
        end_ms=fix.time_ms,
        distance_m=trip.distance_m + way_m,
        moving_s=trip.moving_s + elapsed_s * moves,
        standing_s=trip.standing_s + elapsed_s * (not moves),
        highest_m_s=max(trip.highest_m_s, speed_m_s if speed_m_s < _FASTEST_M_S else 0.0),
    )


def is_glitch(fix: Fix) -> bool:
    """Whether the device was not there: a jump, or 0, 0."""
    return "jump" in fix.flags or not (fix.lat_e9 or fix.lon_e9)
