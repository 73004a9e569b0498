"""Simulated days of vehicles: the true track, and the track that a receiver reports.

A day is one true state per second. The receiver adds three kinds of realistic noise: white noise, a
drift over minutes, and reflections that shift the position for some seconds. Its speed is
measured by Doppler shift and has only a little of the white noise. The same seed gives the same
day.
"""

import math
import random
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from telemetry_agent.gnss.geodesy import Place, distance_m, place_of
from telemetry_agent.model import Fix

START_MS = 1_795_392_000_000  # 2026-11-23T00:00:00Z
DAY_S = 86_400
_LAT, _LON = 48.1173, 11.516667
_M_PER_DEGREE_NORTH, _M_PER_DEGREE_EAST = 111_192.7, 74_456.0  # of the ellipsoid at the start


class State(NamedTuple):
    """Position of the vehicle, in metres east and north of the start, and its motion."""

    east_m: float
    north_m: float
    speed_m_s: float
    course_deg: float


class Vehicle:
    """A vehicle that drives, turns and stands, one second at a time."""

    def __init__(self, *, course_deg: float = 40.0, acceleration_m_s2: float = 1.5) -> None:
        self.states: list[State] = []
        self._state = State(0.0, 0.0, 0.0, course_deg)
        self._acceleration_m_s2 = acceleration_m_s2

    def stand(self, seconds: float) -> None:
        self.states += [self._state._replace(speed_m_s=0.0)] * round(seconds)

    def drive(self, metres: float, cruise_m_s: float, *, turn_deg: float = 0.0) -> None:
        """Drive from standstill to standstill; start with a bend at a quarter of the speed."""
        a = self._acceleration_m_s2
        left_m, speed_m_s = metres, 0.0
        bend_deg = turn_deg
        while left_m > 0.05:
            allowed = min(cruise_m_s, math.sqrt(2 * a * left_m), speed_m_s + a)
            if bend_deg:
                allowed = min(allowed, max(1.0, cruise_m_s / 4))
            speed_m_s = min(max(allowed, 0.2), left_m)
            step_deg = max(-20.0, min(20.0, bend_deg))
            bend_deg -= step_deg
            course = math.radians(self._state.course_deg + step_deg)
            self._state = State(
                self._state.east_m + speed_m_s * math.sin(course),
                self._state.north_m + speed_m_s * math.cos(course),
                speed_m_s,
                math.degrees(course) % 360,
            )
            self.states.append(self._state)
            left_m -= speed_m_s

    @property
    def driven_m(self) -> float:
        return sum(
            math.dist(a[:2], b[:2]) for a, b in zip(self.states, self.states[1:], strict=False)
        )


def parked() -> Vehicle:
    """A day in one place."""
    car = Vehicle()
    car.stand(DAY_S)
    return car


def commute() -> Vehicle:
    """A drive to work in the morning and back in the evening, through a town and on a fast road."""
    draw = random.Random(7)
    car = Vehicle()
    car.stand(7 * 3600)
    for standing_s in (9 * 3600, 0):
        for _ in range(25):
            car.drive(
                draw.uniform(80, 500), draw.uniform(8, 15), turn_deg=draw.choice([-90, 0, 90])
            )
            car.stand(draw.choice([0, 0, 5, 20, 70]))
        car.drive(9_000, 33.0)
        for _ in range(10):
            car.drive(
                draw.uniform(80, 500), draw.uniform(8, 14), turn_deg=draw.choice([-90, 0, 90])
            )
            car.stand(draw.choice([0, 0, 5, 40]))
        car.stand(standing_s)
    car.stand(DAY_S - len(car.states))
    return car


def boat_at_anchor(*, chain_m: float = 15.0) -> Vehicle:
    """A boat that swings around its anchor with wind and tide for a day."""
    boat = Vehicle()
    for t_s in range(DAY_S):
        # Slow changes of the wind, and swinging from side to side within minutes.
        angle = 1.2 * math.sin(math.tau * t_s / 21_000) + 0.5 * math.sin(math.tau * t_s / 240)
        rate = 1.2 * math.tau / 21_000 * math.cos(
            math.tau * t_s / 21_000
        ) + 0.5 * math.tau / 240 * math.cos(math.tau * t_s / 240)
        course = math.degrees(angle) + (90 if rate < 0 else -90)
        speed_m_s = chain_m * abs(rate)
        boat.states.append(
            State(chain_m * math.cos(angle), chain_m * math.sin(angle), speed_m_s, course % 360)
        )
    return boat


