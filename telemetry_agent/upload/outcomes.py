"""Does with the fixes of an attempt what its outcomes ask for."""

from collections.abc import Iterator
from itertools import groupby

from telemetry_agent.clock import Clock
from telemetry_agent.model import Batch, Deferred, Delivered, Held, Outcome, Refused
from telemetry_agent.upload.leases import Leases
from telemetry_agent.upload.refusals import AllRefused, Refusals
from telemetry_agent.upload.upload_status import StatusKeeper

Stop = Held | Deferred | AllRefused | None
"""Why no attempt should follow at once; ``None``: one may."""


class OutcomeHandler:
    """Acknowledges, buries, gives back. What waits after that is the uploader's to decide."""

    def __init__(
        self, leases: Leases, refusals: Refusals, keeper: StatusKeeper, clock: Clock
    ) -> None:
        self.went_well = False
        """Whether the last exchange delivered."""
        self.deliveries = 0
        """How often a batch was delivered, or some of it."""
        self.unanswered = False
        """Whether fixes got no answer; reset when they are made ready again."""
        self._leases = leases
        self._refusals = refusals
        self._keeper = keeper
        self._clock = clock

    def apply(self, batch: Batch, outcome: Outcome, *, probing: bool) -> Stop:
        """One outcome for a whole batch. ``probing``: nothing is concluded from a refusal.

        The one place where an outcome is matched.
        """
        if (
            isinstance(outcome, Deferred)
            and outcome.answered
            and outcome.may_be_a_fix
            and self._refusals.crashed(batch)
        ):
            outcome = Refused(outcome.reason, status=outcome.status)
        self.went_well = isinstance(outcome, Delivered)
        match outcome:
            case Delivered():
                return self._delivered(batch, outcome)
            case Refused(fitting=int()):
                # Only the answer was too large: smaller batches have smaller answers.
                self._keeper.failed()
                self._leases.give_back(batch)
                self._refusals.lost(batch)
                return None
            case Refused(reason, too_large):
                self._keeper.failed()
                return (
                    Held(reason)
                    if probing
                    else self._refusals.refused(batch, reason, too_large=too_large)
                )
            case Deferred():
                self._keeper.failed()
                if not outcome.answered:
                    self.unanswered = True
                    self._leases.give_back(batch, answered=False)
                    self._refusals.lost(batch)
                return outcome
            case Held():
                self._keeper.failed()
                return outcome

    def apply_each(self, batch: Batch, outcomes: list[Outcome], *, probing: bool) -> Stop:
        """One outcome for each fix, in their order; those without one were not sent.

        What decides itself comes first, then the first that asks for more. A refused fix has its
        witness where one behind it was taken.
        """
        taken = [at for at, outcome in enumerate(outcomes) if isinstance(outcome, Delivered)]
        last = taken[-1] if taken else -1
        asks: tuple[Batch, Outcome] | None = None
        rest: Batch | None = batch
        for outcome, at, length in _runs(outcomes, last):
            if rest is None:
                break
            part, rest = self._leases.cut(rest, length)
            lost = isinstance(outcome, Deferred) and not outcome.answered
            if isinstance(outcome, Delivered):
                self.apply(part, outcome, probing=probing)
            elif isinstance(outcome, Refused) and at < last:
                self.apply(part, outcome, probing=False)
            elif asks is None:
                asks = (part if lost else self._leases.first(part)), outcome
            else:
                self.unanswered = self.unanswered or lost
                self._leases.give_back(part, answered=not lost)
        if rest is not None:
            self._leases.give_back(rest)
        return self.apply(*asks, probing=probing) if asks else None

    def _delivered(self, batch: Batch, outcome: Delivered) -> Stop:
        taken = len(batch.records) - len(outcome.rejected) - len(outcome.retry)
        self._leases.acknowledge(batch, outcome)
        if not taken:
            self._refusals.lost(batch)
        if outcome.rejected:
            self._keeper.dead_lettered(len(outcome.rejected), next(iter(outcome.rejected.values())))
        if not taken and not outcome.rejected:
            self._keeper.failed()
            return Deferred("the endpoint took nothing of the batch")
        self.deliveries += 1
        self._keeper.delivered(taken, outcome.unknown_names, self._clock.monotonic_s())
        if taken:
            self._refusals.accepted(batch)
        return None


def _runs(outcomes: list[Outcome], last_taken: int) -> Iterator[tuple[Outcome, int, int]]:
    """Runs of neighbours that are settled alike: the outcome, where it begins, how many."""

    def kind(at: int) -> object:
        outcome = outcomes[at]
        if isinstance(outcome, Refused) and at < last_taken:
            return at  # each becomes a dead letter with a reason of its own
        return type(outcome), isinstance(outcome, Deferred) and outcome.answered

    for _, run in groupby(range(len(outcomes)), kind):
        places = list(run)
        yield outcomes[places[0]], places[0], len(places)
