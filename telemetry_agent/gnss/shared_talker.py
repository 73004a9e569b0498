"""Two receivers on one line that speak as the same talker.

Nothing in a sentence tells them apart, so what they say is taken for one receiver's, and its fixes
may hop from one to the other. Here it is only noticed: for some epochs on end their times
alternate, or one has a fix and the other has none, or two positions of one time are farther apart
than the device moves until the next.
"""

from collections.abc import Mapping

from telemetry_agent.gnss.field_values import DAY_MS, Instant
from telemetry_agent.gnss.sentences import Report

_EPOCHS = 6  # on end
_APART_E9 = 100_000  # 11 m


class SharedTalker:
    """Watches the epochs of one owner."""

    noticed = False
    """Whether there are two, as it seems."""

    def __init__(self) -> None:
        self._turns = 0  # how often on end time went the other way,
        self._changes = 0  # a fix came or went,
        self._doubles = 0  # there were two answers for one time
        self._instant: Instant | None = None
        self._forward = True
        self._seen: Mapping[str, int] = {}
        self._first: Report | None = None
        self._before: Report | None = None  # what came again in the epoch of ``_first``
        self._second: Report | None = None  # in the open one

    def repeated(self, report: Report) -> None:
        """A position sentence came again with the time of the open epoch."""
        self._second = report

    def closed(
        self, first: Report | None, instant: Instant | None, seen: Mapping[str, int]
    ) -> None:
        """An epoch was judged: its position if it has one, its time, and the tags that it had.

        The position sentence that came again came before that.
        """
        changed = (first is None) != (self._first is None)
        changed = changed and not seen.keys().isdisjoint(self._seen)
        self._changes = self._changes + 1 if changed else 0
        if instant is not None:
            self._turn(instant)
        self._doubles = self._doubles + 1 if _are_two(self._first, self._before, first) else 0
        self._first, self._before, self._second, self._seen = first, self._second, None, seen
        if max(self._turns, self._changes, self._doubles) >= _EPOCHS:
            self.noticed = True

    def _turn(self, instant: Instant) -> None:
        if self._instant is not None:
            forward = (instant - self._instant) % DAY_MS < DAY_MS // 2
            self._turns = self._turns + 1 if forward != self._forward else 0
            self._forward = forward
        self._instant = instant


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
