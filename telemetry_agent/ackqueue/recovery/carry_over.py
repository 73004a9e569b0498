"""The thread that carries over what can be read of files that were set aside.

A step is short: some pages are looked at, or some hundred rows go into the queue in a transaction
of their own, under the numbers and names that they had, and with what became of them. Which rows
are still to come stands in the queue, so to be killed costs nothing but looking at the pages again.

What is missing between the rows that were found is lost: it is counted, and told once.
"""

import logging

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.recovery.damaged_file import DamagedFiles
from telemetry_agent.ackqueue.recovery.verify import Loss, losses
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
        self._shared = queue.shared
        self._remains: DamagedFiles | None = None
        self._looked = False
        self._carried = 0
        self._said = ""
        queue.watch(self._news)

    def step(self, now_s: float) -> float | None:  # noqa: ARG002 - the task's signature
        """Look at some pages, or carry some rows over."""
        shared = self._shared
        with shared.lock:
            carrying, refused = shared.ledger.carrying, shared.writer.refused
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
        if self._shared.ledger.carrying:
            self.bell.ring()

    def _carry(self) -> float | None:
        paths = set_aside_files.waiting(self._shared.path)
        if self._remains is None or self._remains.paths != paths:
            self.close()
            self._remains, self._looked = DamagedFiles(paths), False
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

    def _begin(self, remains: DamagedFiles) -> None:
        """All pages were seen: what became of the rows is known before the first of them comes."""
        shared = self._shared
        with shared.disk:
            if not self._is_current(remains):
                return
            with shared.lock:
                away = shared.ledger.away
                if away is not None and not away.marked:
                    shared.ledger.adopt(remains.marks(), remains.first_row())
            shared.write()
        if away is not None:
            remains.seek(away.lo)

    def _arrive(self, remains: DamagedFiles) -> None:
        shared = self._shared
        portion = remains.rows()
        with shared.disk:
            if not self._is_current(remains):
                return
            with shared.lock:
                if portion is None:
                    shared.ledger.arrive_no_more()
                else:
                    upto, rows = portion
                    wanted = shared.ledger.arrive(upto, [row[0] for row in rows])
                    shared.writer.arrive([row for row in rows if row[0] in wanted])
                    self._carried += len(wanted)
            shared.write()
        shared.ring()

    def _is_current(self, remains: DamagedFiles) -> bool:
        """No other file was set aside meanwhile."""
        self._shared.use()
        return remains.paths == set_aside_files.waiting(self._shared.path)

    def _end(self, remains: DamagedFiles) -> None:
        """All of it is on disk."""
        shared = self._shared
        self.close()
        with shared.disk:
            if not self._is_current(remains):
                return
            lost = losses(shared, _LOSSES_TOLD)
            with shared.lock:
                count = shared.ledger.lost()["damaged"]
            for wreck in remains.wrecks:
                end: set_aside_files.End = "kept" if count or wreck.is_newer else "delete"
                set_aside_files.retire(
                    shared.path, wreck.path, end if wreck.has_rows else "foreign"
                )
            set_aside_files.delete_kept(shared.path, but_for=1)
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
