"""What the agent knows about itself: counters, the snapshot, and the reports to the endpoint.

The system clock of a device may be wrong by years, so nothing here is dated by it. The beginning of
a state is given in seconds before now, and "the last 24 h" are those in which the agent was
running.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from telemetry_agent import __version__
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.stats import QueueStats
from telemetry_agent.clock import Clock
from telemetry_agent.disks import free_bytes
from telemetry_agent.errors import StorageError
from telemetry_agent.fields import fix_fields, rfc3339
from telemetry_agent.gnss.reader import ReceiverStatus
from telemetry_agent.model import Fix, Sky, StreamAccount
from telemetry_agent.snapshot import (
    ConfigView,
    PageView,
    QueueView,
    ReceiverView,
    Snapshot,
    StorageView,
    UploadView,
)
from telemetry_agent.upload.upload_status import UploadStatus

_MINUTE_S = 60.0
_DAY_S = 86400.0
_FRESH_S = 10.0  # some receivers take 8 s for an epoch
_WITH_POSITION = {"2d", "3d"}


class SlidingSum:
    """The sum of what was counted in the last ``window_s`` seconds, to about a twelfth of them."""

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
        return sum(amount for number, amount in self._buckets if number > self._oldest(now_s))

    def rate(self, now_s: float) -> float:
        """The sum per second, over the part of the window since the start."""
        covered_s = now_s - max(self._began_s, (self._oldest(now_s) + 1) * self._bucket_s)
        return self.total(now_s) / max(covered_s, 1.0)

    def _oldest(self, now_s: float) -> float:
        return now_s // self._bucket_s - (self._buckets.maxlen or 0)


@dataclass(eq=False)
class Status:
    """Collects counters, and makes the snapshot and the agent's reports of them.

    Any thread may call any method; none waits for a commit or the network.
    """

    identity: Callable[[], tuple[str, str]]
    """The name of the device, and the host that fixes are sent to."""
    queue: Callable[[], QueueStats]
    receiver: Callable[[], ReceiverStatus]
    upload: Callable[[], UploadStatus]
    path: Path
    """The queue file; the free space of its disk is reported."""
    clock: Clock
    not_recorded: Callable[[], Mapping[str, int]] = dict
    """Fixes that sampling left out, by reason."""
    sky: Callable[[], Sky] = Sky
    page: Callable[[], PageView | None] = lambda: None
    """The state of the device page; ``None`` if it is off."""
    config: Callable[[], ConfigView | None] = lambda: None
    """Why the last good config is in effect; ``None`` if it is not."""
    storage: StorageView | None = None
    """What is wrong with the place where fixes are stored."""
    complete_until_ms: Callable[[], int | None] = lambda: None
    """GNSS time until which the endpoint has everything; ``None`` if unknown."""

    def __post_init__(self) -> None:
        """Begin to count."""
        now_s = self.clock.monotonic_s()
        self._began_s = now_s
        self._lock = threading.Lock()
        self._last_fix: tuple[float, Fix] | None = None
        self._newest_ms: int | None = None
        self._newest_s = now_s
        self._fixes = SlidingSum(_MINUTE_S, now_s)
        self._delivered_lately = SlidingSum(_MINUTE_S, now_s)
        self._sent_lately = SlidingSum(_DAY_S, now_s, buckets=24)
        self._metered = UploadStatus()

    def fix_came(self, fix: Fix) -> None:
        """Count a fix of the receiver, recorded or not."""
        now_s = self.clock.monotonic_s()
        with self._lock:
            self._last_fix = now_s, fix
            if fix.time_is_sure:
                self._newest_ms, self._newest_s = fix.time_ms, now_s
            self._fixes.add(now_s, 1)

    def gnss_ms(self) -> int | None:
        """UTC now, by the last fix whose time is not in doubt; ``None`` before the first."""
        with self._lock:
            if self._newest_ms is None:
                return None
            return self._newest_ms + round((self.clock.monotonic_s() - self._newest_s) * 1000)

    def step_ended(self) -> None:
        """Count what a step of the uploader delivered and sent."""
        now_s = self.clock.monotonic_s()
        with self._lock:
            before, upload = self._metered, self.upload()
            self._delivered_lately.add(now_s, upload.delivered - before.delivered)
            self._sent_lately.add(now_s, upload.sent_bytes - before.sent_bytes)
            self._metered = upload

    def snapshot(self) -> Snapshot:
        """The state of every part now."""
        now_s = self.clock.monotonic_s()
        device, host = self.identity()
        return Snapshot(
            version=__version__,
            device=device,
            pid=os.getpid(),
            uptime_s=_tenths(now_s - self._began_s),
            receiver=self._receiver_view(now_s),
            upload=self._upload_view(now_s, host),
            queue=self._queue_view(),
            page=self.page(),
            config=self.config(),
            storage=self.storage,
        )

    def position(self) -> dict[str, Any] | None:
        """The last fix, ready for JSON, and its ``age_s``; ``None`` before the first.

        It is not part of the snapshot, which every user of the machine may see.
        """
        with self._lock:
            if self._last_fix is None:
                return None
            came_s, fix = self._last_fix
        return fix_fields(fix) | {"age_s": _tenths(self.clock.monotonic_s() - came_s)}

    def words(self) -> tuple[str, ...]:
        """The states whose change is reported at once."""
        receiver = self.receiver()
        return receiver.state, self.upload().state, receiver.antenna or ""

    def report(self) -> dict[str, object]:
        """The agent's report about itself to the endpoint: ``agent`` of the native format.

        ``version``; ``uptime`` in seconds; ``receiver`` and ``upload``, the state words;
        ``antenna``; ``sats``, while there is a position; ``pending`` fixes and the time of the
        ``oldest_pending``; ``dead_letters``; ``lost`` by reason; ``disk_free`` in bytes;
        ``config``: "last-good" if the config does not work; ``storage``: "forgets" or "runtime" if
        a power cut loses everything.
        """
        now_s = self.clock.monotonic_s()
        receiver, upload, queue = self.receiver(), self.upload(), self.queue()
        last_fix = self._last_fix
        fields: dict[str, object] = {
            "version": __version__,
            "uptime": round(now_s - self._began_s),
            "receiver": receiver.state,
            "upload": upload.state,
        }
        if receiver.antenna is not None:
            fields["antenna"] = receiver.antenna
        if last_fix is not None and receiver.state in _WITH_POSITION:
            came_s, fix = last_fix
            if fix.sats is not None and now_s - came_s < _FRESH_S:
                fields["sats"] = fix.sats
        fields["pending"] = pending(queue)
        if fields["pending"] and queue.oldest_pending_ms is not None:
            fields["oldest_pending"] = rfc3339(queue.oldest_pending_ms)
        fields["dead_letters"] = queue.ack_failed
        fields["lost"] = dict(queue.lost)
        with suppress(StorageError):
            fields["disk_free"] = free_bytes(self.path.parent)
        if self.config() is not None:
            fields["config"] = "last-good"
        if self.storage is not None:
            fields["storage"] = self.storage.state
        return fields

    def _receiver_view(self, now_s: float) -> ReceiverView:
        receiver = self.receiver()
        with self._lock:
            last_fix, rate_hz = self._last_fix, self._fixes.rate(now_s)
        diagnosis = receiver.diagnosis
        why = diagnosis or receiver.trouble
        view = ReceiverView(
            source=receiver.source,
            state=receiver.state,
            state_s=_tenths(now_s - receiver.since_s),
            fixes=receiver.fixes,
            rate_hz=round(rate_hz, 2),
            rejected=dict(receiver.counts),
            not_recorded=dict(self.not_recorded()),
            satellites=self.sky().satellites,
            reason=diagnosis and diagnosis.reason,
            message=why and why.message,
            remedy=why and why.remedy,
            notice="; ".join(receiver.notices) or None,
            antenna=receiver.antenna,
        )
        if last_fix is None:
            return view
        came_s, fix = last_fix
        return replace(
            view,
            fix_age_s=_tenths(now_s - came_s),
            time=rfc3339(fix.time_ms),
            mode=fix.mode,
            quality=fix.quality,
            sats=fix.sats,
            hdop=None if fix.hdop_e2 is None else fix.hdop_e2 / 100,
        )

    def _upload_view(self, now_s: float, host: str) -> UploadView:
        self.step_ended()
        upload, until_ms = self.upload(), self.complete_until_ms()
        with self._lock:
            rate_hz = self._delivered_lately.rate(now_s)
            sent_24h = self._sent_lately.total(now_s)
        return UploadView(
            host=host,
            state=upload.state,
            state_s=_tenths(now_s - upload.since_s),
            requests=upload.requests,
            failed_requests=upload.failed_requests,
            delivered=upload.delivered,
            unknown_names=upload.unknown_names,
            rate_hz=round(rate_hz, 2),
            sent_bytes=upload.sent_bytes,
            sent_bytes_24h=round(sent_24h),
            complete_until=None if until_ms is None else rfc3339(until_ms),
            last_delivery_s=_ago(upload.last_delivery_s, now_s),
            last_error=upload.last_error,
            last_error_s=_ago(upload.last_error_s, now_s),
            next_attempt_s=None
            if upload.next_attempt_s is None
            else _tenths(max(0.0, upload.next_attempt_s - now_s)),
        )

    def _queue_view(self) -> QueueView:
        stats = self.queue()
        view = queue_view(stats, self.path.parent)
        oldest_ms, newest_ms = stats.oldest_pending_ms, self._newest_ms
        if view.oldest_pending is None or oldest_ms is None or newest_ms is None:
            return view
        return replace(view, oldest_pending_s=(newest_ms - oldest_ms) / 1000)


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
        """The endpoint has accepted the last report."""
        if self.sent:
            self.until_ms = self._sent_until_ms or self.until_ms
            if any(account.finished for account in self.sent):
                self._queue.settle(self.sent)


def account_json(account: StreamAccount) -> dict[str, object]:
    """An entry of ``streams``."""
    entry: dict[str, object] = {
        "stream": account.stream,
        "through": account.through,
        "recorded": account.recorded,
    }
    if account.not_coming:
        entry["not_coming"] = dict(account.not_coming)
    if account.damaged_in is not None:
        entry["damaged_in"] = list(account.damaged_in)
    if account.finished:
        entry["finished"] = True
    return entry


def queue_view(stats: QueueStats, folder: Path) -> QueueView:
    """The queue in a snapshot, with or without an agent."""
    count = pending(stats)
    free = 0  # if the folder is gone: nothing can be written there
    with suppress(StorageError):
        free = free_bytes(folder)
    return QueueView(
        pending=count,
        in_flight=stats.in_flight,
        uncommitted=stats.uncommitted,
        delivered=stats.acked,
        dead_letters=dict(stats.dead_letters),
        lost=dict(stats.lost),
        file_bytes=stats.file_bytes,
        disk_free_bytes=free,
        full=stats.full,
        carrying_over=stats.carrying_over,
        oldest_pending=rfc3339(stats.oldest_pending_ms)
        if count and stats.oldest_pending_ms is not None
        else None,
    )


def pending(stats: QueueStats) -> int:
    """The number of recorded fixes that are not delivered, refused or lost."""
    return stats.ready + stats.unack + stats.uncommitted


def _ago(instant_s: float | None, now_s: float) -> float | None:
    return None if instant_s is None else _tenths(now_s - instant_s)


def _tenths(seconds: float) -> float:
    return round(seconds, 1)
