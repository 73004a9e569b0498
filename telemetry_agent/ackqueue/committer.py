"""The task that commits fixes when they are due, so that a silent receiver delays none."""

import logging
from collections.abc import Callable
from contextlib import suppress

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.errors import QueueLockedError, StorageError
from telemetry_agent.tasks import Bell, Task
from telemetry_agent.trouble import Trouble

log = logging.getLogger(__name__)

_TIDY_EVERY_S = 300.0
"""Deleting costs a transaction: at one fix a second this makes it 300 fixes each."""

_FIRST_TIDY_S = 10.0
"""After the first fix by which an age can be measured: a receiver may still correct its date."""

_LOOK_EVERY_S = 8.0
"""How often to check that the files are in their place: a deleted file ends with the process."""


class Committer(Task):
    """Commits what is due, tries again what the disk refused, and keeps the queue in its bounds."""

    # A commit, a check of the files, room, tidiness: each waits for the disk lock and then syncs up
    # to twice, and a worn card takes 10 s for a sync.
    max_step_s = 150.0

    def __init__(self, queue: AckQueue) -> None:
        self.bell = Bell()
        self._queue = queue
        self._tidy_at_s = self._look_at_s = 0.0
        self._knows_ages = False
        clock = queue.shared.clock
        self._place, self._room, self._tidiness = (Trouble(log, clock) for _ in range(3))
        queue.watch(self.bell.ring)

    def step(self, now_s: float) -> float | None:
        """Commit if it is due, make room if it is short, tidy up every 5 minutes."""
        due_s = self._queue.commit_due_s()
        if due_s is not None and due_s <= now_s:
            with suppress(StorageError):  # the queue logs it, and says when to try again
                self._queue.commit()
            due_s = self._queue.commit_due_s()
        if self._look_at_s <= now_s:
            self._look_at_s = now_s + _LOOK_EVERY_S
            self._try(self._queue.stay_in_place, self._place, "kept in its place")
        if self._try(self._queue.make_room, self._room, "kept within its limits"):
            return 0
        if not self._knows_ages and self._queue.shared.latest_ms is not None:
            self._knows_ages = True
            self._tidy_at_s = min(self._tidy_at_s, now_s + _FIRST_TIDY_S)
        if self._tidy_at_s <= now_s:
            more = self._try(self._queue.tidy, self._tidiness, "tidied up")
            self._tidy_at_s = now_s if more else now_s + _TIDY_EVERY_S
        wake_s = min(self._tidy_at_s, self._look_at_s)
        wake_s = wake_s if due_s is None else min(due_s, wake_s)
        return max(0.0, wake_s - now_s)

    @property
    def has_no_place(self) -> bool:
        """Whether the queue's files are gone, and its folder cannot be made again."""
        return self._place.lasts

    def _try(self, work: Callable[[], bool | None], trouble: Trouble, what: str) -> bool:
        try:
            more = work()
        except (QueueLockedError, StorageError) as error:
            trouble.failed(f"the queue cannot be {what}: {error}", kind=what)
            return False
        trouble.over(f"the queue can be {what} again")
        return bool(more)
