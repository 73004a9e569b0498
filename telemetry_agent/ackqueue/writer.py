"""What memory is ahead of the disk by, and its way there.

The disk refuses at times: it is full, or it fails. Then everything waits here, in order and under
the same row numbers, and the next write tries all of it again. That is safe even when the refusal
was a lie and the transaction is on disk: to repeat a write changes nothing.
"""

import logging
import threading
from collections.abc import Callable

from telemetry_agent.ackqueue.ledger import Ledger
from telemetry_agent.ackqueue.rows import Row
from telemetry_agent.ackqueue.store import Store
from telemetry_agent.clock import Clock
from telemetry_agent.errors import StorageError

log = logging.getLogger(__name__)

_RETRY_S = 1.0


class Writer:
    """Collects rows, and writes them together with the ledger's changes.

    ``write`` is for the holder of the disk lock; everything else is for the holder of ``lock``.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        lock: threading.Lock,
        clock: Clock,
        *,
        max_uncommitted: int,
        on_refusal: Callable[[], None],
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._lock = lock
        self._clock = clock
        self._max_uncommitted = max_uncommitted
        self._on_refusal = on_refusal
        self._pending: list[tuple[float, Row]] = []  # put at, row; the rows are consecutive
        self._writing = 0  # rows in the transaction that runs now
        self._refusals = 0  # in a row
        self._refused_since_s = 0.0
        self._retry_at_s = 0.0

    def add(self, put_s: float, row: Row) -> None:
        """Take a row with the number after the last one's."""
        self._pending.append((put_s, row))
        self._bound_memory()

    @property
    def uncommitted(self) -> int:
        """How many rows are not known to be on disk."""
        return len(self._pending) + self._writing

    @property
    def oldest(self) -> tuple[float, Row] | None:
        """The oldest row that waits, and when it was put."""
        return self._pending[0] if self._pending else None

    @property
    def refused(self) -> bool:
        """Whether the disk refused the last write."""
        return self._refusals > 0

    def due_s(self, commit_every_s: float) -> float | None:
        """When to write next, by the monotonic clock; ``None``: nothing waits."""
        if self._refusals:
            return self._retry_at_s
        return self._pending[0][0] + commit_every_s if self._pending else None

    def write(self) -> StorageError | None:
        """Write all of it in one transaction. Returns why the disk refused, which was logged."""
        with self._lock:
            if not self._pending and not self._ledger.has_changes:
                return None
            group, self._pending = self._pending, []
            self._writing = len(group)
            changes = self._ledger.take_changes()
        rows = [row for _, row in group]
        refusal: StorageError | None = None
        written = False
        try:
            self._store.write(rows, changes)
            written = True
        except StorageError as error:
            refusal = error
        finally:
            with self._lock:
                self._writing = 0
                if not written:
                    self._pending[:0] = group
                    self._bound_memory()
                    self._ledger.give_back_changes(changes)
                elif rows:
                    self._ledger.free(rows[0][0], rows[-1][0])
        self._note(refusal)
        return refusal

    def _bound_memory(self) -> None:
        excess = len(self._pending) - self._max_uncommitted
        if excess > 0:
            self._ledger.lose(self._pending[0][1][0], self._pending[excess - 1][1][0])
            del self._pending[:excess]

    def _note(self, refusal: StorageError | None) -> None:
        """Tell the first refusal, and the end of them."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            before = self._refusals
            self._refusals = before + 1 if refusal is not None else 0
            if refusal is not None:
                self._retry_at_s = now_s + _RETRY_S
            if not before:
                self._refused_since_s = now_s
        if refusal is not None:
            if not before:
                log.error(
                    "%s. Fixes wait in memory; tried again each second",
                    refusal,
                    extra={"fields": {"STATE": "refused"}},
                )
            self._on_refusal()
        elif before:
            log.warning(
                "the queue %s can be written again, after %d refusals in %.0f s",
                self._store.path,
                before,
                now_s - self._refused_since_s,
                extra={"fields": {"STATE": "ok", "COUNT": before}},
            )
