"""The thread that carries over what can be read of files that were set aside.

A step is short: some pages are looked at, or some hundred rows go into the queue in a transaction
of their own, under the numbers and names that they had, and with what became of them. Which rows
are still to come stands in the queue, so to be killed costs nothing but looking at the pages again.

What is missing between the rows that were found is lost: it is counted, and told once.
"""

import logging

from telemetry_agent.ackqueue import aside
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.verify import Loss, losses
from telemetry_agent.ackqueue.wreck import Remains
from telemetry_agent.errors import StorageError
from telemetry_agent.tasks import Bell

log = logging.getLogger(__name__)

_REFUSED_WAIT_S = 1.0
_WAIT_S = 60.0
_LOSSES_TOLD = 3


def carry_over(queue: AckQueue) -> None:
    """Carry over all that can be now, where no thread does."""
    carrier = Carrier(queue)
    try:
        while carrier.step(0) == 0:
            pass
    finally:
        carrier.close()


class Carrier:
    """Carries over, and waits for the next time."""

    name = "salvage"
    max_step_s = 60.0  # a worn card can take long over one fsync

    def __init__(self, queue: AckQueue) -> None:
        self.bell = Bell()
        self._queue = queue
        self._core = queue.core
        self._remains: Remains | None = None
        self._looked = False
        self._carried = 0
        self._said = ""
        queue.watch(self._news)

    def step(self, now_s: float) -> float | None:  # noqa: ARG002 - the task's signature
        """Look at some pages, or carry some rows over."""
        core = self._core
        with core.lock:
            carrying, refused = core.ledger.carrying, core.writer.refused
        if refused:
            return _REFUSED_WAIT_S
        try:
            if carrying:
                return self._carry()
            if self._remains is not None:
                self._end(self._remains)
        except OSError as error:
            self._say(f"{error.filename}: {error.strerror}")
        except StorageError as error:
            self._say(str(error))
        else:
            return None
        self.close()
        return _WAIT_S

    def wake(self) -> None:
        """A step waits for nothing but the disk."""
        self.bell.ring()

    def close(self) -> None:
        """Close the files. The next step opens them again."""
        if self._remains is not None:
            self._remains.close()
            self._remains = None

    def _news(self) -> None:
        """The queue rings for each fix; here there is work only after a file was set aside."""
        if self._core.ledger.carrying:
            self.bell.ring()

    def _carry(self) -> float | None:
        paths = aside.waiting(self._core.path)
        if self._remains is None or self._remains.paths != paths:
            self.close()
            self._remains, self._looked = Remains(paths), False
        remains = self._remains
        if not self._looked:
            self._looked = not remains.look()
            if self._looked:
                self._begin(remains)
            return 0
        if paths and all(wreck.is_newer and not wreck.has_rows for wreck in remains.wrecks):
            self._say(f"{paths[-1]} waits for the newer telemetry-agent that wrote it")
            return None
        if not self._queue.has_room():
            self._say("there is no room for it now")
            return _WAIT_S
        self._arrive(remains)
        return 0

    def _begin(self, remains: Remains) -> None:
        """All pages were seen: what became of the rows is known before the first of them comes."""
        core = self._core
        with core.disk:
            if not self._is_current(remains):
                return
            with core.lock:
                away = core.ledger.away
                if away is not None and not away.marked:
                    core.ledger.adopt(remains.marks(), remains.first_row())
            core.write()
        if away is not None:
            remains.seek(away.lo)

    def _arrive(self, remains: Remains) -> None:
        core = self._core
        portion = remains.rows()
        with core.disk:
            if not self._is_current(remains):
                return
            with core.lock:
                if portion is None:
                    core.ledger.arrive_no_more()
                else:
                    upto, rows = portion
                    wanted = core.ledger.arrive(upto, [row[0] for row in rows])
                    core.writer.arrive([row for row in rows if row[0] in wanted])
                    self._carried += len(wanted)
            core.write()
        core.ring()

    def _is_current(self, remains: Remains) -> bool:
        """No other file was set aside meanwhile."""
        self._core.use()
        return remains.paths == aside.waiting(self._core.path)

    def _end(self, remains: Remains) -> None:
        """All of it is on disk."""
        core = self._core
        self.close()
        with core.disk:
            if not self._is_current(remains):
                return
            lost = losses(core, _LOSSES_TOLD)
            with core.lock:
                count = core.ledger.lost()["damaged"]
            for wreck in remains.wrecks:
                end: aside.End = "kept" if count or wreck.is_newer else "delete"
                aside.retire(core.path, wreck.path, end if wreck.has_rows else "foreign")
            aside.delete_kept(core.path, but_for=1)
        self._tell(count, lost)

    def _tell(self, count: int, lost: list[Loss]) -> None:
        self._said = ""
        if not count:
            log.warning("%d fixes were carried over, none is missing", self._carried)
        else:
            more = ", and others" if sum(loss.rows for loss in lost) < count else ""
            log.error(
                "%d fixes were carried over; %d are lost to damage: %s%s",
                self._carried,
                count,
                "; ".join(map(str, lost)),
                more,
                extra={"fields": {"COUNT": count}},
            )
        self._carried = 0

    def _say(self, why: str) -> None:
        """Once, why it does not go on."""
        if why != self._said:
            self._said = why
            log.warning("what was set aside cannot be carried over yet: %s", why)
