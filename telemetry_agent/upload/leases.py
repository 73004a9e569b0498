"""The batches that are leased: one table, so that each is ended or given back."""

from collections.abc import Callable, Collection, Iterator
from itertools import groupby

from telemetry_agent.model import Batch, Delivered, Record
from telemetry_agent.upload.interfaces import BatchQueue
from telemetry_agent.upload.upload_status import StatusKeeper

Name = tuple[str, int]

_BATCHES_AT_LEAST = 4  # that a single fix is chosen from
_UNFIT_AT_ONCE = 1000  # fixes that become dead letters in one transaction
_PUT_OFF_MAX = 256


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
        self._left_out: Collection[str] = ()
        self._put_off: dict[Name, bool] = {}  # whether its next try is due; the latest last
        self._due: list[Batch] = []  # leased again, for their next try

    def leave_out(self, devices: Collection[str]) -> None:
        """Do not take the backlog of these devices, whichever they will be."""
        self._left_out = devices

    def take(self, limit: int, *, live_first: bool, backlog_only: bool = False) -> Batch | None:
        """Lease a batch of at most ``limit`` fixes, without those that were put off."""
        most = limit
        while batch := self._queue.lease(
            most, live_first=live_first, backlog_only=backlog_only, besides=self._left_out
        ):
            self._out[batch.lease] = batch
            obstacle, run = next(groupby(batch.records, self._obstacle))
            count = len(list(run))
            if obstacle is None:
                return self.first(batch, min(count, limit))
            head = self.first(batch, count)
            if isinstance(obstacle, str):
                self.make_dead_letter(head, obstacle)
                # There may be a day of them, and each dead letter alone would cost a sync.
                most = max(limit, _UNFIT_AT_ONCE)
            elif self._put_off[obstacle]:
                self._due.append(head)
            else:
                self.give_back(head, answered=False)
        return None

    def _obstacle(self, record: Record) -> str | Name | None:
        """Why it is not sent: a reason that is final, or its name if it was put off."""
        name = name_of(record)
        return self._unfit(record) or (name if name in self._put_off else None)

    def take_put_off(self) -> Batch | None:
        """Lease a fix that was put off and is due, of those that ``take`` has met."""
        if not self._due:
            return None
        batch = self._due.pop(0)
        self._put_off[name_of(batch.records[0])] = False
        return batch

    def take_one(
        self, limit: int, *, live_first: bool, backlog_only: bool = False, turn: int
    ) -> Batch | None:
        """Lease a single fix of the next batches.

        With ``live_first`` another one in each ``turn``, so that no single bad fix is tried again
        and again; with ``backlog_only`` too, one of the backlog. Else the order counts, and it is
        the one at this place behind the oldest, or the last, or counted from the last if ``turn``
        is negative.
        """
        # Several: a batch holds fixes of one stream, or live ones only, perhaps a bad one. A fix
        # that was put off before a reload is a batch of its own.
        batches: list[Batch] = []
        places: list[tuple[int, int]] = []
        newest = live_first and not backlog_only
        enough = _PUT_OFF_MAX if live_first else turn
        while len(batches) < _BATCHES_AT_LEAST or len(places) <= enough:
            batch = self.take(limit, live_first=newest, backlog_only=backlog_only)
            if batch is None:
                break
            places += [(len(batches), at) for at in range(len(batch.records))]
            batches.append(batch)
        if not batches:
            return None
        if live_first:
            # From the newest batch to the oldest: fixes that were put off are among the oldest.
            turn, place = divmod(turn, len(batches))
            place = -place % len(batches)
            at = -turn % len(batches[place].records)
        else:
            place, at = places[min(turn, len(places) - 1) if turn >= 0 else turn % len(places)]
        batch = batches.pop(place)
        for other in batches:
            self.give_back(other)
        return self.one_of(batch, at)

    def one_of(self, batch: Batch, at: int) -> Batch:
        """The fix at this place of a batch; the others go back."""
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
        """Make two leases of one: the first ``at`` fixes, and the rest."""
        halves = self._queue.split(batch, at)
        del self._out[batch.lease]
        self._out.update((half.lease, half) for half in halves)
        return halves

    def acknowledge(self, batch: Batch, answer: Delivered) -> None:
        """Mark as delivered, except the names that the answer gave back."""
        self._queue.ack(batch, rejected=answer.rejected, retry=answer.retry)
        del self._out[batch.lease]
        self._put_off.pop(name_of(batch.records[0]), None)
        if answer.rejected:
            reason = next(iter(answer.rejected.values()))
            self._keeper.dead_lettered(len(answer.rejected), reason)

    def make_dead_letter(self, batch: Batch, reason: str) -> None:
        """Make dead letters of the batch."""
        self._queue.fail(batch, reason)
        del self._out[batch.lease]
        self._keeper.dead_lettered(len(batch.records), reason)

    def give_back(self, batch: Batch, *, answered: bool = True) -> None:
        """Give the batch back to the queue, to be sent again."""
        del self._out[batch.lease]
        if not answered and not self.is_put_off(batch):
            self.unanswered = True
        self._queue.release(batch, answered=answered)

    def put_off(self, batch: Batch) -> None:
        """Give a single fix back as unanswered, to be sent again later than the others."""
        if len(self._put_off) >= _PUT_OFF_MAX:
            del self._put_off[next(iter(self._put_off))]
        self._put_off[name_of(batch.records[0])] = False
        self.give_back(batch, answered=False)

    def is_put_off(self, batch: Batch) -> bool:
        """Whether it is a single fix that was put off."""
        return name_of(batch.records[0]) in self._put_off

    @property
    def has_put_off(self) -> bool:
        """Whether any fix was put off."""
        return bool(self._put_off)

    def bring_back(self) -> None:
        """Let each fix that was put off be tried once."""
        self._put_off = dict.fromkeys(self._put_off, True)
        self.unanswered = True  # they are ``unack``: ``resume_unanswered`` makes them ready

    def resume_unanswered(self) -> None:
        """Make fixes ready again that got no answer."""
        if self.unanswered:
            self._queue.resume_unack()
            self.unanswered = False

    def give_all_back(self, keep: Collection[int], *, answered: bool) -> None:
        """Give back every batch that is out, except these leases."""
        self._due.clear()
        for batch in list(self._out.values()):
            if batch.lease not in keep:
                self.give_back(batch, answered=answered)

    def first(self, batch: Batch, count: int = 1) -> Batch:
        """The first ``count`` fixes of a batch; the others go back."""
        if count < len(batch.records):
            batch, others = self.split(batch, count)
            self.give_back(others)
        return batch
