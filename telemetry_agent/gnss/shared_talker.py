"""Two receivers on one line with the same talker.

No sentence distinguishes them, so they are taken for one receiver, and its fixes may jump between
the two. This module only detects it: each position is back where the last but one was, far from
the last one. Two that are close together do no harm.
"""

from collections import deque
from math import inf

from telemetry_agent.gnss.epoch import Position

_IN_A_ROW = 12
_APART_E9 = 100_000  # 11 m


class SharedTalker:
    """Watches the positions of one owner."""

    suspected = False
    """Whether there seem to be two receivers."""

    def __init__(self) -> None:
        self._before: deque[Position | None] = deque(maxlen=2)
        self._returns = 0  # in a row

    def reported(self, position_e9: Position | None) -> None:
        """Note the next position; None: the owner reports that it has no fix."""
        if len(self._before) == 2:
            last_but_one, last = self._before
            near_e9 = 2 * _apart_e9(last_but_one, position_e9) + _APART_E9
            self._returns = self._returns + 1 if _apart_e9(last, position_e9) > near_e9 else 0
            self.suspected = self.suspected or self._returns >= _IN_A_ROW
        self._before.append(position_e9)


def _apart_e9(one: Position | None, other: Position | None) -> float:
    if one is None or other is None:
        return 0 if one == other else inf
    return max(abs(one[0] - other[0]), abs(one[1] - other[1]))
