"""Which day a time of day belongs to.

Most sentences carry a time of day only. One rule gives it a day: keep the last instant whose date
is known, and take the day that puts the time of day nearest to it, which is within 12 hours. This
carries midnight whichever sentence of an epoch comes first, a date sentence that runs ahead of
the fixes, and a step back over midnight. Each fix that got its day becomes the known instant
itself, so that a receiver which says the date once is followed for weeks.

A receiver that never says the date (GGA and VTG only) is given it by the system clock, but only
after a minute in which it had the chance to say it, only from a clock that is known to be right,
and with a flag. Otherwise the fix has no date, and nobody invents one.
"""

from collections import Counter
from collections.abc import Callable
from datetime import date

from telemetry_agent.gnss.field_values import DAY_MS, Instant, time_of_day_ms
from telemetry_agent.model import Flag

WallClock = Callable[[], int | None]
"""Milliseconds since 1970 by a system clock that is known to be synchronised, else None."""

_DAY_1970 = date(1970, 1, 1).toordinal()
# No receiver is older than the program that reads it. Releases move this.
_EARLIEST_DAY = date(2026, 1, 1).toordinal() - _DAY_1970
_LATEST_DAY = date(2036, 1, 1).toordinal() - _DAY_1970
_ROLLOVER_DAYS = 1024 * 7  # GPS counts its weeks in 10 bits
_DATELESS_S = 60.0


class Dates:
    """Gives each time of day its day.

    With ``fix_rollover`` a date from before this release gets 1024 weeks added, once or twice, if
    that brings it within ten years after the release; otherwise it is no date. ``counts`` has
    ``rollover`` (dates that were moved), ``old-date`` (that could not be), ``no-date`` (fixes
    that got no day).
    """

    def __init__(self, *, wall_clock: WallClock, fix_rollover: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._wall_clock = wall_clock
        self._fix_rollover = fix_rollover
        self._known_ms: int | None = None
        self._dateless_since_s: float | None = None

    def learn(self, day: int, instant: Instant) -> None:
        """The receiver says that this instant is on this day, in days since 1970."""
        if self._fix_rollover and day < _EARLIEST_DAY:
            moved = (day + _ROLLOVER_DAYS, day + 2 * _ROLLOVER_DAYS)
            day = next((then for then in moved if _EARLIEST_DAY <= then < _LATEST_DAY), 0)
            self.counts["rollover" if day else "old-date"] += 1
            if not day:
                return
        self._known_ms = day * DAY_MS + time_of_day_ms(instant)

    def place(self, instant: Instant, now_s: float) -> tuple[int, tuple[Flag, ...]] | None:
        """The milliseconds since 1970 of a fix that is made now, and what is doubtful in them.

        None while no date is known.
        """
        time_ms = time_of_day_ms(instant)
        wall_ms = self._wall_clock()
        if self._known_ms is not None:
            self._known_ms = _nearest_ms(time_ms, self._known_ms)
            # A system clock that is behind is normal; one that is right can convict the receiver.
            ahead = wall_ms is not None and self._known_ms - wall_ms > DAY_MS
            return self._known_ms, ("time",) if ahead else ()
        if self._dateless_since_s is None:
            self._dateless_since_s = now_s
        if wall_ms is None or now_s - self._dateless_since_s < _DATELESS_S:
            self.counts["no-date"] += 1
            return None
        return _nearest_ms(time_ms, wall_ms), ("date",)


def _nearest_ms(time_of_day: int, known_ms: int) -> int:
    return (known_ms - time_of_day + DAY_MS // 2) // DAY_MS * DAY_MS + time_of_day
