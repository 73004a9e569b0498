"""The thread that brings fixes to disk when they are due, so that a silent receiver delays none."""

import logging
from contextlib import suppress

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.errors import StorageError
from telemetry_agent.tasks import Bell

log = logging.getLogger(__name__)

_PURGE_EVERY_S = 300.0
"""Deleting costs a transaction: at one fix a second this makes it 300 fixes each."""


class Committer:
    """Commits what is due, tries again what the disk refused, deletes what was kept long enough."""

    name = "committer"
    max_step_s = 60.0  # a worn card can take long over one fsync

    def __init__(self, queue: AckQueue) -> None:
        self.bell = Bell()
        self._queue = queue
        self._purge_at_s = 0.0
        self._purge_fails = False
        queue.watch(self.bell.ring)

    def step(self, now_s: float) -> float | None:
        """Commit if it is due, and purge now and then."""
        due_s = self._queue.commit_due_s()
        if due_s is not None and due_s <= now_s:
            with suppress(StorageError):  # the queue has said so, and tells when to try again
                self._queue.commit()
            due_s = self._queue.commit_due_s()
        if self._purge_at_s <= now_s:
            more = self._purge()
            self._purge_at_s = now_s if more else now_s + _PURGE_EVERY_S
        wake_s = self._purge_at_s if due_s is None else min(due_s, self._purge_at_s)
        return max(0.0, wake_s - now_s)

    def wake(self) -> None:
        """A step waits for nothing but the disk."""
        self.bell.ring()

    def close(self) -> None:
        """The queue is not the committer's to close."""

    def _purge(self) -> bool:
        try:
            more = self._queue.purge_delivered()
        except StorageError as error:
            if not self._purge_fails:
                self._purge_fails = True
                log.warning("delivered fixes cannot be deleted: %s", error)
            return False
        self._purge_fails = False
        return more
