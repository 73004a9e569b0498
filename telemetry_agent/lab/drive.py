"""What a receiver sends on a made-up drive, epoch by epoch: each the bytes of one instant."""

import itertools
import math
import random
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

EPOCH_1970 = datetime(1970, 1, 1, tzinfo=UTC)
START_LAT, START_LON, ALT_M, GEOID_SEP_M = 48.1173, 11.516667, 519.4, 47.1
M_PER_DEGREE = 111_195.0
M_S_PER_KNOT = 0.514444
_CORNER_M_S = 3.0
_ACCELERATION_M_S2 = 1.5
_RED_LIGHT_S = 12.0


@dataclass(frozen=True)
class _Street:
    """From one corner to the next: speeding up, cruising, braking."""

    start_s: float
    x_m: float
    """Where it begins: east of the drive's start, and north of it."""
    y_m: float
    course_deg: float
    length_m: float
    """Long enough to reach ``cruise_m_s``."""
    cruise_m_s: float
    wait_s: float
    """Standing before it begins."""

    @property
    def _ramp_s(self) -> float:
        return (self.cruise_m_s - _CORNER_M_S) / _ACCELERATION_M_S2

    @property
    def _moving_s(self) -> float:
        saved_m = self._ramp_s * (self.cruise_m_s - _CORNER_M_S)
        return (self.length_m + saved_m) / self.cruise_m_s

    @property
    def end_s(self) -> float:
        return self.start_s + self.wait_s + self._moving_s

    def at(self, t_s: float) -> tuple[float, float]:
        """How far along (metres) and how fast (m/s) at ``t_s`` of the drive."""
        gone_s = t_s - self.start_s - self.wait_s
        if gone_s < 0:
            return 0.0, 0.0
        left_s = self._moving_s - gone_s
        ramp_s = min(gone_s, left_s, self._ramp_s)
        speed_m_s = _CORNER_M_S + _ACCELERATION_M_S2 * ramp_s
        ramp_m = ramp_s * (_CORNER_M_S + speed_m_s) / 2
        if left_s <= ramp_s:
            return self.length_m - ramp_m, speed_m_s
        return ramp_m + (gone_s - ramp_s) * speed_m_s, speed_m_s


class Drive:
    """A made-up drive round some blocks of a town, with a red light, lap after lap.

    The same arguments give the same bytes: ``epoch(i)`` is what a receiver sends at
    ``start_ms + i * interval_ms``.
    """

    def __init__(self, start_ms: int, *, interval_ms: int = 1000, seed: int = 1) -> None:
        self._start_ms = start_ms
        self._interval_ms = interval_ms
        draw = random.Random(seed)  # noqa: S311 - a made-up drive, no secret
        east = [draw.uniform(150, 450) for _ in range(4)]
        north = [draw.uniform(150, 450) for _ in range(4)]
        turned_deg = draw.uniform(0, 360)
        steps = [
            leg for pair in zip(east, north, strict=True) for leg in zip((90, 0), pair, strict=True)
        ]
        steps += [(270, sum(east)), (180, sum(north))]
        red_light = draw.randrange(1, len(steps))
        self._streets: list[_Street] = []
        t_s = x_m = y_m = 0.0
        for i, (heading_deg, length_m) in enumerate(steps):
            street = _Street(
                t_s,
                x_m,
                y_m,
                (heading_deg + turned_deg) % 360,
                length_m,
                draw.uniform(8, 14),
                _RED_LIGHT_S if i == red_light else 0.0,
            )
            self._streets.append(street)
            t_s = street.end_s
            x_m += length_m * math.sin(math.radians(street.course_deg))
            y_m += length_m * math.cos(math.radians(street.course_deg))
        self._lap_s = t_s
        self._sky = [
            (prn, draw.randrange(8, 85), draw.randrange(360), draw.randrange(24, 48))
            for prn in sorted(draw.sample(range(1, 33), 11))
        ]

    def __iter__(self) -> Iterator[bytes]:
        return map(self.epoch, itertools.count())

    def epoch(self, index: int) -> bytes:
        """All sentences of one instant, in the order of a common receiver."""
        since_start_ms = index * self._interval_ms
        t_s = since_start_ms / 1000 % self._lap_s
        street = self._streets[bisect_right(self._streets, t_s, key=lambda s: s.start_s) - 1]
        along_m, speed_m_s = street.at(t_s)
        course_rad = math.radians(street.course_deg)
        north_m = street.y_m + along_m * math.cos(course_rad)
        east_m = street.x_m + along_m * math.sin(course_rad)
        lat = START_LAT + north_m / M_PER_DEGREE
        lon = START_LON + east_m / M_PER_DEGREE / math.cos(math.radians(START_LAT))
        position = f"{angle(lat, 2)},N,{angle(lon, 3)},E"
        # Receivers leave the course empty while they stand.
        course = f"{street.course_deg:.1f}" if speed_m_s else ""
        knots = speed_m_s / M_S_PER_KNOT
        alt_m = ALT_M + 4 * math.sin(math.tau * t_s / self._lap_s)
        utc = EPOCH_1970 + timedelta(milliseconds=self._start_ms + since_start_ms)
        time = f"{utc:%H%M%S}.{utc.microsecond // 1000:03}"
        used = [f"{prn:02}" for prn, elevation, _, _ in self._sky if elevation > 12]
        twelve = (used + [""] * 12)[:12]
        bodies = [
            f"GPRMC,{time},A,{position},{knots:.2f},{course},{utc:%d%m%y},,,A",
            f"GPVTG,{course},T,,M,{knots:.2f},N,{speed_m_s * 3.6:.2f},K,A",
            f"GPGGA,{time},{position},1,{len(used):02},0.90,{alt_m:.1f},M,{GEOID_SEP_M},M,,",
            f"GPGSA,A,3,{','.join(twelve)},1.60,0.90,1.30",
            *self._satellites_in_view(),
        ]
        return b"".join(map(sentence, bodies))

    def _satellites_in_view(self) -> Iterator[str]:
        pages = [self._sky[i : i + 4] for i in range(0, len(self._sky), 4)]
        for number, page in enumerate(pages, 1):
            seen = ",".join(f"{prn:02},{el:02},{az:03},{snr}" for prn, el, az, snr in page)
            yield f"GPGSV,{len(pages)},{number},{len(self._sky):02},{seen}"


def angle(degrees: float, width: int) -> str:
    """``ddmm.mmmmm``; every position of the drive is north and east."""
    whole, minutes_e5 = divmod(round(degrees * 60e5), 60 * 100_000)
    return f"{whole:0{width}}{minutes_e5 // 100_000:02}.{minutes_e5 % 100_000:05}"


def sentence(body: str) -> bytes:
    """With its checksum."""
    checksum = 0
    for byte in body.encode():
        checksum ^= byte
    return f"${body}*{checksum:02X}\r\n".encode()
