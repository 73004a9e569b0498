"""The thread that carries over what can be read of files that were set aside.

A step is short: some pages are looked at, or some hundred rows go into the queue in a transaction
of their own, under the numbers and names that they had, and with what became of them.

Only the mark AWAY remembers that this is under way (``away_rows``): the files are the record of
what is to come, and to insert a row a second time changes nothing. So after a kill it begins again.

What is missing between the rows that were found is lost: it is counted, and reported once.
"""

import logging

from telemetry_agent.ackqueue.away_rows import Arrival
from telemetry_agent.ackqueue.file.rows import SEQ, STREAM, Row
from telemetry_agent.ackqueue.file.store import ROWS_PER_READ
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.recovery.damaged_file import FoundRows
from telemetry_agent.ackqueue.recovery.verify import described, losses
from telemetry_agent.errors import StorageError, counted
from telemetry_agent.tasks import Bell, Task
from telemetry_agent.trouble import Trouble

log = logging.getLogger(__name__)

_REFUSED_WAIT_S = 1.0
_WAIT_S = 60.0
_LOSSES_MAX = 3
_READINGS = 3
"""After so many that the disk refused in part, what the next one cannot read counts as lost."""


def carry_over(queue: AckQueue) -> None:
    """Carry over all that can be now. For programs without that thread."""
    carrier = Carrier(queue)
    try:
        for reading in range(1 + _READINGS):
            while carrier.step(reading * _WAIT_S) == 0:
                pass
    finally:
        carrier.close()


class Carrier(Task):
    """Carries over, and waits for the next time."""

    max_step_s = 60.0  # a worn card can take long over one fsync

    def __init__(self, queue: AckQueue) -> None:
        self.bell = Bell()
        self._queue = queue
        self._shared = queue.shared
        self._found: FoundRows | None = None
        self._portion: tuple[int, list[Row]] | None = None
        self._carried = self._failed_readings = 0
        self._read_again_s = 0.0
        self._trouble = Trouble(log, queue.shared.clock)
        queue.watch(self._look_again)

    def step(self, now_s: float) -> float | None:
        """Look at some pages, or carry some rows over."""
        shared = self._shared
        with shared.lock:
            carrying, refused = shared.ledger.away.any, shared.writer.refused
        if refused:
            return _REFUSED_WAIT_S
        if shared.file.is_covered:  # what waits there is to go into the other queue
            return _WAIT_S
        try:
            if carrying:
                return self._carry(now_s)
            if self._found is not None:
                self._end(self._found)
        except OSError as error:
            self._cannot(f"{error.filename or shared.path}: {error.strerror}")
        except StorageError as error:
            self._cannot(str(error))
        else:
            return None
        self.close()
        return _WAIT_S

    def close(self) -> None:
        """Close the files. The next step opens them again."""
        if self._found is not None:
            self._found.close()
            self._found = self._portion = None

    def _look_again(self) -> None:
        """The queue rings for new fixes too; here there is work only after a file was set aside."""
        if self._shared.ledger.away.any:
            self.bell.ring()

    def _carry(self, now_s: float) -> float | None:
        if now_s < self._read_again_s:
            return self._read_again_s - now_s
        paths = set_aside_files.waiting(self._shared.path)
        if self._found is None or self._found.paths != paths:
            self.close()
            self._found = FoundRows(paths)
        found = self._found
        # All marks first: one may say that a row which was found already is delivered.
        if found.look():
            return 0
        if paths and all(file.is_newer and not file.has_rows for file in found.files):
            # We cannot read it, and an end here would retire it as foreign. Only that version or
            # another file that is set aside changes this, so there is no time to look again.
            self._cannot(f"{paths[-1]} waits for the newer telemetry-agent that wrote it")
            return None
        if not self._queue.has_room():
            self._cannot("the queue is full")
            return _WAIT_S
        self._portion = self._portion or found.portion()
        refused = sum(file.refused for file in found.files)
        if refused and self._failed_readings < _READINGS:
            self._failed_readings += 1
            self._read_again_s = now_s + _WAIT_S
            self.close()
            self._cannot(f"the disk refused to read {counted(refused, 'page')}")
            return _WAIT_S
        self._arrive(found)
        return 0

    def _arrive(self, found: FoundRows) -> None:
        shared = self._shared
        with shared.opened():
            if not self._is_current(found):
                return
            lo, last = shared.ledger.away.first, shared.ledger.away.last
            # Without another portion, whatever is missing up to the border was not found.
            upto, rows = self._portion or (last, [])
            # The files were opened again, and are read from their first row on; what is before
            # ``lo`` was taken over by an earlier step.
            if upto < lo:
                self._portion = None
                return
            there = [row[0] for row in shared.read((lo, upto), limit=ROWS_PER_READ)]
            # After a kill more rows can be here already than one read returns. Then only the part
            # up to the last one that was read is known, and the portion is kept for the rest.
            if len(there) == ROWS_PER_READ:
                upto = there[-1]
            else:
                self._portion = None
            arrival = Arrival(
                upto,
                [row[0] for row in rows],
                found.marks(lo, upto),
                found.first_without_marks,
                found.oldest_pending,
            )
            with shared.lock:
                streams = shared.ledger.streams
                if lo == 1:  # once: what the rows contradict is forgotten
                    streams.adopt(found.streams.values())
                for row in rows:
                    streams.learn_from_row(row[0], row[STREAM], row[SEQ])
                wanted = shared.ledger.arrive(arrival, there)
                shared.writer.arrive([row for row in rows if row[0] in wanted])
                if upto >= last:  # the mark AWAY goes in the same transaction as the last rows
                    shared.ledger.away.end()
            self._carried += len(wanted)
            shared.write()
        shared.ring()

    def _is_current(self, found: FoundRows) -> bool:
        """Whether no other file was set aside meanwhile."""
        return found.paths == set_aside_files.waiting(self._shared.path)

    def _end(self, found: FoundRows) -> None:
        """Delete or keep the files, once all that was found is on disk."""
        shared = self._shared
        self.close()
        with shared.opened():
            if not self._is_current(found):
                return
            lost = losses(shared, _LOSSES_MAX)
            with shared.lock:
                counts = shared.ledger.lost()
            count, uncounted = counts["damaged"], counts["uncounted"]
            for file in found.files:
                kind: set_aside_files.Kind | None = None
                if not file.has_rows:
                    kind = "foreign"
                elif count or uncounted or file.is_newer:  # for a person, or for that version
                    kind = "kept"
                set_aside_files.retire(shared.path, file.path, kind)
            set_aside_files.delete_kept(shared.path, keep=1)
            shared.write_summary()  # from now on it is true of these rows too
        self._trouble.over("what was set aside can be carried over")
        carried = counted(self._carried, "fix was carried over", "fixes were carried over")
        if not count and found.files and not any(file.has_rows for file in found.files):
            log.warning("no fix was found in %s", found.paths[-1])
        elif not count:
            log.warning("%s; no undelivered fix is missing", carried)
        else:
            more = ", and others" if sum(loss["count"] for loss in lost) < count else ""
            log.error(
                "%s; %s lost to damage: %s%s",
                carried,
                counted(count, "is", "are"),
                "; ".join(map(described, lost)),
                more,
                extra={"fields": {"COUNT": count}},
            )
        if uncounted:
            log.error("other fixes may be missing: no file is left that counts them")
        self._carried = self._failed_readings = 0

    def _cannot(self, why: str) -> None:
        self._trouble.failed(f"what was set aside cannot be carried over yet: {why}")
