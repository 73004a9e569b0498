"""The uploader's status: its state word, its counters, and a log line when something changes."""

import logging
from dataclasses import dataclass, replace
from typing import Any

from telemetry_agent.clock import Clock
from telemetry_agent.model import Deferred, Delivered, Outcome, UploadState
from telemetry_agent.trouble import Trouble

_log = logging.getLogger(__name__)


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
    waits: int = 0
    """How often an attempt ended in a wait."""
    hurries: int = 0
    """How often ``hurry`` took effect."""
    last_error: str | None = None
    last_error_s: float | None = None
    last_delivery_s: float | None = None
    backlog_error: str | None = None
    """Why the endpoint refuses the backlog, while it may take other fixes."""
    inconsistent: bool = False
    """The endpoint accepted a fix that it had refused."""
    next_attempt_s: float | None = None
    """When a wait ends that the endpoint or the network has imposed."""


class StatusKeeper:
    """Keeps the status and logs its changes: when trouble begins, its kinds, when it ends.

    It outlives the uploader, which a reload replaces: an outage does not end with a reload.
    """

    def __init__(self, clock: Clock) -> None:
        self.status = UploadStatus(since_s=clock.monotonic_s())
        self.asked_until_s = 0.0
        """Until when the endpoint asked not to be asked, by ``Retry-After``; monotonic."""
        self.waits_in_a_row = 0
        """How many attempts ended in a wait since the endpoint took a fix."""
        self._backlog_errors: dict[str, str] = {}  # by device
        self._trouble = Trouble(_log, clock)
        self._report_refused = False

    def count(self, **more: int) -> None:
        """Add to the counters of these names."""
        sums = {name: getattr(self.status, name) + count for name, count in more.items()}
        self.status = replace(self.status, **sums)

    def dead_lettered(self, count: int, reason: str) -> None:
        """Count fixes that became dead letters."""
        before = self.status.dead_letters
        self.count(dead_letters=count)
        # Log the first, the tenth, the hundredth: one bad day must not flood the log.
        if not before or len(str(before + count)) > len(str(before)):
            _log.warning(
                "a fix became a dead letter (%s); dead letters: %d",
                reason,
                before + count,
                extra={"fields": {"COUNT": before + count}},
            )

    def reloaded(self, *, changed: bool) -> None:
        """Log once more what is wrong, after a reload: all of it if the config ``changed``."""
        if changed:  # perhaps another endpoint
            self.asked_until_s = 0.0
            self.backlog_taken()
        inconsistent = self.status.inconsistent and not changed
        next_s = self.asked_until_s or None
        self.status = replace(self.status, next_attempt_s=next_s, inconsistent=inconsistent)
        for kind in ("held", "portal", "outage") if changed else ("held",):
            self._trouble.forget(kind)

    def found_inconsistent(self, reason: str, refusals: int) -> None:
        """Note that the endpoint accepts what it refused (``reason``): its refusals prove less."""
        if not self.status.inconsistent:
            self.status = replace(self.status, inconsistent=True)
            _log.warning(
                "the endpoint accepts a fix that it refused before (%s): "
                "a fix becomes a dead letter after %d refusals from now on",
                reason,
                refusals,
            )

    def backlog_refused(self, device: str, reason: str) -> None:
        """Note why the fixes of a device are refused, while others may be taken."""
        self._backlog_errors[device] = f"device {device}: {reason}"
        self._note_backlog()

    def backlog_taken(self, *devices: str) -> None:
        """Note that fixes of these devices are taken; of all if none is named."""
        if self._backlog_errors:
            for device in devices or list(self._backlog_errors):
                self._backlog_errors.pop(device, None)
            self._note_backlog()

    def _note_backlog(self) -> None:
        reasons = "; ".join(self._backlog_errors.values())
        self.status = replace(self.status, backlog_error=reasons or None)

    def asked_to_wait(self, until_s: float) -> None:
        """The endpoint asked not to be asked before this time."""
        self.asked_until_s = until_s

    def wait_cut_short(self, next_s: float) -> None:
        """Note that the next attempt is made already at ``next_s``."""
        if self.status.next_attempt_s is not None:
            self.status = replace(self.status, next_attempt_s=next_s)

    def reported(self, outcome: Outcome, now_s: float, next_s: float, *, held: bool) -> None:
        """Note the outcome of a report without fixes: a refused one has no consequence."""
        if isinstance(outcome, Delivered):
            if not held:
                self.delivered(0, 0, now_s)
            return
        self.count(failed_requests=1)
        if isinstance(outcome, Deferred):
            self.trouble(outcome.state, outcome.reason, now_s, next_s)
        elif not self._report_refused:
            self._report_refused = True
            _log.info("the endpoint does not accept reports without fixes (%s)", outcome.reason)

    def delivered(self, count: int, unknown_names: int, now_s: float) -> None:
        """Count delivered fixes, and end any trouble."""
        self.asked_until_s = 0.0
        if count:
            self.waits_in_a_row = 0
        self._enter(
            "ok",
            now_s,
            delivered=self.status.delivered + count,
            unknown_names=self.status.unknown_names + unknown_names,
            last_delivery_s=now_s if count else self.status.last_delivery_s,
            next_attempt_s=None,
        )
        self._trouble.over("delivering again", fields={"STATE": "ok"})

    def trouble(
        self,
        state: UploadState,
        reason: str,
        now_s: float,
        next_s: float,
        *,
        attempted: bool = True,
    ) -> None:
        """Note that nothing can be delivered before ``next_s``."""
        self.waits_in_a_row += attempted
        self._enter(
            state,
            now_s,
            waits=self.status.waits + attempted,
            last_error=reason,
            last_error_s=now_s,
            next_attempt_s=next_s,
        )
        if state == "held":
            text = "uploads are held, nothing is lost: %s (remedy: `sudo telemetry-agent doctor`)"
            level = logging.ERROR
        else:
            text = f"cannot deliver ({state}): %s; trying again"
            level = logging.WARNING
        # The cause of one outage changes between no-route, unreachable and waiting: one line.
        kind = state if state in {"held", "portal"} else "outage"
        self._trouble.failed(
            text % reason, kind=kind, level=level, counts=attempted, fields={"STATE": state}
        )

    def _enter(self, state: UploadState, now_s: float, **changes: Any) -> None:
        # In one assignment: ``drain`` reads the state and the counters from another thread.
        since_s = self.status.since_s if state == self.status.state else now_s
        self.status = replace(self.status, state=state, since_s=since_s, **changes)
