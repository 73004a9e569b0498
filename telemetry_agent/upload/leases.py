"""The batches that are out: one table, so that whatever happens none is forgotten."""

from collections.abc import Callable, Collection, Iterator
from itertools import groupby

from telemetry_agent.model import Batch, Delivered, Record
from telemetry_agent.upload.interfaces import BatchQueue

Name = tuple[str, int]

_LOOK_AMONG = 4  # batches, for a single fix to try


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

    def take_one(self, limit: int, *, live_first: bool, turn: int) -> Batch | None:
        """A single fix of the next batches; another one with each ``turn``."""
        # Several: a batch holds fixes of one stream, or live ones only, perhaps just a bad one.
        batches: list[Batch] = []
        while len(batches) < _LOOK_AMONG and (batch := self.take(limit, live_first=live_first)):
            batches.append(batch)
        if not batches:
            return None
        turn, place = divmod(turn, len(batches))
        single = batches[place]
        chosen = single.records[-turn % len(single.records)]
        for batch in batches:
            for part in self.parts(batch, lambda record: record is chosen):
                if part.records[0] is chosen:
                    single = part
                else:
                    self.give_back(part)
        return single

    def parts(self, batch: Batch, belongs: Callable[[Record], bool]) -> Iterator[Batch]:
        """Split where ``belongs`` changes: each part is a lease of its own."""
        lengths = [len(list(run)) for _, run in groupby(batch.records, belongs)]
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

    def cut(self, batch: Batch, length: int) -> tuple[Batch, Batch | None]:
        """The first ``length`` fixes, and the rest if there is one."""
        return (batch, None) if length == len(batch.records) else self.split(batch, length)

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

    def give_all_back(self, keep: Collection[int] = ()) -> None:
        """Every batch that is out, but for these leases."""
        for batch in list(self._out.values()):
            if batch.lease not in keep:
                self.give_back(batch)

    def first(self, batch: Batch) -> Batch:
        """The first fix of a batch alone; the others go back."""
        if len(batch.records) == 1:
            return batch
        one, others = self.split(batch, 1)
        self.give_back(others)
        return one
