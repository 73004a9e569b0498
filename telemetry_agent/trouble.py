"""Reports trouble once when it begins and once when it ends, however often it is seen between.

An agent in the field fails at the same thing a thousand times a day: an unreachable network, a
receiver without power, a full disk. Each attempt counts, but only changes are logged. Trouble that
begins and ends every few seconds must not fill the log either: if it lasts less than a minute, it
is logged at most once a minute, ten times, and after that once an hour.
"""

import logging
from collections.abc import Mapping

from telemetry_agent.clock import Clock
from telemetry_agent.errors import counted

_REPORTS_MAX = 10.0
_REPORTS_PER_S = 1 / 3600
_LASTS_S = 60.0
_APART_S = 60.0


class Trouble:
    """One thing that can fail again and again.

    Threads may share one: then a line may come twice, and no call fails.
    """

    def __init__(self, log: logging.Logger, clock: Clock) -> None:
        self.failures = 0
        """Failures since the trouble began."""
        self._log = log
        self._clock = clock
        self._since_s: float | None = None
        self._reported: set[str] = set()  # kinds
        self._end_is_due = False  # the beginning was logged
        self._unreported = 0  # troubles that came and went without a line
        self._reports_left = _REPORTS_MAX
        self._counted_s = clock.monotonic_s()
        self._began_report_s = float("-inf")

    @property
    def lasts(self) -> bool:
        """Whether the trouble continues."""
        return self._since_s is not None

    def failed(
        self,
        text: str,
        *,
        kind: str | None = None,
        level: int = logging.WARNING,
        counts: bool = True,
        fields: Mapping[str, object] | None = None,
    ) -> None:
        """Count a failure. Log it unless one of its kind was logged since the trouble began.

        Args:
            text: what is wrong, and what to do.
            kind: failures of one kind are logged once; the text by default.
            level: of the line.
            counts: False if nothing was tried and the failure was only seen again.
            fields: for the journal.
        """
        now_s = self._clock.monotonic_s()
        since_s = self._since_s
        if since_s is None:
            since_s = self._since_s = now_s
            self.failures = 0
        self.failures += counts
        if (kind or text) not in self._reported and self._may_report(since_s, now_s):
            self._reported.add(kind or text)
            self._end_is_due = True
            self._log.log(level, "%s", text, extra={"fields": dict(fields or {})})

    def over(self, text: str, *, fields: Mapping[str, object] | None = None) -> None:
        """End the trouble; ``text`` says what works again. Logged if its beginning was."""
        since_s, self._since_s = self._since_s, None
        if since_s is None:
            return
        lasted_s = self._clock.monotonic_s() - since_s
        if not self._end_is_due:
            self._unreported += 1
            return
        before = counted(self._unreported, "short one")
        self._log.info(
            "%s after %.0f s (failures: %d%s)",
            text,
            lasted_s,
            self.failures,
            f"; {before} before" if self._unreported else "",
            extra={"fields": {"COUNT": self.failures, **(fields or {})}},
        )
        self._reported.clear()
        self._end_is_due = False
        self._unreported = 0

    def forget(self, kind: str) -> None:
        """Log the next failure of this kind again: the user has changed something."""
        self._reported.discard(kind)
        self._began_report_s = float("-inf")

    def _may_report(self, since_s: float, now_s: float) -> bool:
        """Whether to log now; if the trouble is new, that is one report less to spare."""
        gained = (now_s - self._counted_s) * _REPORTS_PER_S
        self._reports_left = min(_REPORTS_MAX, self._reports_left + gained)
        self._counted_s = now_s
        if self._end_is_due or now_s - since_s >= _LASTS_S:
            return True  # a new cause of reported trouble, or trouble that lasts
        if self._reports_left < 1 or now_s - self._began_report_s < _APART_S:
            return False
        self._reports_left -= 1
        self._began_report_s = now_s
        return True
