"""How many fixes go into the next batch.

Three things bound it. *The config*: never more than ``max_batch``. *Time*: while one exchange
runs, a fresh fix waits, so an exchange should not take longer than a fresh fix may wait
(``flush_every``); and a batch that is too long for the deadline would never arrive. *The
endpoint*: what it called too large, in bytes, because one giant must not shrink the batches of all
others to its count.

A slow answer may be a slow server, which smaller batches only make worse. So slowness alone
shrinks a batch to a sixteenth at most. Time-outs shrink it down to one fix; from there it grows
while twice as long an exchange would still end in time.
"""


class Sizing:
    """The limit for the next batch, learned from the last."""

    def __init__(self, max_batch: int, hold_up_s: float, timeout_s: float) -> None:
        """``hold_up_s``: the longest that an exchange should take; ``timeout_s``: that it may."""
        self._max_batch = max_batch
        self._floor = max(1, max_batch // 16)
        self._hold_up_s = max(hold_up_s, 1.0)
        self._timeout_s = timeout_s
        self._count = max_batch
        self._max_bytes: int | None = None
        self._bytes_per_fix = 0.0

    def limit(self) -> int:
        """The most fixes that the next batch should hold, 1 or more."""
        if self._max_bytes is None or not self._bytes_per_fix:
            return self._count
        return min(self._count, max(1, int(self._max_bytes / self._bytes_per_fix)))

    def took(self, count: int, body_bytes: int, elapsed_s: float) -> None:
        """A batch of ``count`` fixes was answered after ``elapsed_s``."""
        self._bytes_per_fix = body_bytes / count
        full = count >= self._count
        if self._count < self._floor:
            grows = full and elapsed_s < self._timeout_s / 2
        elif elapsed_s > self._hold_up_s:
            self._count = max(self._floor, min(self._count, count // 2))
            grows = False
        else:
            grows = full and elapsed_s < self._hold_up_s / 2
        if grows:
            self._count = min(self._max_batch, 2 * self._count)

    def timed_out(self, count: int) -> None:
        """A batch of ``count`` fixes was on its way when the deadline passed."""
        self._count = max(1, min(self._count, count // 2))

    def too_large(self, count: int, body_bytes: int) -> None:
        """The endpoint called this batch too large."""
        self._bytes_per_fix = body_bytes / count
        half = body_bytes // 2
        self._max_bytes = half if self._max_bytes is None else min(self._max_bytes, half)
