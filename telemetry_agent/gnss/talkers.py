"""Two receivers on one line, or a plotter that repeats the receiver's sentences a second late.

The talkers of satellite systems are one group, as one receiver uses them all; any other talker is
its own. When epochs keep switching between two groups, one is followed (that of the satellite
systems, else the one that came first) and all others are ignored, until their own time shows that
the followed one was silent for 5 s. Only sentences that report a position count: a clock on the
line is no receiver. The system clock is not asked, so a recording is read like a live line.
"""

from telemetry_agent.gnss.field_values import DAY_MS, time_of_day_ms
from telemetry_agent.gnss.sentences import Message, Report

_GNSS = "GN"
_GNSS_TALKERS = frozenset({"GP", "GN", "GL", "GA", "GB", "BD", "GQ", "QZ", "GI"})
_SWITCHES_TO_FOLLOW = 5
_RUN_OF_ONE = 20  # epochs of one group in a row: the line is its own
_SILENCE_MS = 5000


class Talkers:
    """Decides who is listened to."""

    def __init__(self) -> None:
        self.followed: str | None = None
        """The group that is listened to; None: everybody."""
        self._ignored_since_ms: int | None = None
        self._last = ""
        self._switches = 0
        self._run = 0

    def admit(self, message: Message) -> bool:
        """While a group is followed: whether this sentence counts."""
        instant = message.instant
        if group(message.tag) == self.followed:
            if isinstance(message, Report):
                self._ignored_since_ms = None
            return True
        if instant is None:
            return False
        time_ms = time_of_day_ms(instant)
        if self._ignored_since_ms is None:
            self._ignored_since_ms = time_ms
        apart_ms = (time_ms - self._ignored_since_ms) % DAY_MS
        if not _SILENCE_MS <= apart_ms <= DAY_MS - _SILENCE_MS:
            return False
        self.followed = self._ignored_since_ms = None
        self._switches = 0
        return True

    def opens(self, tag: str) -> bool:
        """A sentence about a position, with this tag, would open an epoch: may it?"""
        if self.followed is not None:
            return True
        talker, last = group(tag), self._last
        if talker == last:
            self._run += 1
            if self._run > _RUN_OF_ONE:
                self._switches = 0
            return True
        self._run = 1
        self._last = talker
        if last:
            self._switches += 1
        if self._switches < _SWITCHES_TO_FOLLOW:
            return True
        self.followed = talker if talker == _GNSS else last
        return talker == self.followed


def group(tag: str) -> str:
    """What a talker belongs to: the satellite systems together, any other alone."""
    talker = tag[:2]
    return _GNSS if talker in _GNSS_TALKERS else talker
