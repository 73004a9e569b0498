"""The output of a receiver on a simulated drive round a town: bends, one stop, perhaps a tunnel.

Each epoch is the bytes of one instant. In the tunnel there is no position, as with a real receiver.
Satellites of four systems are in view, and the receiver reports its accuracy (GST).
"""

import itertools
import math
import random
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise

from telemetry_agent.gnss.sources.protocols import nmea_sentence

_EPOCH_1970 = datetime(1970, 1, 1, tzinfo=UTC)
_START_LAT, _START_LON, _ALT_M, _GEOID_SEP_M = 48.1173, 11.516667, 519.4, 47.1
_M_PER_DEGREE = 111_195.0
_M_S_PER_KNOT = 0.514444
# Corners of the round, metres east and north of the start.
_CORNERS = (
    *((0, 0), (210, 14), (266, -98), (448, -119), (532, -14), (504, 147), (658, 231)),
    *((826, 168), (931, 294), (868, 490), (630, 532), (532, 434), (364, 448), (301, 602)),
    *((84, 630), (-42, 504), (42, 350), (-91, 231), (-63, 63)),
)
_ROUNDED_TIMES = 3
_STEP_M = 4.0
_FASTEST_M_S = 13.5
_ACCELERATION_M_S2 = 1.6
_ACROSS_M_S2 = 2.2
# Shares of the round: where the stop is, and where the tunnel begins and ends.
_STOP = 0.16
_TUNNEL = (0.52, 0.78)
_STOP_S = 25.0
# Talker of GSV, number of the system in GSA, first number, highest, how many.
_SYSTEMS = (("GP", 1, 1, 32, 9), ("GL", 2, 65, 88, 6), ("GA", 3, 1, 36, 6), ("GB", 4, 1, 46, 7))
_IN_VIEW = sum(count for *_, count in _SYSTEMS)
_MASK_DEG = 12

Place = tuple[float, float]


