"""What the agent knows about itself: counters, and the one snapshot that everything shows.

The system clock of a device may be wrong by years, so there is no date of it in here. Since when
something is so is told in seconds until now, and "in the last 24 h" means of the machine's
uptime, as the agent was there to count.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from telemetry_agent import __version__
from telemetry_agent.ackqueue.stats import QueueStats
from telemetry_agent.clock import Clock
from telemetry_agent.fields import fix_fields, rfc3339
from telemetry_agent.gnss.reader import ReceiverStatus
from telemetry_agent.model import Fix, Satellite, Sky
from telemetry_agent.upload.upload_status import UploadStatus

_MINUTE_S = 60.0
_DAY_S = 86400.0
_FRESH_S = 10.0  # some receivers take 8 s for an epoch
_WITH_POSITION = {"2d", "3d"}


class Meter:
    """How much was counted in the last ``window_s`` seconds, to a twelfth or so of them."""

    def __init__(self, window_s: float, now_s: float, buckets: int = 12) -> None:
        self._bucket_s = window_s / buckets
        self._began_s = now_s
        self._buckets: deque[list[float]] = deque(maxlen=buckets)  # [number of the bucket, sum]

    def add(self, now_s: float, amount: float) -> None:
        """Count."""
        number = now_s // self._bucket_s
        if not self._buckets or self._buckets[-1][0] != number:
            self._buckets.append([number, 0.0])
        self._buckets[-1][1] += amount

    def total(self, now_s: float) -> float:
        """The sum over the window."""
        return sum(amount for number, amount in self._buckets if number > self._oldest(now_s))

    def rate(self, now_s: float) -> float:
        """The sum per second, over as much of the window as there was."""
        covered_s = now_s - max(self._began_s, (self._oldest(now_s) + 1) * self._bucket_s)
        return self.total(now_s) / max(covered_s, 1.0)

    def _oldest(self, now_s: float) -> float:
        return now_s // self._bucket_s - (self._buckets.maxlen or 0)


class Status:
    """Collects, and tells. Any thread may call any method; none waits for a commit or the network.

    Args:
        identity: the name of the device, and the host that fixes go to.
        queue: counts the queue.
        receiver: how the receiver does.
        upload: how uploads do.
        path: of the queue; the disk that it lies on is the one whose space is told.
        clock: the machine's clocks.
        not_recorded: fixes that sampling dropped, by reason.
        sky: the satellites in view.
    """

    def __init__(
        self,
        identity: Callable[[], tuple[str, str]],
        queue: Callable[[], QueueStats],
        receiver: Callable[[], ReceiverStatus],
        upload: Callable[[], UploadStatus],
        path: Path,
        clock: Clock,
        not_recorded: Callable[[], Mapping[str, int]] = dict,
        sky: Callable[[], Sky] = Sky,
    ) -> None:
        self._not_recorded = not_recorded
        self._sky = sky
        self._identity = identity
        self._queue = queue
        self._receiver = receiver
        self._upload = upload
        self._folder = path.parent
        self._clock = clock
        now_s = clock.monotonic_s()
        self._began_s = now_s
        self._lock = threading.Lock()
        self._last_fix: tuple[float, Fix] | None = None
        self._newest_ms: int | None = None
        self._newest_s = now_s
        self._fixes = Meter(_MINUTE_S, now_s)
        self._delivered_lately = Meter(_MINUTE_S, now_s)
        self._sent_lately = Meter(_DAY_S, now_s, buckets=24)
        self._metered = UploadStatus()

    def fix_came(self, fix: Fix) -> None:
        """The receiver gave a fix, recorded or not."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            self._last_fix = now_s, fix
            if fix.time_is_sure:
                self._newest_ms, self._newest_s = fix.time_ms, now_s
            self._fixes.add(now_s, 1)

    def gnss_ms(self) -> int | None:
        """UTC now, told by the last fix whose time is not in doubt; ``None`` before the first."""
        with self._lock:
            if self._newest_ms is None:
                return None
            return self._newest_ms + round((self._clock.monotonic_s() - self._newest_s) * 1000)

    def step_ended(self) -> None:
        """The uploader made a step."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            before, upload = self._metered, self._upload()
            self._delivered_lately.add(now_s, upload.delivered - before.delivered)
            self._sent_lately.add(now_s, upload.sent_bytes - before.sent_bytes)
            self._metered = upload

    def snapshot(self) -> dict[str, Any]:
        """Everything, ready for JSON. What is unknown is absent.

        ``version device pid uptime_s``, and ``running``: true.

        ``receiver``: ``source``; ``state`` for ``state_s`` seconds; ``antenna`` as the receiver
        says; ``trouble``: why there is no position, as the log has it; ``fixes`` since the start
        and ``rate_hz`` over the last minute; ``rejected``: what was dropped of its input, and
        ``not_recorded``: of its fixes, by reason; ``satellites`` in view, see ``Satellite``; of
        the last fix, if there was one, ``fix_age_s``, ``time``, ``mode``,
        ``quality``, ``sats``, ``hdop``.

        ``upload``: ``host``; ``state`` for ``state_s`` seconds; ``last_delivery_s`` ago;
        ``last_error`` and ``last_error_s`` ago; ``next_attempt_s`` from now, while one is waited
        for; ``requests`` and ``failed_requests``; ``delivered`` fixes since the start and
        ``rate_hz`` over the last minute; ``sent_bytes`` since the start and ``sent_bytes_24h``.

        ``queue``: see ``queue_fields``, and ``oldest_pending_s``, by how much the oldest pending
        fix is older than the newest.
        """
        now_s = self._clock.monotonic_s()
        device, host = self._identity()
        return {
            "running": True,
            "version": __version__,
            "device": device,
            "pid": os.getpid(),
            "uptime_s": _tenths(now_s - self._began_s),
            "receiver": self._receiver_fields(now_s),
            "upload": self._upload_fields(now_s, host),
            "queue": self._queue_fields(),
        }

    def position(self) -> dict[str, Any] | None:
        """The last fix, ready for JSON, and its ``age_s``; ``None`` before the first.

        Apart from the snapshot, which everybody on the machine may see.
        """
        with self._lock:
            if self._last_fix is None:
                return None
            came_s, fix = self._last_fix
        return fix_fields(fix) | {"age_s": _tenths(self._clock.monotonic_s() - came_s)}

    def words(self) -> tuple[str, ...]:
        """The words that make a report worth sending when one of them changes."""
        receiver = self._receiver()
        return receiver.state, self._upload().state, receiver.antenna or ""

    def report(self) -> dict[str, object]:
        """What the agent tells its endpoint about itself: ``agent`` of the native format.

        ``version``; ``uptime`` in seconds; ``receiver`` and ``upload``, the state words;
        ``antenna``; ``sats``, while there is a position; ``pending`` fixes and the time of the
        ``oldest_pending``; ``dead_letters``; ``lost`` by reason; ``disk_free`` in bytes.
        """
        now_s = self._clock.monotonic_s()
        receiver, upload, queue = self._receiver(), self._upload(), self._queue()
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
        fields["disk_free"] = disk_free_bytes(self._folder)
        return fields

    def _receiver_fields(self, now_s: float) -> dict[str, Any]:
        receiver = self._receiver()
        with self._lock:
            last_fix, rate_hz = self._last_fix, self._fixes.rate(now_s)
        fields: dict[str, Any] = {
            "source": receiver.source,
            "state": receiver.state,
            "state_s": _tenths(now_s - receiver.since_s),
            "fixes": receiver.fixes,
            "rate_hz": round(rate_hz, 2),
            "rejected": dict(receiver.counts),
            "not_recorded": dict(self._not_recorded()),
            "satellites": [_known(satellite) for satellite in self._sky().satellites],
        }
        if receiver.antenna is not None:
            fields["antenna"] = receiver.antenna
        if receiver.trouble:
            fields["trouble"] = receiver.trouble
        if last_fix is not None:
            came_s, fix = last_fix
            fields["fix_age_s"] = _tenths(now_s - came_s)
            fields["time"] = rfc3339(fix.time_ms)
            fields["mode"] = fix.mode
            fields["quality"] = fix.quality
            if fix.sats is not None:
                fields["sats"] = fix.sats
            if fix.hdop_e2 is not None:
                fields["hdop"] = fix.hdop_e2 / 100
        return fields

    def _upload_fields(self, now_s: float, host: str) -> dict[str, Any]:
        self.step_ended()
        upload = self._upload()
        with self._lock:
            rate_hz = self._delivered_lately.rate(now_s)
            sent_24h = self._sent_lately.total(now_s)
        fields: dict[str, Any] = {
            "host": host,
            "state": upload.state,
            "state_s": _tenths(now_s - upload.since_s),
            "requests": upload.requests,
            "failed_requests": upload.failed_requests,
            "delivered": upload.delivered,
            "rate_hz": round(rate_hz, 2),
            "sent_bytes": upload.sent_bytes,
            "sent_bytes_24h": round(sent_24h),
        }
        if upload.last_delivery_s is not None:
            fields["last_delivery_s"] = _tenths(now_s - upload.last_delivery_s)
        if upload.last_error is not None and upload.last_error_s is not None:
            fields["last_error"] = upload.last_error
            fields["last_error_s"] = _tenths(now_s - upload.last_error_s)
        if upload.next_attempt_s is not None:
            fields["next_attempt_s"] = _tenths(max(0.0, upload.next_attempt_s - now_s))
        return fields

    def _queue_fields(self) -> dict[str, Any]:
        stats = self._queue()
        fields = queue_fields(stats, self._folder)
        oldest_ms, newest_ms = stats.oldest_pending_ms, self._newest_ms
        if "oldest_pending" in fields and oldest_ms is not None and newest_ms is not None:
            fields["oldest_pending_s"] = (newest_ms - oldest_ms) / 1000
        return fields


def _known(satellite: Satellite) -> dict[str, Any]:
    return {name: value for name, value in satellite._asdict().items() if value is not None}


def queue_fields(stats: QueueStats, folder: Path) -> dict[str, Any]:
    """What ``status`` tells of the queue, with an agent or without, ready for JSON.

    ``pending``: fixes that are to be delivered, of which ``in_flight`` are on their way and
    ``uncommitted`` not yet on disk; ``oldest_pending``: the time of the oldest; ``delivered``:
    those that are still kept; ``dead_letters`` and ``lost``: reason -> count; ``file_bytes``;
    ``disk_free_bytes``; ``full``: there is no room, so something is given up for what comes;
    ``carrying_over``: there is more to come from a file that was set aside.
    """
    fields: dict[str, Any] = {
        "pending": pending(stats),
        "in_flight": stats.in_flight,
        "uncommitted": stats.uncommitted,
        "delivered": stats.acked,
        "dead_letters": dict(stats.dead_letters),
        "lost": dict(stats.lost),
        "file_bytes": stats.file_bytes,
        "disk_free_bytes": disk_free_bytes(folder),
        "full": stats.full,
        "carrying_over": stats.carrying_over,
    }
    if fields["pending"] and stats.oldest_pending_ms is not None:
        fields["oldest_pending"] = rfc3339(stats.oldest_pending_ms)
    return fields


def pending(stats: QueueStats) -> int:
    """Fixes that are recorded, and neither delivered nor refused nor lost."""
    return stats.ready + stats.unack + stats.uncommitted


def disk_free_bytes(folder: Path) -> int:
    """What the agent could still write there."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def _tenths(seconds: float) -> float:
    return round(seconds, 1)
