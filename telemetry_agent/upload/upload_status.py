"""What the uploader tells: the state word, the counters, and a log line when something changes."""

import logging
from dataclasses import dataclass, replace

from telemetry_agent.model import UploadState

_log = logging.getLogger(__name__)

# A link that fails every few minutes must not fill the log. So many outages are told however short
# they are, and one more for each hour; past that, those that last.
_TOLD_MAX = 10.0
_TOLD_PER_S = 1 / 3600
_LASTS_S = 60.0


@dataclass(frozen=True, slots=True)
class UploadStatus:
    """A snapshot. Instants are monotonic seconds; counters run since the start."""

    state: UploadState = "ok"
    since_s: float = 0.0
    """When ``state`` began."""
    requests: int = 0
    failed_requests: int = 0
    """Those that delivered nothing."""
    delivered: int = 0
    """Fixes that the endpoint took."""
    dead_letters: int = 0
    unknown_names: int = 0
    """Names in answers that their batch did not hold."""
    sent_bytes: int = 0
    received_bytes: int = 0
    waits: int = 0
    """How often an attempt ended in a wait."""
    hurries: int = 0
    """How often ``hurry`` was heeded."""
    last_error: str | None = None
    last_error_s: float | None = None
    last_delivery_s: float | None = None
    next_attempt_s: float | None = None
    """When a wait ends that the endpoint or the network has imposed."""


class Account:
    """Keeps the status, and logs its changes once: the begin of trouble, its kinds, its end.

    It outlives the uploader, which is built anew by a reload: an outage does not end by that.
    """

    def __init__(self, now_s: float) -> None:
        self.status = UploadStatus(since_s=now_s)
        self._trouble_since_s: float | None = None
        self._failed_before = 0
        self._told: set[str] = set()
        self._end_is_due = False  # who was told of the begin is told of the end
        self._may_tell = _TOLD_MAX
        self._may_tell_since_s = now_s
        self._untold = 0  # outages since the last that was told
        self._report_refused = False

    def exchanged(self, sent_bytes: int, received_bytes: int, requests: int) -> None:
        """So many requests were made, of so many bytes."""
        self.status = replace(
            self.status,
            requests=self.status.requests + requests,
            sent_bytes=self.status.sent_bytes + sent_bytes,
            received_bytes=self.status.received_bytes + received_bytes,
        )

    def failed(self) -> None:
        """The last request delivered nothing."""
        self.status = replace(self.status, failed_requests=self.status.failed_requests + 1)

    def buried(self, count: int, reason: str) -> None:
        """So many fixes became dead letters."""
        before = self.status.dead_letters
        self.status = replace(self.status, dead_letters=before + count)
        # The first is said, then the tenth, the hundredth: a poisoned day is no flood of lines.
        if not before or len(str(before + count)) > len(str(before)):
            _log.warning(
                "the endpoint refused a fix (%s): %d dead letters",
                reason,
                before + count,
                extra={"fields": {"COUNT": before + count}},
            )

    def set_up_anew(self, *, otherwise: bool) -> None:
        """The config was read again, and may say ``otherwise``: tell anew what is wrong."""
        self.status = replace(self.status, next_attempt_s=None)
        if otherwise:
            self._told.clear()
        self._told.discard("held")

    def wait_cut_short(self, next_s: float) -> None:
        """The next attempt is made by then."""
        if self.status.next_attempt_s is not None:
            self.status = replace(self.status, next_attempt_s=next_s)

    def heeded(self) -> None:
        """Whoever asked to hurry sees from now on what came of it."""
        self.status = replace(self.status, hurries=self.status.hurries + 1)

    def report_refused(self, reason: str) -> None:
        """The endpoint takes no report without fixes; nothing else follows from that."""
        if not self._report_refused:
            self._report_refused = True
            _log.info("the endpoint takes no report without fixes (%s)", reason)

    def delivered(self, count: int, unknown_names: int, now_s: float) -> None:
        """The endpoint took so many fixes: whatever the trouble was, it is over."""
        self.status = replace(
            self.status,
            delivered=self.status.delivered + count,
            unknown_names=self.status.unknown_names + unknown_names,
            last_delivery_s=now_s,
            next_attempt_s=None,
        )
        self._enter("ok", now_s)
        if self._trouble_since_s is None:
            return
        if self._end_is_due:
            failed = self.status.failed_requests - self._failed_before
            _log.info(
                "delivering again after %.0f s and %d failed requests%s",
                now_s - self._trouble_since_s,
                failed,
                f" ({self._untold} short outages before were not told)" if self._untold else "",
                extra={"fields": {"STATE": "ok", "COUNT": failed}},
            )
            self._told.clear()
            self._end_is_due = False
            self._untold = 0
        else:
            self._untold += 1
        self._trouble_since_s = None

    def trouble(
        self,
        state: UploadState,
        reason: str,
        now_s: float,
        next_s: float,
        *,
        attempted: bool = True,
    ) -> None:
        """Nothing can be delivered before ``next_s``; an attempt has shown it, or the network."""
        self.status = replace(
            self.status,
            waits=self.status.waits + attempted,
            last_error=reason,
            last_error_s=now_s,
            next_attempt_s=next_s,
        )
        self._enter(state, now_s)
        if self._trouble_since_s is None:
            self._trouble_since_s = now_s
            self._failed_before = self.status.failed_requests - attempted
        # An outage wavers between its causes: one line for all of them.
        kind = state if state in {"held", "portal"} else "outage"
        if kind in self._told or (kind == "outage" and not self._tells(now_s)):
            return
        self._told.add(kind)
        self._end_is_due = True
        fields = {"STATE": state}
        if state == "held":
            text = "uploads are held, nothing is lost: %s; please correct the set-up"
            _log.error(text, reason, extra={"fields": fields})
        else:
            text = "nothing can be delivered (%s): %s; trying again"
            _log.warning(text, state, reason, extra={"fields": fields})

    def _tells(self, now_s: float) -> bool:
        """Whether this outage is worth a line by now."""
        gained = (now_s - self._may_tell_since_s) * _TOLD_PER_S
        self._may_tell = min(_TOLD_MAX, self._may_tell + gained)
        self._may_tell_since_s = now_s
        lasts = self._trouble_since_s is not None and now_s - self._trouble_since_s >= _LASTS_S
        if self._may_tell < 1 and not lasts:
            return False
        self._may_tell = max(0.0, self._may_tell - 1)
        return True

    def _enter(self, state: UploadState, now_s: float) -> None:
        if state != self.status.state:
            self.status = replace(self.status, state=state, since_s=now_s)
