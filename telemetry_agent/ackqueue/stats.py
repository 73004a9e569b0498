"""What a queue tells about itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from telemetry_agent.ackqueue.schema import State
from telemetry_agent.model import Record


class Backlog(NamedTuple):
    """What waits, as the uploader needs it to decide."""

    ready: int
    """Fixes that a lease could hand out now, the uncommitted ones included."""
    live: int
    """Those of them that were recorded after the newest fix that was ever handed out."""
    live_since_s: float | None
    """Monotonic time at which the oldest live fix was put, or earlier; ``None`` without any."""


class Stored(NamedTuple):
    """A fix in the queue, and what became of it."""

    record: Record
    state: State
    reason: str | None


@dataclass(frozen=True)
class QueueStats:
    """Counts of fixes, by what became of them. The first four are the public states."""

    ready: int
    """Committed and to be sent; a batch that is out counts here."""
    unack: int
    acked: int
    ack_failed: int
    in_flight: int
    """Of the ready ones, those in a batch that is out."""
    uncommitted: int
    """Named, and not yet on disk."""
    dead_letters: Mapping[str, int]
    """Reason -> count; sums up to ``ack_failed``."""
    lost: Mapping[str, int]
    """Reason -> count, since the file was made: ``memory`` (the disk refused for too long),
    ``damaged`` (the row was not as it was stored)."""
    oldest_pending_ms: int | None
    """GNSS time of the oldest recorded fix that is neither delivered nor a dead letter."""
    file_bytes: int
