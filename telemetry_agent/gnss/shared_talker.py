"""Two receivers on one line that speak as the same talker.

Nothing in a sentence tells them apart, so what they say is taken for one receiver's, and its fixes
may hop from one to the other. Here it is only noticed: for some epochs on end their times
alternate, or one has a fix and the other has none, or two positions of one time are farther apart
than the device moves until the next.
"""

from collections.abc import Mapping
from typing import NamedTuple

from telemetry_agent.gnss.field_values import DAY_MS, Instant
from telemetry_agent.gnss.sentences import Report

_EPOCHS = 6  # on end
_APART_E9 = 100_000  # 11 m


class Judged(NamedTuple):
    """What an epoch came to."""

    position: Report | None
    instant: Instant | None
    seen: Mapping[str, int]
    """Its tags."""


class SharedTalker:
    """Watches the epochs of one owner."""

    noticed = False
    """Whether there are two, as it seems."""
    watching = False
    """Whether ``closed`` is needed for the next epoch, however usual that is."""

    def __init__(self) -> None:
        self._turns = 0  # how often on end time went the other way,
        self._changes = 0  # a fix came or went,
        self._doubles = 0  # there were two answers for one time
        self._forward = True
        self._before: Report | None = None  # what came again in the epoch before
        self._second: Report | None = None  # in the open one

    def repeated(self, report: Report) -> None:
        """A position sentence came again with the time of the open epoch."""
        self._second = report
        self.watching = True

    def closed(self, before: Judged, now: Judged) -> None:
        """An epoch was judged, after another.

        Not needed while both have a position, or none, and time goes on, unless ``watching``.
        """
        changed = (now.position is None) != (before.position is None)
        changed = changed and not now.seen.keys().isdisjoint(before.seen)
        self._changes = self._changes + 1 if changed else 0
        if now.instant is not None and before.instant is not None:
            forward = (now.instant - before.instant) % DAY_MS < DAY_MS // 2
            self._turns = self._turns + 1 if forward != self._forward else 0
            self._forward = forward
        two = _are_two(before.position, self._before, now.position)
        self._doubles = self._doubles + 1 if two else 0
        self._before, self._second = self._second, None
        counted = max(self._turns, self._changes, self._doubles)
        self.watching = bool(counted) or not self._forward or self._before is not None
        if counted >= _EPOCHS:
            self.noticed = True


def _are_two(first: Report | None, second: Report | None, following: Report | None) -> bool:
    """Whether the first two, which say one time, are of two receivers; ``following`` is later."""
    if second is None or not (second.veto or second.position_e9):
        return False
    if first is None or second.veto:
        return (first is None) != second.veto
    if following is None:
        return False
    return _apart_e9(first, second) > 2 * _apart_e9(first, following) + _APART_E9


def _apart_e9(one: Report, other: Report) -> int:
    if one.position_e9 is None or other.position_e9 is None:
        return 0
    return max(abs(a - b) for a, b in zip(one.position_e9, other.position_e9, strict=True))
