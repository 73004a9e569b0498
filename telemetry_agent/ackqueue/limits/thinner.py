"""Thins what waits, a window at a time, pass by pass over its older half.

A pass goes from the middle towards the oldest, so that what stays of each window can move up next
to what stays of the one before, and the numbers that come free are one range. A pass that finds
little to take is the last at its level.
"""

from telemetry_agent.ackqueue.file.rows import at_place, is_sound
from telemetry_agent.ackqueue.ledger import Window
from telemetry_agent.ackqueue.limits.thinning import COARSEST, thin
from telemetry_agent.ackqueue.shared_state import SharedState

_ROWS_PER_WINDOW = 1000
_WINDOWS_PER_STEP = 8
_FEW_ROWS = 100


class Thinner:
    """For the holder of the disk lock."""

    def __init__(self, shared: SharedState) -> None:
        self._shared = shared
        self.begin()

    def begin(self) -> None:
        """Begin again, with the finest level."""
        self._level = 0
        self._begin_pass()

    def step(self) -> bool:
        """Take some fixes out of one window; they are gone with the next write.

        Returns:
            False: There is nothing left that can be thinned.

        Raises:
            StorageError: The file cannot be read.
        """
        with self._shared.lock:
            if self._shared.ledger.ready_rows.free.total < _FEW_ROWS:
                return False
        for _ in range(_WINDOWS_PER_STEP):
            window = self._next_window()
            if window is None:
                if not self._end_pass():
                    return False
            elif self._thin(window):
                break
        return True

    def _begin_pass(self) -> None:
        self._below: int | None = None
        self._seen = self._gone = 0

    def _next_window(self) -> Window | None:
        ledger = self._shared.ledger
        with self._shared.lock:
            below = ledger.ready_rows.middle() if self._below is None else self._below
            window = ledger.thinnable(below, _ROWS_PER_WINDOW)
        if window is not None:
            self._below = window.lo
        return window

    def _end_pass(self) -> bool:
        """Returns whether another pass is to be made."""
        if self._gone * 8 <= self._seen:
            self._level += 1
        self._begin_pass()
        if self._level <= COARSEST:
            return True
        self._level = COARSEST
        return False

    def _thin(self, window: Window) -> bool:
        """Returns whether it was worth it."""
        shared = self._shared
        stored = shared.read(window.lo, window.hi)
        if missing := window.hi - window.lo + 1 - len(stored):
            shared.miss(missing)
        rows = [row for row in stored if is_sound(row)]
        if len(rows) < len(stored):
            shared.damage([row[0] for row in stored if not is_sound(row)])
            return True
        kept = thin(rows, self._level)
        gone = len(rows) - len(kept)
        self._seen += len(rows)
        self._gone += gone
        if gone * 16 < len(rows):
            return False
        with shared.lock:
            numbers = shared.ledger.thin(window, len(kept))
            shared.writer.move(
                [at_place(row, number) for number, row in zip(numbers, kept, strict=True)]
            )
        return True
