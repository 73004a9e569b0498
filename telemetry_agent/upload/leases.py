"""The batches that are leased: one table, so that each is ended or given back."""

from collections.abc import Callable, Collection, Iterator
from itertools import groupby

from telemetry_agent.model import Batch, Delivered, Record
from telemetry_agent.upload.interfaces import BatchQueue
from telemetry_agent.upload.upload_status import StatusKeeper

Name = tuple[str, int]

_LOOK_AMONG = 4  # batches, when a single fix is chosen


def name_of(record: Record) -> Name:
    """The permanent name of a fix: its stream and its seq."""
    return record.stream, record.seq


class Leases:
    """Takes batches from the queue and keeps each until it is acknowledged or given back."""

    def __init__(
        self, queue: BatchQueue, unfit: Callable[[Record], str | None], keeper: StatusKeeper
    ) -> None:
        """``unfit``: why a fix cannot be sent. Such a fix becomes a dead letter."""
        self._queue = queue
        self._unfit = unfit
        self._keeper = keeper
        self._out: dict[int, Batch] = {}
        self.unanswered = False
        """Whether fixes got no answer and were not made ready again since."""
        self._has_put_off = False

    def take(self, limit: int, *, live_first: bool) -> Batch | None:
        """A batch of at most ``limit`` fixes."""
        while batch := self._queue.lease(limit, live_first=live_first):
            self._out[batch.lease] = batch
            reasons = [self._unfit(record) for record in batch.records]
            # The fixes before the first that cannot be sent; that one alone, if it is the first.
            good = next((at for at, reason in enumerate(reasons) if reason), len(reasons))
            if good:
                return self.first(batch, good)
            self.make_dead_letter(self.first(batch), reasons[0] or "")
        return None

    def take_one(self, limit: int, *, live_first: bool, turn: int) -> Batch | None:
        """A single fix of the next batches; another one with each ``turn``.

        Without ``live_first``, the oldest in turn 0, and the newer ones first in the others.
        """
        # Several: a batch holds fixes of one stream, or live ones only, perhaps just a bad one.
        batches: list[Batch] = []
        while len(batches) < _LOOK_AMONG and (batch := self.take(limit, live_first=live_first)):
            batches.append(batch)
        if not batches:
            return None
        if live_first:
            turn, place = divmod(turn, len(batches))
        else:
            place = -1 if turn else 0
        batch = batches.pop(place)
        for other in batches:
            self.give_back(other)
        at = -turn % len(batch.records)
        if at:
            before, batch = self.split(batch, at)
            self.give_back(before)
        return self.first(batch)

    def parts(self, batch: Batch, kind: Callable[[Record], object]) -> Iterator[Batch]:
        """Neighbours of one kind, as leases of their own, each made when it is asked for."""
        lengths = [len(list(run)) for _, run in groupby(batch.records, kind)]
        for length in lengths[:-1]:
            part, batch = self.split(batch, length)
            yield part
        yield batch

    def split(self, batch: Batch, at: int) -> tuple[Batch, Batch]:
        """The first ``at`` fixes, and the rest."""
        halves = self._queue.split(batch, at)
        del self._out[batch.lease]
        self._out.update((half.lease, half) for half in halves)
        return halves

    def acknowledge(self, batch: Batch, answer: Delivered) -> None:
        """Delivered, except the names that the answer gave back."""
        self._queue.ack(batch, rejected=answer.rejected, retry=answer.retry)
        del self._out[batch.lease]
        if answer.rejected:
            reason = next(iter(answer.rejected.values()))
            self._keeper.dead_lettered(len(answer.rejected), reason)

    def make_dead_letter(self, batch: Batch, reason: str) -> None:
        """To the dead letters."""
        self._queue.fail(batch, reason)
        del self._out[batch.lease]
        self._keeper.dead_lettered(len(batch.records), reason)

    def give_back(self, batch: Batch, *, answered: bool = True) -> None:
        """Back to the queue, to be sent again."""
        del self._out[batch.lease]
        self.unanswered = self.unanswered or not answered
        self._queue.release(batch, answered=answered)

    def put_off(self, batch: Batch) -> None:
        """Back to the queue as unanswered, to be sent again later than the others."""
        del self._out[batch.lease]
        self._queue.release(batch, answered=False)
        self._has_put_off = True

    def bring_back(self) -> bool:
        """Let the next ``resume_unanswered`` include what was put off; returns if anything was."""
        had, self._has_put_off = self._has_put_off, False
        self.unanswered = self.unanswered or had
        return had

    def resume_unanswered(self) -> None:
        """Make fixes ready again that got no answer."""
        if self.unanswered:
            self._queue.resume_unack()
            self.unanswered = False

    def give_all_back(self, keep: Collection[int], *, answered: bool) -> None:
        """Give back every batch that is out, except these leases."""
        for batch in list(self._out.values()):
            if batch.lease not in keep:
                self.give_back(batch, answered=answered)

    def first(self, batch: Batch, count: int = 1) -> Batch:
        """The first ``count`` fixes of a batch; the others go back."""
        if count < len(batch.records):
            batch, others = self.split(batch, count)
            self.give_back(others)
        return batch
