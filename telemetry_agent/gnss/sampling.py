"""Which fixes are recorded.

Theory of operation. Every fix is examined at the full rate: is it a jump, how far did the device
drive, is it parked. Then it is sampled. While the device moves, a fix is recorded for any of these
reasons: the longest gap is over, the distance to the last recorded fix, the turn from its course.
While it is parked, one fix in each heartbeat is recorded. The fix that begins parking is recorded,
and the one that ends it, after the last one that was still inside, so that the track leaves the
place when the device left it.

Time is the time of the fixes. Only the steps between them count; a step backwards counts as none
and makes a fix due, so a receiver whose time jumps by years cannot stop the recording.

No state is saved for a restart: the rows of the queue show where the device was, how far it had
driven, and whether it was parked.
"""

from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from telemetry_agent.gnss.geodesy import PoorFix, distance_m, place_of
from telemetry_agent.gnss.motion import WALKING_MM_S, Motion, Odometer
from telemetry_agent.gnss.parking import Parking
from telemetry_agent.model import Fix, Quality

_PERIOD_AT_MOST_S = 10.0  # a longer one is a gap
_STEPS = 5
_FULL_TURN_MDEG = 360_000


@dataclass(frozen=True, slots=True)
class SamplingPolicy:
    """When to record; see ``[sampling]`` in the config."""

    interval_s: float = 1.0
    """The longest gap while moving, in seconds; 0: record every fix, also while parked."""
    distance_m: float = 0.0
    """0: off."""
    turn_deg: float = 0.0
    """0: off."""
    parked_radius_m: float = 25.0
    """0: never parked."""
    parked_after_s: float = 180.0
    heartbeat_s: float = 900.0
    """The longest gap while parked, in seconds."""
    max_hdop: float = 0.0
    """0: off."""
    drop_quality: Collection[Quality] = ()


class Sampler:
    """Takes every fix in the order of arrival and returns those to record.

    ``dropped`` counts the others: ``quality`` and ``hdop`` (not examined), ``parked``, ``not-due``.
    The last fix of a parked device is held, to be recorded if the next one leaves; it is not
    counted.

    Args:
        policy: when to record.
        recent: the fixes recorded last, the newest first, of this run or an earlier one.
    """

    def __init__(self, policy: SamplingPolicy, recent: Sequence[Fix] = ()) -> None:
        self.parking = Parking()
        """Whether the device is parked, and where."""
        self.use(policy)
        self.dropped: Counter[str] = Counter()
        last = recent[0] if recent else None
        # The next fix is compared with the last plausible one; the metres continue from the last.
        plausible = next((fix for fix in recent if "jump" not in fix.flags), last)
        self._motion = Motion(plausible)
        self._odometer = Odometer(plausible and plausible._replace(odo_m=last and last.odo_m))
        self.parking.resume(recent)
        self._last_ms = None if last is None else last.time_ms
        self._steps_s: deque[float] = deque(maxlen=_STEPS)
        self._recorded = last
        self._gap_s = 0.0  # since the last recorded fix
        self._course_mdeg = None if last is None else _course_mdeg(last)
        self._held: Fix | None = None  # the last fix inside, while parked

    def use(self, policy: SamplingPolicy) -> None:
        """Sample by this policy from now on.

        Any thread may call: a fix that is examined meanwhile may meet both policies.
        """
        self._policy = policy
        self.parking.use(policy.parked_radius_m, policy.parked_after_s)

    def feed(self, fix: Fix) -> list[Fix]:
        """The fixes to record now, in order, with their metres and their flag ``jump``."""
        reason = self._refusal(fix)
        if reason is not None:
            self.dropped[reason] += 1
            return []
        elapsed_s = self._elapsed_s(fix)
        self._gap_s += elapsed_s or 0.0
        step = self._motion.judge(fix, elapsed_s)
        was_parked = self.parking.parked
        self.parking.follow(step)
        parks = self.parking.parked
        if not parks:
            self._odometer.drive(step)
        elif not was_parked:
            self._odometer.park(self.parking.place)
        jump = step.jump
        fix = fix._replace(
            odo_m=self._odometer.odo_m, flags=("jump", *fix.flags) if jump else fix.flags
        )
        if was_parked and parks and self._policy.interval_s:
            beat = not jump and self._is_over(self._policy.heartbeat_s)
            return self._record_parked(fix, due=elapsed_s is None or beat)
        held, self._held = self._held, None
        if held is not None:  # the device leaves: the track begins where it was parked
            return [*self._record(held), *self._record(fix)]
        if parks or was_parked or elapsed_s is None or self._is_due(fix, jump=jump):
            return self._record(fix)
        self.dropped["not-due"] += 1
        return []

    def _refusal(self, fix: Fix) -> str | None:
        if fix.quality in self._policy.drop_quality:
            return "quality"
        max_hdop = self._policy.max_hdop
        if max_hdop and (isinstance(fix, PoorFix) or (fix.hdop_e2 or 0) > 100 * max_hdop):
            return "hdop"
        return None

    def _elapsed_s(self, fix: Fix) -> float | None:
        last_ms, self._last_ms = self._last_ms, fix.time_ms
        if last_ms is None or fix.time_ms < last_ms:
            return None
        step_s = (fix.time_ms - last_ms) / 1000
        if 0 < step_s < _PERIOD_AT_MOST_S:
            self._steps_s.append(step_s)
        return step_s

    def _is_over(self, interval_s: float) -> bool:
        """Whether a gap is over: the fix that is nearest to its end counts, also one before it."""
        steps_s = sorted(self._steps_s)
        period_s = steps_s[len(steps_s) // 2] if steps_s else 0.0
        return self._gap_s >= interval_s - period_s / 2

    def _is_due(self, fix: Fix, *, jump: bool) -> bool:
        if self._is_over(self._policy.interval_s):
            return True
        return not jump and (self._is_far(fix) or self._has_turned(fix))

    def _is_far(self, fix: Fix) -> bool:
        least_m = self._policy.distance_m
        if not least_m or self._recorded is None:
            return False
        return distance_m(place_of(self._recorded), place_of(fix)) >= least_m

    def _has_turned(self, fix: Fix) -> bool:
        course_mdeg = _course_mdeg(fix)
        if not self._policy.turn_deg or course_mdeg is None:
            return False
        if self._course_mdeg is None:
            self._course_mdeg = course_mdeg  # the first course is not a turn
        apart_mdeg = abs(course_mdeg - self._course_mdeg)
        apart_mdeg = min(apart_mdeg, _FULL_TURN_MDEG - apart_mdeg)
        return apart_mdeg >= 1000 * self._policy.turn_deg

    def _record_parked(self, fix: Fix, *, due: bool) -> list[Fix]:
        """The fixes to record while the device is parked: one in each heartbeat."""
        if not (due or self.parking.inside):
            self.dropped["parked"] += 1
            return []
        held, self._held = self._held, None if due else fix
        if held is not None:
            self.dropped["parked"] += 1
        return self._record(fix) if due else []

    def _record(self, fix: Fix) -> list[Fix]:
        self._recorded, self._gap_s = fix, 0.0
        course_mdeg = _course_mdeg(fix)
        if course_mdeg is not None:
            self._course_mdeg = course_mdeg
        return [fix]


def _course_mdeg(fix: Fix) -> int | None:
    """The course, if the speed is above walking speed."""
    return fix.course_mdeg if (fix.speed_mm_s or 0) > WALKING_MM_S else None
