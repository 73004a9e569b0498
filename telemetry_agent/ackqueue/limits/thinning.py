"""Which fixes of a track can go so that its shape stays. Pure.

A fix goes if the straight way between its neighbours that stay, driven at constant speed, passes
its place at its time within a tolerance. So a turn stays, and so do a stop and every change of
speed: the position at any time can be computed within the tolerance. The ends of a stretch stay
too: where the stream, the device or the direction of time changes, and where nothing was recorded
for a while.

Both limits double with each level, so that any track becomes as short as need be, evenly: what is
left of a month is a month, seen from further away.

The method is Douglas and Peucker's, with the distance of Meratnia and de By (2004), which takes
time into account.
"""

import math
from collections.abc import Sequence

from telemetry_agent.ackqueue.file.rows import LAT_E9, LON_E9, SEQ, STREAM, TIME_MS, Row

COARSEST = 22
"""At this level nothing but the ends of stretches is left on Earth."""

_FINEST_M = 1.0  # below what a receiver can tell
_FINEST_PAUSE_MS = 60_000
_M_PER_E9 = 40_008_000 / 360e9
_TURN_E9 = 360 * 10**9
_DEVICE = 1

_Point = tuple[int, int, int, float]
"""Time, latitude, longitude, and how much shorter than one of latitude a degree of longitude is."""


def thin(rows: Sequence[Row], level: int) -> list[Row]:
    """Those that stay; ``rows`` are sound ones, in the order of recording."""
    pause_ms = _FINEST_PAUSE_MS << level
    tolerance = _FINEST_M * 2**level / _M_PER_E9
    points = _points(rows)
    kept: list[Row] = []
    first = 0
    for place in range(1, len(rows) + 1):
        if place == len(rows) or _breaks_off(rows[place - 1], rows[place], pause_ms):
            stay = _simplify(points[first:place], tolerance**2)
            kept += [rows[first + at] for at in stay]
            first = place
    return kept


def _breaks_off(before: Row, after: Row, pause_ms: int) -> bool:
    if before[_DEVICE] != after[_DEVICE] or before[STREAM] != after[STREAM]:
        return True
    took_ms: int = after[TIME_MS] - before[TIME_MS]
    # A long time between two that do not follow each other is a thinned stretch.
    follows: bool = after[SEQ] == before[SEQ] + 1
    return took_ms <= 0 or (took_ms > pause_ms and follows)


def _points(rows: Sequence[Row]) -> list[_Point]:
    turn = 0
    lon_before = rows[0][LON_E9] if rows else 0
    points = []
    for row in rows:
        lat, lon = row[LAT_E9], row[LON_E9]
        turn += _TURN_E9 * round((lon_before - lon) / _TURN_E9)  # across the date line
        lon_before = lon
        points.append((row[TIME_MS], lat, lon + turn, math.cos(math.radians(lat / 1e9))))
    return points


def _simplify(points: Sequence[_Point], tolerance_squared: float) -> list[int]:
    """The places of those that stay."""
    stay = {0, len(points) - 1}
    spans = [(0, len(points) - 1)]
    while spans:
        first, last = spans.pop()
        farthest, place = _farthest(points, first, last)
        if farthest > tolerance_squared:
            stay.add(place)
            spans += [(first, place), (place, last)]
    return sorted(stay)


def _farthest(points: Sequence[_Point], first: int, last: int) -> tuple[float, int]:
    """The square of the largest distance between the two, in 1e-9 degrees, and its place."""
    time_ms, lat, lon, _ = points[first]
    took_ms = points[last][0] - time_ms
    lat_per_ms = (points[last][1] - lat) / max(1, took_ms)
    lon_per_ms = (points[last][2] - lon) / max(1, took_ms)
    farthest, place = 0.0, first
    for at in range(first + 1, last):
        at_ms, at_lat, at_lon, shorter = points[at]
        north = lat + (at_ms - time_ms) * lat_per_ms - at_lat
        east = (lon + (at_ms - time_ms) * lon_per_ms - at_lon) * shorter
        distance = north * north + east * east
        if distance > farthest:
            farthest, place = distance, at
    return farthest, place
