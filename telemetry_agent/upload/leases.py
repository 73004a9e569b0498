"""The batches that are out: one table, so that whatever happens none is forgotten."""

from collections.abc import Callable, Collection

from telemetry_agent.model import Batch, Delivered, Record
from telemetry_agent.upload.interfaces import BatchQueue

Name = tuple[str, int]


def name_of(record: Record) -> Name:
    """What names a fix for ever: its stream and its seq."""
    return record.stream, record.seq


class Leases:
    """Takes batches from the queue and keeps each until it was acknowledged or given back."""

    def __init__(
        self,
        queue: BatchQueue,
        unfit: Callable[[Record], str | None] = lambda _: None,
        dead_lettered: Callable[[int, str], None] = lambda *_: None,
    ) -> None:
        """Take from ``queue`` what can be sent.

        Args:
            queue: Where fixes wait.
            unfit: Why a fix cannot be sent. Such a one becomes a dead letter.
            dead_lettered: Told how many became dead letters, and why.
        """
        self._queue = queue
        self._unfit = unfit
        self._buried = dead_lettered
        self._out: dict[int, Batch] = {}

    def take(self, limit: int, *, live_first: bool) -> Batch | None:
        """A batch of at most ``limit`` fixes."""
        while batch := self._queue.lease(limit, live_first=live_first):
            self._out[batch.lease] = batch
            reasons = (self._unfit(record) for record in batch.records)
            at, reason = next(((at, why) for at, why in enumerate(reasons) if why), (None, ""))
            if at is None:
                return batch
            if at > 0:
                batch, rest = self.split(batch, at)
                self.give_back(rest)
                return batch
            batch = self.first(batch)
            self.make_dead_letter(batch, reason)
            self._buried(1, reason)
        return None

    def take_one(
        self, limit: int, *, live_first: bool, not_of: Collection[Name], turn: int
    ) -> Batch | None:
        """A single fix, outside ``not_of`` if there is one; another one with each ``turn``."""
        passed: list[Batch] = []
        one: Batch | None = None
        while one is None and (batch := self.take(limit, live_first=live_first)):
            places = [at for at, r in enumerate(batch.records) if name_of(r) not in not_of]
            if places:
                one = self._single_out(batch, places[-turn % len(places)])
            else:
                passed.append(batch)
        if one is None and passed:
            batch = passed.pop(turn % len(passed))
            one = self._single_out(batch, -turn % len(batch.records))
        for batch in passed:
            self.give_back(batch)
        return one

    def split(self, batch: Batch, at: int) -> tuple[Batch, Batch]:
        """The first ``at`` fixes, and the rest."""
        halves = self._queue.split(batch, at)
        del self._out[batch.lease]
        self._out.update((half.lease, half) for half in halves)
        return halves

    def acknowledge(self, batch: Batch, answer: Delivered) -> None:
        """Delivered, but for the names that the answer gave back."""
        self._queue.ack(batch, rejected=answer.rejected, retry=answer.retry)
        del self._out[batch.lease]

    def make_dead_letter(self, batch: Batch, reason: str) -> None:
        """To the dead letters."""
        self._queue.fail(batch, reason)
        del self._out[batch.lease]

    def give_back(self, batch: Batch, *, answered: bool = True) -> None:
        """Back to the queue, to be sent again."""
        del self._out[batch.lease]
        self._queue.release(batch, answered=answered)

    def give_all_back(self) -> None:
        """Every batch that is out."""
        for batch in list(self._out.values()):
            self.give_back(batch)

    def first(self, batch: Batch) -> Batch:
        """The first fix of a batch alone; the others go back."""
        if len(batch.records) == 1:
            return batch
        one, others = self.split(batch, 1)
        self.give_back(others)
        return one

    def _single_out(self, batch: Batch, at: int) -> Batch:
        if at > 0:
            before, batch = self.split(batch, at)
            self.give_back(before)
        return self.first(batch)
