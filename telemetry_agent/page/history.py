"""How the queue did over the last hours, in bounded memory, by the monotonic clock."""

from typing import NamedTuple

_SAMPLES = 720
_FIRST_STEP_S = 1.0
_LAST_STEP_S = 64.0  # 720 of them are 12.8 hours


class Sample(NamedTuple):
    """One moment."""

    uptime_s: float
    pending: int
    delivered: int
    """Since the start."""


class History:
    """At most 720 samples from the start until now, then the newest.

    They come each second at first. Whenever there are too many, each second one goes and the
    steps double, up to about a minute: a young agent is seen closely, and an old one far back.
    """

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._step_s = _FIRST_STEP_S

    def due_s(self) -> float:
        """The uptime at which the next sample is due."""
        return self.samples[-1].uptime_s + self._step_s if self.samples else 0.0

    def add(self, sample: Sample) -> None:
        """Keep it."""
        self.samples.append(sample)
        if len(self.samples) <= _SAMPLES:
            return
        if self._step_s < _LAST_STEP_S:
            self._step_s *= 2
            self.samples = self.samples[::2]
        else:
            del self.samples[0]
