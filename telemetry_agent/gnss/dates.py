"""Which day a time of day belongs to.

Most sentences have a time of day only. One rule gives it a day: keep the last instant whose date is
known, and take the day that puts the time of day nearest to it, which is within 12 hours. This
works at midnight, whichever sentence of an epoch comes first, for a date sentence that is ahead of
the fixes, and for a step back over midnight. Each fix that got its day becomes the known instant,
so a receiver that sends the date once is followed for weeks. Near midnight some receivers change
the date a second too late or too early: for one minute the continuous day wins.

A receiver's date may be wrong. GPS counts its weeks in 10 bits, so an old receiver is 1024 weeks
behind; and before it receives satellites, a receiver has the date of its manufacture. On a live
line a date from before this release is therefore corrected by 1024 weeks, and used once it is
proven: by a system clock that is known to be right, or by a minute of fixes that agree with it.

A receiver that never sends the date (GGA and VTG only) gets it from another device on its line, or
from the system clock: only after a minute in which it could have sent it, only from a clock that is
known to be right, and always with a flag. Otherwise the fix has no date; none is invented.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import date

from telemetry_agent.fields import DAY_1970
from telemetry_agent.gnss.diagnosis import Reason
from telemetry_agent.gnss.field_values import DAY_MS, Instant, time_of_day_ms
from telemetry_agent.model import Flag

WallClock = Callable[[], int | None]
"""Milliseconds since 1970 by a system clock that is known to be synchronised, else None."""

# No receiver is older than the program that reads it. Releases move this.
_EARLIEST_DAY = date(2026, 1, 1).toordinal() - DAY_1970
_LATEST_DAY = date(2036, 1, 1).toordinal() - DAY_1970
_ROLLOVER_DAYS = 1024 * 7  # GPS counts its weeks in 10 bits
# The dates of a receiver without satellites, which counts on from there. 2080-01-05, another one,
# is 1980 in RMC and out of range in ZDA. Only of the days around the beginning of GPS time there is
# certainly no recording.
_GPS_BEGINS_DAY = date(1980, 1, 6).toordinal() - DAY_1970
_AROUND_IT_DAYS = 7
_STARTUP_DAY = date(2013, 9, 1).toordinal() - DAY_1970
_DATELESS_S = 60.0
_PROOF_S = 60.0
_STEP_AT_MOST_S = 10.0  # between two fixes; some receivers take 8 s
_AROUND_MIDNIGHT_MS = 60_000


class Dates:
    """Gives each time of day of one receiver its day.

    ``counts`` has ``rollover`` (dates from before this release that 1024 or 2048 weeks bring into
    the ten years after it), ``old-date`` (older dates, and the one of a receiver without
    satellites), ``future-date`` (more than ten years after this release), ``late-date`` (changed
    at another time than midnight), ``no-date`` (fixes without a day).

    Args:
        wall_clock: dates a receiver that sends no date, and detects one that is ahead.
        fix_rollover: whether to correct dates from before this release.
        prove_rollover: whether a corrected date must be proven before it counts.
        day: in days since 1970, for a recording without a date.
        other_known_ms: the ``known_ms`` of another device on this line.
    """

    corrected = False
    """Whether this receiver's dates are corrected by 1024 or 2048 weeks."""
    reason: Reason = "no-date"
    """Why no date is known: the receiver sends none, or one that cannot be used."""

    def __init__(
        self,
        *,
        wall_clock: WallClock,
        fix_rollover: bool,
        prove_rollover: bool = True,
        day: int | None = None,
        other_known_ms: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.known_ms: int | None = None
        """The last instant whose day is known, in milliseconds since 1970."""
        self._wall_clock = wall_clock
        self._fix_rollover = fix_rollover
        self._prove_rollover = prove_rollover
        self._day = day
        self._other_known_ms = other_known_ms
        self._corrected_ms: int | None = None  # the last instant with a corrected date
        self._agrees_since_s: float | None = None  # in ``_valid_s``; None: from the next fix on
        self._valid_s = 0.0  # seconds with valid fixes
        self._last_fix: tuple[int, float] | None = None

    def count_in(self, counts: Counter[str]) -> None:
        """Use ``counts`` from now on."""
        self.counts = counts

    def learn(self, day: int, instant: Instant) -> None:
        """The receiver reports the day of an instant, in days since 1970."""
        time_ms = time_of_day_ms(instant)
        if day >= _LATEST_DAY:
            self.counts["future-date"] += 1
            self.reason = "future-date"
            return
        reported_ms = day * DAY_MS + time_ms
        begins = abs(day - _GPS_BEGINS_DAY) < _AROUND_IT_DAYS
        if day < _EARLIEST_DAY and (self._fix_rollover or begins):
            proven_ms = self._proven_ms(day, time_ms)
            if proven_ms is None:
                self.reason = "old-date"
                return
            reported_ms = proven_ms
        if self.known_ms is not None:
            ahead_ms = reported_ms - self.known_ms
            # A date less than 12 hours ahead agrees with the continuous day. If it is a little
            # ahead, it may be of a ZDA that runs ahead: only a fix makes that the known instant.
            if 0 <= ahead_ms < _AROUND_MIDNIGHT_MS:
                return
            if not 0 <= ahead_ms < DAY_MS // 2:
                reported_ms = self._around_midnight_ms(reported_ms, time_ms, self.known_ms)
        self.known_ms = reported_ms

    def _around_midnight_ms(self, reported_ms: int, time_ms: int, known_ms: int) -> int:
        """The continuous day, if the date turned too late or too early by less than a minute."""
        continuous_ms = _nearest_ms(time_ms, known_ms)
        if continuous_ms < known_ms:
            return reported_ms  # time stepped back: nothing shows which day is right
        late = reported_ms == continuous_ms - DAY_MS and time_ms < _AROUND_MIDNIGHT_MS
        early = reported_ms == continuous_ms + DAY_MS and time_ms >= DAY_MS - _AROUND_MIDNIGHT_MS
        if not (late or early):
            return reported_ms  # the receiver corrected its date
        self.counts["late-date"] += 1
        return continuous_ms

    def resolve(self, instant: Instant, now_s: float) -> tuple[int, tuple[Flag, ...]] | None:
        """The milliseconds since 1970 of a current fix, and the flags for doubts about them.

        None while no date is known.
        """
        time_ms = time_of_day_ms(instant)
        flags: tuple[Flag, ...] = ()
        wall_ms = self._wall_clock()
        # The time of valid fixes matters only while a date is missing, or waits for its proof.
        if self.known_ms is None or self._corrected_ms is not None:
            self._count_valid_time(time_ms, now_s)
            if self.known_ms is None and self._corrected_ms is not None and self._is_proven():
                self.known_ms = self._corrected_ms
        if self.known_ms is None and self._day is not None:
            self.known_ms = self._day * DAY_MS + time_ms  # later fixes continue from the first
        if self.known_ms is not None:
            fix_ms = self.known_ms = _nearest_ms(time_ms, self.known_ms)
        else:
            near_ms = self._other_known_ms()
            if near_ms is None and self._valid_s >= _DATELESS_S:
                near_ms = wall_ms
            if near_ms is None:
                self.counts["no-date"] += 1
                return None
            # ``known_ms`` stays unknown: only the receiver's own date may be learned.
            fix_ms, flags = _nearest_ms(time_ms, near_ms), ("date",)
        # A system clock that is behind is normal; a correct one shows a receiver that is ahead.
        if wall_ms is not None and fix_ms - wall_ms > DAY_MS:
            flags = ("time", *flags)
        return fix_ms, flags

    def _proven_ms(self, day: int, time_ms: int) -> int | None:
        """An instant with an old date, corrected; None if that is impossible or not yet proven."""
        candidates = (day + _ROLLOVER_DAYS, day + 2 * _ROLLOVER_DAYS)
        corrected = next((d for d in candidates if _EARLIEST_DAY <= d < _LATEST_DAY), None)
        if corrected is None or day == _STARTUP_DAY:
            self.counts["old-date"] += 1
            return None
        self.counts["rollover"] += 1
        corrected_ms = corrected * DAY_MS + time_ms
        # A date that does not continue the one before begins the proof again.
        before_ms, self._corrected_ms = self._corrected_ms, corrected_ms
        if before_ms is None or _nearest_ms(time_ms, before_ms) != corrected_ms:
            self._agrees_since_s = None
        wall_ms = self._wall_clock()
        agrees = wall_ms is not None and abs(corrected_ms - wall_ms) <= DAY_MS
        if not (agrees or self._is_proven()):
            return None
        self.corrected = True
        return corrected_ms

    def _is_proven(self) -> bool:
        """Whether fixes have agreed with the corrected date for a minute."""
        if not self._prove_rollover:
            return True
        since_s = self._agrees_since_s
        return since_s is not None and self._valid_s - since_s >= _PROOF_S

    def _count_valid_time(self, time_ms: int, now_s: float) -> None:
        """Count how long there have been valid fixes, and notice a jump of the receiver's time."""
        if self._last_fix is not None:
            last_ms, last_s = self._last_fix
            step_s = now_s - last_s
            # Between -12 and 12 hours, as a time of day has no day.
            reported_s = ((time_ms - last_ms + DAY_MS // 2) % DAY_MS - DAY_MS // 2) / 1000
            # A receiver whose time jumps has set its clock: its earlier dates prove nothing.
            if abs(reported_s - step_s) > _STEP_AT_MOST_S:
                self._agrees_since_s = None
            self._valid_s += min(max(step_s, 0.0), _STEP_AT_MOST_S)
        self._last_fix = time_ms, now_s
        if self._agrees_since_s is None:
            self._agrees_since_s = self._valid_s


def is_another_day(day: int, before: Iterable[int | None], instant: Instant) -> bool:
    """Whether a time has another date than before, and not one that turns at midnight."""
    around_midnight = abs(time_of_day_ms(instant) - DAY_MS // 2) > DAY_MS // 2 - _AROUND_MIDNIGHT_MS
    return not around_midnight and any(each not in {None, day} for each in before)


def _nearest_ms(time_of_day: int, known_ms: int) -> int:
    """The instant with this time of day that is nearest to a known one.

    Half a day is added before whole days are cut off, which rounds to the nearest day.
    """
    return (known_ms - time_of_day + DAY_MS // 2) // DAY_MS * DAY_MS + time_of_day
