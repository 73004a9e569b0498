"""What a queue reports about itself."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from telemetry_agent.ackqueue.file.schema import log_of
from telemetry_agent.ackqueue.ledger import Ledger
from telemetry_agent.ackqueue.row_states import State
from telemetry_agent.errors import StorageError
from telemetry_agent.model import Record


class Stored(NamedTuple):
    """A fix in the queue, and what became of it."""

    record: Record
    state: State
    reason: str | None


@dataclass(frozen=True)
class QueueStats:
    """Counts of fixes, by what became of them. The first four are the public states."""

    ready: int
    """Committed and to be sent; includes batches that are out."""
    unack: int
    acked: int
    ack_failed: int
    in_flight: int
    """Of the ready ones, those in a batch that is out."""
    uncommitted: int
    """Named, but not on disk yet."""
    dead_letters: Mapping[str, int]
    """Reason -> count, of the first reasons; all others count under ``other reasons``. The sum is
    ``ack_failed``."""
    lost: Mapping[str, int]
    """Reason -> count, never reset: ``damaged`` (not as it was stored), ``uncounted`` (at least
    this many: the end of the log, or a whole file, is gone), ``memory`` (it was full, because
    nothing was committed for too long), ``discarded`` (a dead letter that the user deleted),
    ``expired`` (older than ``max_age``); and if there was no room ``thinned``, ``dropped`` (the
    oldest), ``full`` (not recorded), ``refused`` (a dead letter)."""
    oldest_pending_ms: int | None
    """GNSS time of the oldest recorded fix that is neither delivered nor a dead letter."""
    file_bytes: int
    full: bool
    """The queue is full: stored fixes are thinned or deleted, or no more are recorded."""
    carrying_over: bool
    """A file that was set aside holds more fixes, which are being carried over."""
    disk_error: str | None = None
    """Why the disk refused the last write; what is ``uncommitted`` waits in memory."""


def count(
    ledger: Ledger,
    uncommitted: int,
    placed: int,
    oldest_pending_ms: int | None,
    file_bytes: int,
    *,
    full: bool,
    disk_error: StorageError | None = None,
) -> QueueStats:
    """Sum up a ledger; the cost grows with the number of different marks only."""
    states: Counter[State] = Counter()
    dead_letters: Counter[str] = Counter()
    for mark, rows in ledger.marks.totals():
        states[mark.state] += rows
        if mark.state is State.ACK_FAILED:
            dead_letters[mark.reason or "other reasons"] += rows
    in_flight = ledger.in_flight()
    return QueueStats(
        ready=ledger.ready_rows.free.total + in_flight + placed,
        unack=states[State.UNACK],
        acked=states[State.ACKED],
        ack_failed=states[State.ACK_FAILED],
        in_flight=in_flight,
        uncommitted=uncommitted,
        dead_letters=dict(dead_letters),
        lost=dict(ledger.lost()),
        oldest_pending_ms=oldest_pending_ms,
        file_bytes=file_bytes,
        full=full,
        carrying_over=ledger.away.any,
        disk_error=None if disk_error is None else str(disk_error),
    )


def size_on_disk(path: Path) -> int:
    """The bytes of the queue file and its log. Opens neither."""
    size = 0
    for file in (path, log_of(path)):
        with suppress(OSError):
            size += file.stat().st_size
    return size