class Drive:
    """Endless rounds. ``epoch(i)`` is what a receiver sends at ``start_ms + i * interval_ms``.

    Args:
        start_ms: UTC of the first epoch, milliseconds since 1970.
        interval_ms: between two epochs.
        tunnel: whether a part of the round has no positions.
    """

    def __init__(self, start_ms: int, *, interval_ms: int = 1000, tunnel: bool = False) -> None:
        self._start_ms = start_ms
        self._interval_ms = interval_ms
        self._tunnel = tunnel
        self._places, self._times_s = _round()
        draw = random.Random(3)  # noqa: S311 - the same sky each time
        spread = list(range(_IN_VIEW))
        draw.shuffle(spread)
        self._sky = {
            (talker, system): [
                (number, *_spiral(spread.pop()), draw.randrange(34, 48))
                for number in sorted(draw.sample(range(first, last + 1), count))
            ]
            for talker, system, first, last, count in _SYSTEMS
        }

    def __iter__(self) -> Iterator[bytes]:
        return map(self.epoch, itertools.count())

    def has_fix(self, index: int) -> bool:
        """Whether that epoch holds a position."""
        share = self._along(index)[0] / len(self._places)
        return not (self._tunnel and _TUNNEL[0] <= share <= _TUNNEL[1])

    def epoch(self, index: int) -> bytes:
        """All sentences of one instant."""
        utc = _EPOCH_1970 + timedelta(milliseconds=self._start_ms + index * self._interval_ms)
        time = f"{utc:%H%M%S}.{utc.microsecond // 1000:03}"
        date = f"{utc:%d%m%y}"
        if not self.has_fix(index):
            bodies = [
                f"GNRMC,{time},V,,,,,,,{date},,,N",
                "GNVTG,,T,,M,,N,,K,N",
                f"GNGGA,{time},,,,,0,00,,,M,,M,,",
                *(f"GNGSA,A,1{',' * 12},,,,{system}" for _, system in self._sky),
                f"GNGST,{time},,,,,,,",
                *self._in_view(index, covered=True),
            ]
            return b"".join(map(nmea_sentence, bodies))
        position, course, knots, alt_m = self._motion(index)
        used = {system: self._used(sky) for (_, system), sky in self._sky.items()}
        count = sum(map(len, used.values()))
        hdop = 0.8 + 0.1 * (index // 9 % 4)
        error_m = 1.4 + 0.5 * math.sin(index / 11)
        bodies = [
            f"GNRMC,{time},A,{position},{knots:.2f},{course},{date},,,A",
            f"GNVTG,{course},T,,M,{knots:.2f},N,{knots * 1.852:.2f},K,A",
            f"GNGGA,{time},{position},1,{count:02},{hdop:.2f},{alt_m:.1f},M,{_GEOID_SEP_M},M,,",
            *(
                f"GNGSA,A,3,{','.join((numbers + [''] * 12)[:12])},1.60,{hdop:.2f},1.30,{system}"
                for system, numbers in used.items()
            ),
            f"GNGST,{time},2.1,,,,{error_m:.1f},{error_m:.1f},2.8",
            *self._in_view(index),
        ]
        return b"".join(map(nmea_sentence, bodies))

    def _along(self, index: int) -> tuple[float, float]:
        """How many steps along the round at that epoch, and how fast, in m/s."""
        t_s = index * self._interval_ms / 1000 % self._times_s[-1]
        i = min(bisect_right(self._times_s, t_s), len(self._times_s) - 1)
        began_s, ended_s = self._times_s[i - 1], self._times_s[i]
        took_s = ended_s - began_s
        return i - 1 + (t_s - began_s) / took_s, _STEP_M / took_s if took_s < _STOP_S else 0.0

    def _motion(self, index: int) -> tuple[str, str, float, float]:
        """Position and course as in RMC, knots, and the height."""
        steps, speed_m_s = self._along(index)
        whole, part = divmod(steps, 1)
        (x1, y1), (x2, y2) = (self._places[(int(whole) + i) % len(self._places)] for i in range(2))
        x_m, y_m = x1 + (x2 - x1) * part, y1 + (y2 - y1) * part
        lat = _START_LAT + y_m / _M_PER_DEGREE
        lon = _START_LON + x_m / _M_PER_DEGREE / math.cos(math.radians(_START_LAT))
        course_deg = math.degrees(math.atan2(x2 - x1, y2 - y1)) % 360
        return (
            f"{_angle(lat, 2)},N,{_angle(lon, 3)},E",
            f"{course_deg:.1f}" if speed_m_s else "",
            speed_m_s / _M_S_PER_KNOT,
            _ALT_M + 12 * math.sin(math.tau * steps / len(self._places)),
        )

    def _used(self, sky: list[tuple[int, int, int, int]]) -> list[str]:
        return [f"{number:02}" for number, elevation, _, _ in sky if elevation > _MASK_DEG]

    def _in_view(self, index: int, *, covered: bool = False) -> Iterator[str]:
        for (talker, _), sky in self._sky.items():
            pages = [sky[i : i + 4] for i in range(0, len(sky), 4)]
            for number, page in enumerate(pages, 1):
                seen = ",".join(
                    f"{prn:02},{el:02},{az:03},{'' if covered else _snr(snr, el, prn, index)}"
                    for prn, el, az, snr in page
                )
                yield f"{talker}GSV,{len(pages)},{number},{len(sky):02},{seen}"


def _spiral(index: int) -> tuple[int, int]:
    """Elevation and azimuth of the satellite with that index; together they fill the sky."""
    return round(88 - 85 * math.sqrt((index + 0.5) / _IN_VIEW)), round(index * 137.5) % 360


def _snr(best_db: int, elevation_deg: int, number: int, index: int) -> int:
    """Lower near the horizon, and with a slow change."""
    return round(best_db - 12 * (1 - elevation_deg / 90) + 1.5 * math.sin(index / 5 + number))


@cache
def _round() -> tuple[list[Place], list[float]]:
    """The round as places 4 m apart, and when each is reached, in seconds."""
    corners: list[Place] = list(_CORNERS)  # each pass cuts the corners (Chaikin's algorithm)
    for _ in range(_ROUNDED_TIMES):
        corners = [
            (x1 + (x2 - x1) * share, y1 + (y2 - y1) * share)
            for (x1, y1), (x2, y2) in pairwise([*corners, corners[0]])
            for share in (0.25, 0.75)
        ]
    places = []
    left_m = 0.0
    for (x1, y1), (x2, y2) in pairwise([*corners, corners[0]]):
        length_m = math.dist((x1, y1), (x2, y2))
        while left_m < length_m:
            share = left_m / length_m
            places.append((x1 + (x2 - x1) * share, y1 + (y2 - y1) * share))
            left_m += _STEP_M
        left_m -= length_m
    return places, _times_s(places)


def _times_s(places: list[Place]) -> list[float]:
    """When each place is reached: slow in bends, braking before them, standing at the stop."""
    size = len(places)
    stop = int(_STOP * size)
    limits = []
    for i in range(size):
        (x0, y0), (x1, y1), (x2, y2) = (places[(i + step) % size] for step in (-2, 0, 2))
        turn = math.atan2(x2 - x1, y2 - y1) - math.atan2(x1 - x0, y1 - y0)
        bend = abs(math.remainder(turn, math.tau)) / (2 * _STEP_M)
        limits.append(min(_FASTEST_M_S, math.sqrt(_ACROSS_M_S2 / max(bend, 1e-6))))
    limits[stop] = 0.5
    gain = 2 * _ACCELERATION_M_S2 * _STEP_M
    # First the acceleration out of each bend, then, backwards, the braking before it. Twice round,
    # because the round ends where it begins.
    for way in (range(2 * size), range(2 * size, 0, -1)):
        for i, after in pairwise(way):
            limits[after % size] = min(
                limits[after % size], math.sqrt(limits[i % size] ** 2 + gain)
            )
    times = [0.0]
    for i in range(size):
        speed_m_s = (limits[i] + limits[(i + 1) % size]) / 2
        times.append(times[-1] + _STEP_M / speed_m_s + (_STOP_S if i == stop else 0.0))
    return times


def _angle(degrees: float, width: int) -> str:
    """``ddmm.mmmmm``; every position of the drive is north and east."""
    whole, minutes_e5 = divmod(round(degrees * 60e5), 60 * 100_000)
    return f"{whole:0{width}}{minutes_e5 // 100_000:02}.{minutes_e5 % 100_000:05}"
