"""How long to wait before the next attempt."""

import math
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tenacity import RetryCallState, Retrying, wait_exponential

_RETRY_AFTER_MAX_S = 3600.0


class Backoff:
    """Full jitter: uniformly between nothing and min(cap, initial * 2^(attempt - 1)).

    The jitter comes after the cap. The other way round, a fleet that has reached the cap comes
    back in step. tenacity's ``wait_random_exponential`` draws in the same way, but from the random
    numbers of the whole process; here the ceiling is tenacity's and the draw is a seam.
    """

    def __init__(self, initial_s: float, cap_s: float, rng: random.Random) -> None:
        self._ceiling = wait_exponential(multiplier=initial_s, max=cap_s)
        self._initial_s = initial_s
        self._cap_s = cap_s
        self._rng = rng

    def level_of(self, ceiling_s: float) -> float:
        """After how many failures in a row the wait is drawn from up to ``ceiling_s``."""
        return max(0.0, 1 + math.log2(ceiling_s / self._initial_s)) if ceiling_s else 0.0

    @property
    def last_level(self) -> float:
        """From how many failures on the waits grow no more."""
        return self.level_of(self._cap_s)

    def wait_s(self, attempt: int) -> float:
        """Seconds to wait after the ``attempt``-th failure in a row, counted from 1."""
        state = RetryCallState(Retrying(), fn=None, args=(), kwargs={})
        state.attempt_number = attempt
        return self._rng.uniform(0, self._ceiling(state))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What the ``Retry-After`` of an answer asks for, at most 1 h; ``None`` when it asks nothing.

    A date is read against the answer's own ``Date``: the clock of the device may be wrong.
    ``headers`` have their names in lower case.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        wait_s = float(value)
    else:
        then, now = _date(value), _date(headers.get("date", ""))
        if then is None or now is None:
            return None
        wait_s = (then - now).total_seconds()
    return min(max(wait_s, 0.0), _RETRY_AFTER_MAX_S)


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
