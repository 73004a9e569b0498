"""What an outcome does to its fixes, and the delivered fixes that an endpoint asks for again.

``"resend": [{"stream": "9f0c…", "from": 17, "to": 40}]`` in an answer names fixes that the endpoint
misses by its own audit. Delivered fixes that are kept become ready again, under their own names.
They join the backlog, so live fixes go first. A request within a minute of the last one is ignored:
the endpoint repeats what it still misses.
"""

import logging
from collections.abc import Callable

from telemetry_agent.clock import Clock
from telemetry_agent.model import Batch, Deferred, Delivered, Held, Outcome, Record, Refused
from telemetry_agent.upload.interfaces import PROXY_FAILURES
from telemetry_agent.upload.leases import Leases
from telemetry_agent.upload.refusals import AllRefused, Refusals
from telemetry_agent.upload.upload_status import StatusKeeper

_log = logging.getLogger(__name__)

_RESEND_EVERY_S = 60.0
_RESEND_RANGES_MAX = 20
_RESEND_SEQS_MAX = 10_000
"""Of a range; a live fix waits while they are looked for."""

StopReason = Held | Deferred | AllRefused | None
"""Why no attempt should follow at once; ``None``: one may."""

Resend = Callable[[str, int, int], int]
"""Makes a stream's delivered fixes ready again, from one seq to another; returns how many."""


class OutcomeHandler:
    """Acknowledges, makes dead letters, gives back. The uploader decides how long to wait."""

    def __init__(
        self, leases: Leases, refusals: Refusals, keeper: StatusKeeper, clock: Clock
    ) -> None:
        self.went_well = False
        """Whether the last exchange delivered."""
        self.deliveries = 0
        """How often a batch was delivered, or some of it."""
        self._leases = leases
        self._refusals = refusals
        self._keeper = keeper
        self._clock = clock

    def apply(self, batch: Batch, outcome: Outcome, *, probing: bool) -> StopReason:
        """One outcome for a whole batch. ``probing``: nothing is concluded from a refusal.

        The one place where an outcome changes what becomes of fixes.
        """
        undecided = outcome if isinstance(outcome, Deferred | Held) else None
        answered = not isinstance(outcome, Deferred) or outcome.answered
        never_dead = not answered or isinstance(outcome, Held) or outcome.status in PROXY_FAILURES
        put_off = self._leases.is_put_off(batch)
        inconclusive = never_dead and (probing or put_off)
        # It may be the endpoint's fault or that of a fix.
        if (
            undecided
            and not inconclusive
            and self._refusals.counts_as_refusal(batch, undecided, never_dead=never_dead)
        ):
            outcome = Refused(undecided.reason, status=undecided.status)
        self.went_well = isinstance(outcome, Delivered)
        if not self.went_well:
            self._keeper.count(failed_requests=1)
        match outcome:
            case Delivered():
                return self._delivered(batch, outcome)
            case Refused(fitting=int()):
                # Only the answer was too large: smaller batches have smaller answers.
                self._leases.give_back(batch)
                self._refusals.forget(batch)
                return None
            case Refused(reason, too_large):
                if probing:  # everything is refused, so this shows nothing about this fix
                    return Held(reason)
                stop = self._refusals.refused(
                    batch, reason, too_large=too_large, never_dead=never_dead
                )
                return undecided if undecided and isinstance(stop, Deferred) else stop
            case Deferred() | Held():
                # A fix that was put off was expected to get no other: the others go on.
                expected = put_off and never_dead and not probing
                if not answered or expected:
                    # What was never sent may be thinned, and costs no write.
                    unsent = isinstance(outcome, Deferred) and not outcome.sent
                    self._leases.give_back(batch, answered=unsent)
                    self._refusals.forget(batch)
                return None if expected else outcome

    def apply_each(self, batch: Batch, outcomes: list[Outcome], *, probing: bool) -> StopReason:
        """One outcome for each fix, in their order; those without one were not sent.

        First the outcomes that need no decision, then the first of those that do. A fix that was
        accepted behind a refused one is its witness: it shows that the setup is right.
        """
        answers = dict(zip((record.seq for record in batch.records), outcomes, strict=False))
        last_taken = max((seq for seq, outcome in answers.items() if _is_taken(outcome)), default=0)

        # Neighbours of one kind are ended together. A fix with its own reason has its seq as kind.
        def kind(record: Record) -> object:
            outcome = answers.get(record.seq)
            if isinstance(outcome, Refused) and record.seq < last_taken:
                return record.seq  # each is judged alone, with a reason of its own
            if isinstance(outcome, Delivered) and (outcome.retry or outcome.rejected):
                return record.seq
            return type(outcome), isinstance(outcome, Deferred) and outcome.answered

        undecided: tuple[Batch, Outcome] | None = None
        for part in self._leases.parts(batch, kind):
            seq = part.records[0].seq
            outcome = answers.get(seq)
            lost = isinstance(outcome, Deferred) and not outcome.answered
            if outcome is None:
                self._leases.give_back(part)
                self._refusals.forget(part)  # it may be one refused fix, tried again
            elif _is_taken(outcome):
                self.apply(part, outcome, probing=probing)
            elif isinstance(outcome, Refused) and seq < last_taken:
                # Another fix was taken after it, so it is not the setup.
                self.apply(part, outcome, probing=False)
            elif undecided is None:
                # One fix is enough to judge an answer by; without an answer, all may have arrived.
                undecided = (part if lost else self._leases.first(part)), outcome
            else:
                self._leases.give_back(part, answered=not lost)
        return self.apply(*undecided, probing=probing) if undecided else None

    def _delivered(self, batch: Batch, outcome: Delivered) -> StopReason:
        taken = len(batch.records) - len(outcome.rejected) - len(outcome.retry)
        if taken or outcome.rejected:
            # First: as soon as nothing is pending, ``drain`` reports this count.
            self._keeper.delivered(taken, outcome.unknown_names, self._clock.monotonic_s())
        self._leases.acknowledge(batch, outcome)
        if not taken:
            self._refusals.forget(batch)
        if not taken and not outcome.rejected:  # it said yes, and kept back every fix
            self._keeper.count(failed_requests=1)
            return Deferred("the endpoint accepted no fix of the batch")
        self.deliveries += 1
        if taken:
            self._refusals.accepted(batch)
        return None


class Resending:
    """Does what the endpoint asks for. ``resend``: ``None`` ignores it all."""

    def __init__(self, resend: Resend | None) -> None:
        self._resend = resend
        self._not_before_s = float("-inf")

    def asked(self, outcome: Outcome, now_s: float) -> None:
        """Do what the answer asks for. May raise what ``resend`` raises."""
        ranges = outcome.resend if isinstance(outcome, Delivered) else ()
        if self._resend is None or not ranges or now_s < self._not_before_s:
            return
        self._not_before_s = now_s + _RESEND_EVERY_S
        count = sum(
            self._resend(stream, first, min(last, first + _RESEND_SEQS_MAX - 1))
            for stream, first, last in ranges[:_RESEND_RANGES_MAX]
        )
        if count:
            _log.info(
                "the endpoint asked for fixes again: %d are sent once more",
                count,
                extra={"fields": {"COUNT": count}},
            )


def _is_taken(outcome: Outcome) -> bool:
    return isinstance(outcome, Delivered) and not outcome.retry
