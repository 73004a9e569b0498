"""Two receivers on one line with the same talker.

No sentence distinguishes them, so they are taken for one receiver, and its fixes may jump between
the two. This module only detects it, by what one receiver does not do in several epochs in a row:
its time steps back and forth, its fix comes and goes, one time has two positions that are farther
apart than the device moves until the next time, or two talkers of satellite systems take turns.
"""

from telemetry_agent.gnss.epoch import Epoch, Report
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
        self._epoch: Epoch | None = None
        self._first: Report | None = None
        self._second: Report | None = None

    def repeated(self, report: Report) -> None:
        """A position sentence came again with the time of the open epoch."""
        self._repeated = report

    def closed(self, epoch: Epoch, position: Report | None) -> None:
        """Compare an epoch and its trusted position with the epoch before."""
        sign = "" if self._epoch is None else self._sign_of_two(self._epoch, epoch, position)
        self._epoch, self._first, self._second = epoch, position, self._repeated
        self._repeated = None
        self._epochs = self._epochs + 1 if sign == self._sign else 1
        self._sign = sign
        if sign and self._epochs >= _EPOCHS:
            self.suspected = True

    def _sign_of_two(self, before: Epoch, epoch: Epoch, position: Report | None) -> str:
        if self._second is not None and _are_two(self._first, self._second, position):
            return "two positions at one time"
        if before.instant is not None and epoch.instant is not None:
            forward = (epoch.instant - before.instant) % DAY_MS < DAY_MS // 2
            if forward != self._forward:
                self._forward = forward
                return "time changes its direction"
        first = self._first
        if (first and first.tag[:2]) == (position and position.tag[:2]):
            return ""
        # Two talkers that share one instant are one receiver, so only epochs without a common one
        # take turns: some receivers send RMC of one second and GGA of the next.
        swapped = {tag[:2] for tag in epoch.seen}.isdisjoint(tag[:2] for tag in before.seen)
        if first and position:
            return "another talker has the position" if swapped else ""
        return "" if swapped else "the fix comes or goes"


def _are_two(first: Report | None, second: Report, following: Report | None) -> bool:
    """Whether the first two, of one time, are of two receivers; ``following`` is later."""
    if not (second.veto or second.position_e9):
        return False
    if first is None or second.veto:
        return (first is None) != second.veto  # one has a fix, and the other has none
    if following is None:
        return False
    return _apart_e9(first, second) > 2 * _apart_e9(first, following) + _APART_E9


def _apart_e9(one: Report, other: Report) -> int:
    if one.position_e9 is None or other.position_e9 is None:
        return 0
    return max(abs(a - b) for a, b in zip(one.position_e9, other.position_e9, strict=True))
