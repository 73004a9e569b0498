"""The output of a receiver on a simulated drive round a town: bends, one stop, perhaps a tunnel.

Each epoch is the bytes of one instant. In the tunnel there is no position, as with a real receiver.
Satellites of four systems are in view, and the receiver reports its accuracy (GST).
"""

import itertools
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from telemetry_agent.gnss.sources.protocols import nmea_sentence

_EPOCH_1970 = datetime(1970, 1, 1, tzinfo=UTC)
_START_LAT, _START_LON, _ALT_M, _GEOID_SEP_M = 48.1173, 11.516667, 519.4, 47.1
_M_PER_DEGREE = 111_195.0
_M_S_PER_KNOT = 0.514444
# Corners of the round, metres east and north of the start; it stands at the one that is repeated.
_CORNERS = (
    *((0, 0), (158, 10), (200, -74), (336, -89), (336, -89), (336, -89), (336, -89), (399, -10)),
    *((378, 110), (494, 173), (620, 126), (698, 220), (651, 368), (495, 390), (399, 326)),
    *((273, 336), (226, 452), (63, 472), (-32, 378), (32, 262), (-68, 173), (-47, 47)),
)
# From one to the next. A round ends between two epochs, so no two rounds have the same positions.
_CORNER_S = 12.0137
_TUNNEL = (12.0, 17.5)  # between which corners
# Talker of GSV, number of the system in GSA, first number, how many.
_SYSTEMS = (("GP", 1, 1, 9), ("GL", 2, 65, 6), ("GA", 3, 1, 6), ("GB", 4, 1, 7))
_IN_VIEW = sum(count for *_, count in _SYSTEMS)
_MASK_DEG = 12


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
        satellites = itertools.count()
        self._sky = {
            (talker, system): [_satellite(first + 3 * i, next(satellites)) for i in range(count)]
            for talker, system, first, count in _SYSTEMS
        }

    def __iter__(self) -> Iterator[bytes]:
        return map(self.epoch, itertools.count())

    def has_fix(self, index: int) -> bool:
        """Whether that epoch holds a position."""
        begin, end = _TUNNEL
        return not (self._tunnel and begin <= self._corners_passed(index) <= end)

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

    def _corners_passed(self, index: int) -> float:
        """How many corners were passed since the beginning of the round."""
        return index * self._interval_ms / 1000 / _CORNER_S % len(_CORNERS)

    def _motion(self, index: int) -> tuple[str, str, float, float]:
        """Position and course as in RMC, knots, and the height."""
        passed = self._corners_passed(index)
        near = (_CORNERS[(int(passed) + i) % len(_CORNERS)] for i in (-1, 0, 1))
        # Corners that are near each other, and sharp bends, are passed slowly.
        (east_m, east), (north_m, north) = (
            _curve(passed % 1, *each) for each in zip(*near, strict=True)
        )
        speed_m_s = math.hypot(east, north) / _CORNER_S
        lat = _START_LAT + north_m / _M_PER_DEGREE
        lon = _START_LON + east_m / _M_PER_DEGREE / math.cos(math.radians(_START_LAT))
        course_deg = math.degrees(math.atan2(east, north)) % 360
        return (
            f"{_angle(lat, 2)},N,{_angle(lon, 3)},E",
            f"{course_deg:.1f}" if speed_m_s else "",
            speed_m_s / _M_S_PER_KNOT,
            _ALT_M + 12 * math.sin(math.tau * passed / len(_CORNERS)),
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


def _curve(t: float, a: float, b: float, c: float) -> tuple[float, float]:
    """A quadratic B-spline at ``t``, from 0 to 1, and its derivative."""
    place = ((1 - t) ** 2 * a + (1 + 2 * t * (1 - t)) * b + t * t * c) / 2
    slope = (1 - t) * (b - a) + t * (c - b)
    return place, slope


def _satellite(number: int, index: int) -> tuple[int, int, int, int]:
    """Number, elevation, azimuth and the best signal of a satellite; together they fill the sky."""
    place = (11 * index + 0.5) % _IN_VIEW
    elevation_deg = round(88 - 85 * math.sqrt(place / _IN_VIEW))
    return number, elevation_deg, round(place * 137.5) % 360, 34 + 5 * index % 14


def _snr(best_db: int, elevation_deg: int, number: int, index: int) -> int:
    """Lower near the horizon, and with a slow change."""
    return round(best_db - 12 * (1 - elevation_deg / 90) + 1.5 * math.sin(index / 5 + number))


def _angle(degrees: float, width: int) -> str:
    """``ddmm.mmmmm``; every position of the drive is north and east."""
    whole, minutes_e5 = divmod(round(degrees * 60e5), 60 * 100_000)
    return f"{whole:0{width}}{minutes_e5 // 100_000:02}.{minutes_e5 % 100_000:05}"
