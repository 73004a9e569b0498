"""What the parts of a snapshot are made of, and the reports to the endpoint.

The system clock of a device may be wrong by years, so nothing here is dated by it. The beginning of
a state is given in seconds before now, and "the last 24 h" are those in which the agent was
running.
"""

from collections import deque
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.stats import QueueStats
from telemetry_agent.disks import free_bytes
from telemetry_agent.errors import StorageError
from telemetry_agent.fields import rfc3339
from telemetry_agent.model import StreamAccount
from telemetry_agent.snapshot import QueueView, Snapshot

_FRESH_S = 10.0  # some receivers take 8 s for an epoch


class SlidingSum:
    """The sum of what was counted in the last ``window_s`` seconds, to about one bucket.

    One thread counts; any may ask.
    """

    def __init__(self, window_s: float, now_s: float, buckets: int = 12) -> None:
        self._bucket_s = window_s / buckets
        self._began_s = now_s
        self._buckets: deque[list[float]] = deque(maxlen=buckets)  # [number of the bucket, sum]

    def add(self, now_s: float, amount: float) -> None:
        """Count ``amount``."""
        number = now_s // self._bucket_s
        if not self._buckets or self._buckets[-1][0] != number:
            self._buckets.append([number, 0.0])
        self._buckets[-1][1] += amount

    def total(self, now_s: float) -> float:
        """The sum over the window."""
        oldest = self._oldest(now_s)
        return sum(amount for number, amount in list(self._buckets) if number > oldest)

    def rate(self, now_s: float) -> float:
        """The sum per second, over the part of the window since the start."""
        covered_s = now_s - max(self._began_s, (self._oldest(now_s) + 1) * self._bucket_s)
        return self.total(now_s) / max(covered_s, 1.0)

    def _oldest(self, now_s: float) -> float:
        return now_s // self._bucket_s - (self._buckets.maxlen or 0)


def report(snapshot: Snapshot) -> dict[str, object]:
    """The agent's report about itself to the endpoint: ``agent`` in docs/protocol.md."""
    receiver, queue = snapshot.receiver, snapshot.queue
    age_s = receiver.fix_age_s
    is_fresh = receiver.has_position and age_s is not None and age_s < _FRESH_S
    fields = {
        "version": snapshot.version,
        "uptime": round(snapshot.uptime_s),
        "receiver": receiver.state,
        "upload": snapshot.upload.state,
        "antenna": receiver.antenna,
        "sats": receiver.sats if is_fresh else None,
        "pending": queue.pending,
        "oldest_pending": queue.oldest_pending,
        "dead_letters": sum(queue.dead_letters.values()),
        "lost": queue.lost,
        "disk_free": queue.disk_free_bytes,
        "config": snapshot.config and "last-good",
        "storage": snapshot.storage and snapshot.storage.state,
    }
    return {name: value for name, value in fields.items() if value is not None}


class Completeness:
    """Keeps the accounts of a report until the endpoint accepts it. For the uploader's thread."""

    def __init__(self, queue: AckQueue) -> None:
        self.until_ms: int | None = None
        """GNSS time until which the endpoint has confirmed everything; for any thread."""
        self._queue = queue
        self.sent: list[StreamAccount] = []
        self._sent_until_ms: int | None = None

    def report(self) -> dict[str, object]:
        """``streams`` of a report; empty without an account."""
        try:
            self.sent, self._sent_until_ms = self._queue.accounts()
        except StorageError:  # reading and writing fixes logs it
            self.sent = []
        return {"streams": [account_json(account) for account in self.sent]} if self.sent else {}

    def taken(self) -> None:
        """Note that the endpoint has accepted the last report."""
        if self.sent:
            self.until_ms = self._sent_until_ms or self.until_ms
            if any(account.finished for account in self.sent):
                self._queue.settle(self.sent)


def account_json(account: StreamAccount) -> dict[str, object]:
    """An entry of ``streams``."""
    entry = {
        "stream": account.stream,
        "through": account.through,
        "recorded": account.recorded,
        "not_coming": dict(account.not_coming) or None,
        "damaged_in": account.damaged_in and list(account.damaged_in),
        "finished": account.finished or None,
    }
    return {name: value for name, value in entry.items() if value is not None}


def queue_view(
    stats: QueueStats,
    folder: Path,
    newest_ms: int | None = None,
    others: Collection[QueueStats] = (),
) -> QueueView:
    """The queue in a snapshot, with or without an agent.

    ``newest_ms``: of the newest fix. ``others``: the queues that are delivered as well. Of them
    only what waits is counted.
    """
    every = (stats, *others)
    waiting_ms = [one.oldest_pending_ms for one in every if pending(one)]
    oldest_ms = min((ms for ms in waiting_ms if ms is not None), default=None)
    free = 0  # if the folder is gone: nothing can be written there
    with suppress(StorageError):
        free = free_bytes(folder)
    return QueueView(
        pending=sum(map(pending, every)),
        in_flight=sum(one.in_flight for one in every),
        uncommitted=sum(one.uncommitted for one in every),
        delivered=stats.acked,
        dead_letters=dict(stats.dead_letters),
        lost=dict(stats.lost),
        file_bytes=stats.file_bytes,
        disk_free_bytes=free,
        full=stats.full,
        carrying_over=any(one.carrying_over for one in every),
        disk_error=stats.disk_error,
        oldest_pending=None if oldest_ms is None else rfc3339(oldest_ms),
        oldest_pending_s=None
        if oldest_ms is None or newest_ms is None
        else (newest_ms - oldest_ms) / 1000,
    )


def pending(stats: QueueStats) -> int:
    """The number of recorded fixes that are not delivered, refused or lost."""
    return stats.ready + stats.unack + stats.uncommitted


def ago_s(instant_s: float | None, now_s: float) -> float | None:
    """How long ago that was, to a tenth of a second."""
    return None if instant_s is None else round(now_s - instant_s, 1)
