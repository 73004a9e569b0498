"""Two receivers on one line with the same talker.

No sentence distinguishes them, so they are taken for one receiver, and its fixes may jump between
the two. This module only detects it, by what one receiver does not do in several epochs in a row:
its time steps back and forth, its fix comes and goes, one time has two positions that are farther
apart than the device moves until the next time, or two talkers of satellite systems take turns.
"""

from telemetry_agent.gnss.epoch import Epoch, Position, Report
from telemetry_agent.gnss.field_values import DAY_MS

_EPOCHS = 6  # in a row
_APART_E9 = 100_000  # 11 m


class SharedTalker:
    """Watches the epochs of one owner."""

    suspected = False
    """Whether there seem to be two receivers."""

    def __init__(self) -> None:
        self._sign = ""  # what the last epoch did that one receiver does not do
        self._epochs = 0  # how many in a row did so
        self._forward = True
        self._repeated: Report | None = None  # in the open epoch
        # Of the epoch before:
        self._epoch = Epoch()
        self._first: Position | None = None
        self._second: Report | None = None

    def repeated(self, report: Report) -> None:
        """A position sentence came again with the time of the open epoch."""
        self._repeated = report

    def closed(self, epoch: Epoch, position_e9: Position | None) -> None:
        """Compare an epoch and its trusted position with the epoch before."""
        sign = self._sign_of_two(self._epoch, epoch, position_e9) if self._epoch.seen else ""
        self._epoch, self._first, self._second = epoch, position_e9, self._repeated
        self._repeated = None
        self._epochs = self._epochs + 1 if sign == self._sign else 1
        self._sign = sign
        if sign and self._epochs >= _EPOCHS:
            self.suspected = True

    def _sign_of_two(self, before: Epoch, epoch: Epoch, position_e9: Position | None) -> str:
        first_e9 = self._first
        if self._second is not None and _are_two(first_e9, self._second.position_e9, position_e9):
            return "two positions at one time"
        if before.instant is not None and epoch.instant is not None:
            forward = (epoch.instant - before.instant) % DAY_MS < DAY_MS // 2
            if forward != self._forward:
                self._forward = forward
                return "time changes its direction"
        if first_e9 is None or position_e9 is None:
            return "the fix comes or goes" if first_e9 != position_e9 else ""
        # Two talkers that share one instant are one receiver, so only epochs without a common one
        # take turns: some receivers send RMC of one second and GGA of the next.
        if not epoch.seen.keys().isdisjoint(before.seen):
            return ""  # the usual case: the same sentences again
        swapped = {tag[:2] for tag in epoch.seen}.isdisjoint(tag[:2] for tag in before.seen)
        return "another talker has the position" if swapped else ""


def _are_two(first: Position | None, second: Position | None, following: Position | None) -> bool:
    """Whether the first two, of one time, are of two receivers; ``following`` is later."""
    if first is None or second is None:
        return first != second  # one has a fix, and the other has none
    if following is None:
        return False
    return _apart_e9(first, second) > 2 * _apart_e9(first, following) + _APART_E9


def _apart_e9(one: Position, other: Position) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))
