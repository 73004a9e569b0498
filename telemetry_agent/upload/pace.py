"""When to send: after a failure, and where the endpoint is crowded.

Theory of operation. A failure is waited out, the longer the more there were in a row (``Backoff``).
The first success shows that the endpoint can be reached. It does not show that there is room: if a
fleet sends more than its endpoint can take, an agent that gets through would try again at once with
a whole backlog, and keep out the others, which wait longer and longer.

So an agent remembers how crowded it is, as a *level*: each "later" raises it by one, each delivery
lowers it by a quarter, which settles where one request in five is refused. While it is above 0, the
batches of the backlog are as far apart as after so many failures in a row. The return of the
network raises it, too, because all agents that lost it return together. Fresh fixes are sent when
they are due.

What that is good for, and the quarter, was measured with ``benchmarks/fleet.py``.
"""

import math

from telemetry_agent.upload.retry import Backoff

_DOWN = 0.25
_KNOCK_AFTER = 3


class Pace:
    """The waits of one uploader."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._failures = 0  # in a row
        self._refusals = 0  # "later" in a row
        self._level = 0.0
        self._backlog_from_s = 0.0

    def failed(self, *, crowded: bool, retry_after_s: float | None) -> float:
        """An attempt delivered nothing. Returns how long to wait.

        Args:
            crowded: The endpoint itself said "later"; otherwise it is unknown whether it has room.
            retry_after_s: What it asked for. The wait is added to it, because agents that were
                asked the same would return in step otherwise.
        """
        self._failures += 1
        self._refusals = self._refusals + 1 if crowded else 0
        if crowded:
            self._level = min(self._level + 1, self._backoff.last_level)
        attempt = max(self._failures, math.ceil(self._level))
        return (retry_after_s or 0.0) + self._backoff.wait_s(attempt)

    def delivered(self, now_s: float, *, live: bool) -> None:
        """The endpoint took a batch."""
        self._failures = self._refusals = 0
        self._level = max(0.0, self._level - _DOWN)
        if not live:
            spacing_s = self._backoff.wait_s(math.ceil(self._level)) if self._level else 0.0
            self._backlog_from_s = now_s + spacing_s

    def network_returned(self, spread_s: float) -> None:
        """It is there again, for us within ``spread_s`` of all others."""
        self._level = max(self._level, self._backoff.level_of(spread_s))

    def hurry(self) -> None:
        """A user waits for the backlog: forget everything."""
        self._failures = self._refusals = 0
        self._level = self._backlog_from_s = 0.0

    @property
    def knocks(self) -> bool:
        """Whether the next attempt will probably get "later", so that it need not carry much."""
        return self._refusals >= _KNOCK_AFTER

    def backlog_in_s(self, now_s: float) -> float:
        """How long the backlog has to wait for its turn."""
        return max(0.0, self._backlog_from_s - now_s)
