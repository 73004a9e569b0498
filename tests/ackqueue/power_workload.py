"""Random use of a queue on a recorded disk, with a record of its promises."""

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ackqueue.promises import Name, Promises, names
from ackqueue.queue_parts import START_MS, fix_at
from ackqueue.recorded_disk import RecordedDisk

from telemetry_agent.ackqueue.file.schema import UnusableError
from telemetry_agent.ackqueue.limits.bounds import Bounds, Limits
from telemetry_agent.ackqueue.limits.thinning import Thinner
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery.carry_over import Carrier
from telemetry_agent.ackqueue.row_states import State
from telemetry_agent.errors import StorageError
from telemetry_agent.model import Batch

KEEP_S = 30


class Workload:
    """One life of the queue, from an opening to a close, or to a cut at any moment before it."""

    def __init__(
        self,
        disk: RecordedDisk,
        path: Path,
        promises: Promises,
        draw: random.Random,
        queue_class: type[AckQueue] = AckQueue,
    ) -> None:
        self._disk = disk
        self._path = path
        self._promises = promises
        self._draw = draw
        self._class = queue_class
        self._out: list[Batch] = []
        times = [life.record.fix.time_ms for life in promises.lives.values()]
        self._second = (max(times, default=START_MS) - START_MS) // 1000
        self._actions: dict[Callable[[], None], int] = {
            self._put: 8,
            self._commit: 4,
            self._lease: 6,
            self._ack: 4,
            self._ack_in_part: 2,
            self._fail: 1,
            self._release: 1,
            self._lose_the_answer: 2,
            self._split: 1,
            self._resume: 1,
            self._retry: 1,
            self._purge: 3,
            self._thin: 2,
            self._drop: 1,
            self._pack: 1,
            self._set_aside: 1,
            self._carry_over: 3,
            self._reopen: 1,
        }

    def run(self, steps: int, heal: Callable[[], None] | None = None) -> None:
        """Run the steps, of a few calls each. Then close the queue.

        With ``heal``, the disk may refuse at any time until ``heal`` is called before the close.
        """
        self._open()
        if heal is not None:
            del self._actions[self._reopen]
        try:
            for _ in range(steps):
                (action,) = self._draw.choices([*self._actions], [*self._actions.values()])
                with suppress(*([] if heal is None else [StorageError])):
                    action()
                if self.queue.stats().uncommitted == 0 and not self.queue.shared.writer.refused:
                    self._promises.settled(self._moment)
            if heal is not None:
                heal()
                self.queue.commit()
        finally:
            self._carrier.close()
            self.queue.close()
        self._promises.settled(self._moment)

    @property
    def _moment(self) -> int:
        return len(self._disk.log)

    def _open(self) -> None:
        self.queue = self._class(
            self._path,
            commit_every_s=self._draw.choice((0.0, 1.0, 1.0)),
            keep_delivered_s=KEEP_S,
            connect=self._disk.connect,
        )
        self._out = []
        self._carrier = Carrier(self.queue)
        self._thinner = Thinner(self.queue.shared)

    def _put(self) -> None:
        for _ in range(self._draw.choice((1, 1, 1, 2, 8, 40))):
            self._second += 1
            begun = self._moment
            device = "b" if self._second % 97 < 20 else "a"
            self._promises.put(self.queue.put(fix_at(self._second, sats=8), device), begun)

    def _commit(self) -> None:
        self.queue.commit()

    def _lease(self) -> None:
        begun = self._moment
        limit, live_first = self._draw.choice((1, 20, 1000)), self._draw.random() < 0.5
        batch = self.queue.lease(limit, live_first=live_first)
        if batch is not None:
            self._promises.sent(batch, begun, self._moment)
            self._out.append(batch)

    def _take(self) -> Batch | None:
        return self._out.pop(self._draw.randrange(len(self._out))) if self._out else None

    def _ack(self) -> None:
        if batch := self._take():
            begun = self._moment
            self.queue.ack(batch)
            self._promises.changed(dict.fromkeys(names(batch.records), State.ACKED), begun)

    def _ack_in_part(self) -> None:
        if batch := self._take():
            begun = self._moment
            rejected, retry = (
                {record.seq for record in batch.records if self._draw.random() < 0.2}
                for _ in range(2)
            )
            self.queue.ack(batch, rejected=dict.fromkeys(rejected, "no"), retry=retry)
            states = {}
            for record in batch.records:
                state = State.READY if record.seq in retry else State.ACKED
                if record.seq in rejected:
                    state = State.ACK_FAILED
                states[record.stream, record.seq] = state
            self._promises.changed(states, begun)

    def _fail(self) -> None:
        if batch := self._take():
            begun = self._moment
            self.queue.fail(batch, "refused")
            self._promises.changed(dict.fromkeys(names(batch.records), State.ACK_FAILED), begun)

    def _release(self) -> None:
        if batch := self._take():
            self.queue.release(batch)

    def _lose_the_answer(self) -> None:
        if batch := self._take():
            self.queue.release(batch, answered=False)
            self._promises.sealed(batch)

    def _split(self) -> None:
        if (batch := self._take()) and len(batch.records) > 1:
            self._out += self.queue.split(batch, len(batch.records) // 2)

    def _resume(self) -> None:
        self.queue.resume_unack()

    def _retry(self) -> None:
        if self.queue.stats().carrying_over:
            return  # names in a file set aside are not known
        begun = self._moment
        dead = [
            name
            for name, life in self._promises.lives.items()
            if life.state is State.ACK_FAILED and self._draw.random() < 0.5
        ]
        self.queue.retry(dead)
        self._promises.changed(dict.fromkeys(dead, State.READY), begun)

    def _purge(self) -> None:
        begun = self._moment
        oldest_kept_ms = fix_at(self._second - KEEP_S).time_ms
        for life in self._promises.lives.values():
            if life.state is State.ACKED and life.record.fix.time_ms < oldest_kept_ms:
                life.may_go = min(life.may_go, begun)
        self.queue.purge_delivered()

    def _thin(self) -> None:
        self._give_up(self._thinner.step)

    def _drop(self) -> None:
        self._give_up(Bounds(self.queue.shared, Limits(), 0)._drop)

    def _give_up(self, act: Callable[[], bool]) -> None:
        """Run a step that keeps the queue within its limits."""
        begun, shared = self._moment, self.queue.shared
        before = set(self._stored())
        with shared.disk:
            act()
            shared.write()
        gone = before.difference(self._stored())
        for seal in self._promises.seals if gone else ():
            seal.until = min(seal.until, begun)
        self._promises.changed(dict.fromkeys(gone, State.GONE), begun)

    def _stored(self) -> list[Name]:
        return names(stored.record for stored in self.queue.stored())

    def _pack(self) -> None:
        shared = self.queue.shared
        with shared.disk:
            if not shared.writer.refused:
                shared.store.pack()

    def _set_aside(self) -> None:
        """Set the file aside as if it were damaged. All of it stays readable."""
        shared = self.queue.shared
        with shared.disk:
            shared.writer.report(shared.replace(UnusableError("as if damaged")))

    def _carry_over(self) -> None:
        for _ in range(self._draw.choice((1, 2, 10))):
            self._carrier.step(0.0)

    def _reopen(self) -> None:
        self._carrier.close()
        self.queue.close()
        self._promises.settled(self._moment)
        self._open()