def walk() -> Vehicle:
    """Two hours on foot through a town, with stops at shop windows."""
    draw = random.Random(5)
    feet = Vehicle(acceleration_m_s2=0.7)
    while len(feet.states) < 7200:
        feet.drive(draw.uniform(30, 300), draw.uniform(1.2, 1.6), turn_deg=draw.uniform(-120, 120))
        feet.stand(draw.choice([0, 0, 0, 20, 90]))
    del feet.states[7200:]
    return feet


def tractor() -> Vehicle:
    """Eight hours of rows in a field, with three breaks."""
    machine = Vehicle(acceleration_m_s2=0.5)
    side = 90.0
    breaks_s = [2 * 3600, 4 * 3600, 6 * 3600]
    while len(machine.states) < 8 * 3600:
        machine.drive(400, 2.8)
        machine.drive(6, 1.0, turn_deg=side)
        machine.drive(6, 1.0, turn_deg=side)
        side = -side
        if breaks_s and len(machine.states) > breaks_s[0]:
            machine.stand(1200)
            del breaks_s[0]
    del machine.states[8 * 3600 :]
    return machine


class Noise(NamedTuple):
    """The receiver's noise."""

    white_m: float = 0.4
    drift_m: float = 3.0
    drift_s: float = 600.0
    jumps_per_h: float = 1.0
    jump_m: tuple[float, float] = (20.0, 120.0)
    jump_s: tuple[float, float] = (1.0, 12.0)
    speed_m_s: float = 0.08


OPEN_SKY = Noise()


def received(
    states: Sequence[State], noise: Noise = OPEN_SKY, *, seed: int = 1, speed: bool = True
) -> Iterator[Fix]:
    """One fix per second. Without ``speed``, as from a receiver that sends only positions."""
    draw = random.Random(seed)
    keep = math.exp(-1 / noise.drift_s)
    kick_m = noise.drift_m * math.sqrt(1 - keep * keep)
    drift = [draw.gauss(0, noise.drift_m), draw.gauss(0, noise.drift_m)]
    aside, aside_until = (0.0, 0.0), 0
    for t_s, state in enumerate(states):
        drift = [keep * axis + draw.gauss(0, kick_m) for axis in drift]
        if t_s >= aside_until:
            aside = (0.0, 0.0)
            if draw.random() < noise.jumps_per_h / 3600:
                angle, size_m = draw.uniform(0, math.tau), draw.uniform(*noise.jump_m)
                aside = (size_m * math.cos(angle), size_m * math.sin(angle))
                aside_until = t_s + round(draw.uniform(*noise.jump_s))
        lat_e9, lon_e9 = place(
            state.east_m + drift[0] + aside[0] + draw.gauss(0, noise.white_m),
            state.north_m + drift[1] + aside[1] + draw.gauss(0, noise.white_m),
        )
        course = math.radians(state.course_deg)
        said_m_s = math.hypot(
            state.speed_m_s * math.sin(course) + draw.gauss(0, noise.speed_m_s),
            state.speed_m_s * math.cos(course) + draw.gauss(0, noise.speed_m_s),
        )
        yield Fix(
            START_MS + 1000 * t_s,
            round(lat_e9),
            round(lon_e9),
            speed_mm_s=round(said_m_s * 1000) if speed else None,
            course_mdeg=round(state.course_deg * 1000) % 360_000 if speed else None,
            mode=3,
            hdop_e2=90,
            sats=9,
        )


def place(east_m: float, north_m: float) -> Place:
    """Convert metres from the start to a place."""
    return (
        (_LAT + north_m / _M_PER_DEGREE_NORTH) * 1e9,
        (_LON + east_m / _M_PER_DEGREE_EAST) * 1e9,
    )


def largest_error_m(states: Sequence[State], recorded: Iterable[Fix]) -> float:
    """The largest distance of the true track from straight lines between fixes, without jumps."""
    fixes = [fix for fix in recorded if "jump" not in fix.flags]
    times = [fix.time_ms for fix in fixes]
    worst_m = 0.0
    for t_s, state in enumerate(states):
        time_ms = START_MS + 1000 * t_s
        after = bisect_right(times, time_ms)
        first, last = fixes[max(after - 1, 0)], fixes[min(after, len(fixes) - 1)]
        span_ms = last.time_ms - first.time_ms
        part = min(1.0, max(0.0, (time_ms - first.time_ms) / span_ms)) if span_ms else 0.0
        (lat, lon), (lat_2, lon_2) = place_of(first), place_of(last)
        here = (lat + part * (lat_2 - lat), lon + part * (lon_2 - lon))
        worst_m = max(worst_m, distance_m(here, place(state.east_m, state.north_m)))
    return worst_m
