"""When to try again: after a failure, and where the endpoint is crowded.

Theory of operation. After a failure the agent waits, and the more failures in a row, the longer
(``Pace.wait_s``). The first success shows that the endpoint can be reached. It does not show that
there is room: if a fleet sends more than its endpoint can take, an agent that gets through would
try again at once with a whole backlog, and keep out the others, which wait longer and longer.

So an agent remembers how crowded the endpoint is, as a *level*: each "later" raises it by one, each
delivery lowers it by a quarter, which settles where one request in five is refused. While it is
above 0, the batches of the backlog are as far apart as after that many failures in a row. The
return of the network raises it, too, because all agents that lost it return together. Fresh fixes
are sent when they are due.

What this gains, and the quarter, was measured with ``benchmarks/fleet.py``.
"""

import math
import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tenacity import RetryCallState, Retrying, wait_exponential

_RETRY_AFTER_MAX_S = 3600.0
_DOWN_PER_DELIVERY = 0.25
_BETWEEN_VALUES = re.compile("(?<![a-z]),")  # not the comma of a date, which follows its weekday


class Pace:
    """The waits of one uploader, from ``initial_s`` on, up to ``cap_s``."""

    def __init__(self, initial_s: float, cap_s: float, rng: random.Random) -> None:
        self._ceiling = wait_exponential(multiplier=initial_s, max=cap_s)
        self._initial_s = initial_s
        self._cap_s = cap_s
        self._rng = rng
        self._failures = 0  # in a row
        self._level = 0.0
        self._spaced_until_s = 0.0

    def wait_s(self, attempt: int) -> float:
        """Seconds to wait after the ``attempt``-th failure in a row, counted from 1.

        Full jitter: uniformly between nothing and min(cap, initial * 2^(attempt - 1)). The jitter
        comes after the cap. The other way round, a fleet that has reached the cap comes back in
        step. tenacity's ``wait_random_exponential`` draws in the same way, but from the random
        numbers of the whole process; here the ceiling is tenacity's, and ``rng`` draws.
        """
        state = RetryCallState(Retrying(), fn=None, args=(), kwargs={})
        state.attempt_number = attempt
        return self._rng.uniform(0, self._ceiling(state))

    def failed(self, *, crowded: bool, retry_after_s: float | None) -> float:
        """Note that an attempt delivered nothing. Returns how long to wait.

        Args:
            crowded: The endpoint itself said "later"; otherwise it is unknown whether it has room.
            retry_after_s: What it asked for. The wait is added to it, because agents that were
                asked the same would return in step otherwise.
        """
        self._failures += 1
        if crowded:
            self._level = min(self._level + 1, self._level_of(self._cap_s))
        attempt = max(self._failures, math.ceil(self._level))
        return (retry_after_s or 0.0) + self.wait_s(attempt)

    def delivered(self, now_s: float, *, live: bool) -> None:
        """Note that the endpoint took a batch."""
        self._failures = 0
        self._level = max(0.0, self._level - _DOWN_PER_DELIVERY)
        if not live:
            spacing_s = self.wait_s(math.ceil(self._level)) if self._level else 0.0
            self._spaced_until_s = now_s + spacing_s

    def put_off_backlog(self, until_s: float) -> None:
        """The endpoint does not take the backlog: only live fixes are sent until then."""
        self._spaced_until_s = until_s

    def network_returned(self, spread_s: float) -> None:
        """Expect a crowd: the others are back within ``spread_s`` too."""
        self._level = max(self._level, self._level_of(spread_s))

    def hurry(self) -> None:
        """Forget every wait: a user waits for the backlog."""
        self._failures = 0
        self._level = self._spaced_until_s = 0.0

    def backlog_in_s(self, now_s: float) -> float:
        """How long the backlog has to wait for its turn."""
        return max(0.0, self._spaced_until_s - now_s)

    def _level_of(self, ceiling_s: float) -> float:
        """After how many failures in a row the wait is drawn from up to ``ceiling_s``."""
        return 1 + math.log2(ceiling_s / self._initial_s) if ceiling_s else 0.0


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What the ``Retry-After`` of an answer asks for, at most 1 h; ``None`` when it asks nothing.

    A date is read against the answer's own ``Date``: the clock of the device may be wrong. Of
    several values, as a proxy adds to its server's, the longest counts. ``headers`` have their
    names in lower case.
    """
    now = _date(headers.get("date", ""))
    waits_s = []
    for part in _BETWEEN_VALUES.split(headers.get("retry-after", "")):
        value = part.strip()
        if value.isascii() and value.isdigit():
            waits_s.append(float(value))
        elif now is not None and (then := _date(value)) is not None:
            waits_s.append((then - now).total_seconds())
    return min(max([0.0, *waits_s]), _RETRY_AFTER_MAX_S) if waits_s else None


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
