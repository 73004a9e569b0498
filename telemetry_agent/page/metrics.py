"""The status snapshot as Prometheus metrics.

Names follow Prometheus' conventions: base units, ``_total`` for what only grows. A state has one
series for each of its words, 1 for the current one. Every label has a small, fixed set of values.
The reasons of dead letters are an endpoint's own words, so only their number is given.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, get_args

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from telemetry_agent.model import Constellation, Quality, ReceiverState, UploadState
from telemetry_agent.snapshot import Snapshot

MEDIA_TYPE = CONTENT_TYPE_LATEST

_PREFIX = "telemetry_agent_"

_GAUGES = (
    ("uptime_s", "uptime_seconds", "Time since the agent started."),
    ("receiver.state_s", "receiver_state_seconds", "How long the receiver is in its state."),
    ("receiver.fix_age_s", "fix_age_seconds", "Time since the last position."),
    ("receiver.sats", "fix_satellites", "Satellites used in the last position."),
    ("receiver.hdop", "fix_hdop", "Horizontal dilution of precision of the last position."),
    ("upload.state_s", "upload_state_seconds", "How long uploads are in their state."),
    ("upload.last_delivery_s", "upload_last_delivery_age_seconds", "Time since the last delivery."),
    ("queue.pending", "queue_pending_fixes", "Positions that are to be delivered."),
    ("queue.in_flight", "queue_in_flight_fixes", "Pending positions in a request."),
    ("queue.uncommitted", "queue_uncommitted_fixes", "Pending positions not on disk yet."),
    ("queue.delivered", "queue_delivered_fixes", "Delivered positions that are still kept."),
    ("queue.oldest_pending_s", "queue_oldest_pending_age_seconds", "Age of the oldest pending."),
    ("queue.file_bytes", "queue_file_size_bytes", "Size of the queue's files."),
    ("queue.full", "queue_full", "Whether the queue is full."),
    ("queue.carrying_over", "queue_carrying_over", "Whether a damaged file is being carried over."),
    ("queue.disk_free_bytes", "queue_disk_free_bytes", "Bytes that may still be written."),
)
_COUNTERS = (
    ("receiver.fixes", "receiver_fixes", "Positions from the receiver."),
    ("upload.requests", "upload_requests", "Requests to the endpoint."),
    ("upload.failed_requests", "upload_failed_requests", "Requests that delivered nothing."),
    ("upload.delivered", "upload_delivered_fixes", "Positions delivered."),
    ("upload.unknown_names", "upload_unknown_names", "Names in answers that no request held."),
    ("upload.sent_bytes", "upload_sent_bytes", "Bytes sent to the endpoint."),
)
# Every reason begins at 0: Prometheus sees no increase in a series that is new, so the first loss
# would not raise an alarm.
REJECTED = (
    *("aborted", "bad-checksum", "bad-date", "bad-position", "bad-quality", "bad-status"),
    *("bad-tag", "bad-time", "bad-unit", "future-date", "garbage-bytes", "late", "late-date"),
    *("no-checksum", "no-date", "no-fix", "no-time", "old-date", "other-talker"),
    *("receiver-overflow", "rollover", "short", "too-long"),
)
NOT_RECORDED = ("hdop", "not-due", "parked", "quality")
LOST = (
    *("damaged", "discarded", "dropped", "expired", "full", "memory", "refused", "thinned"),
    "uncounted",
)
_COUNTERS_BY_REASON = (
    ("receiver.rejected", "receiver_rejected", "Input of the receiver that was dropped.", REJECTED),
    ("receiver.not_recorded", "fixes_not_recorded", "Left out by sampling.", NOT_RECORDED),
    ("queue.lost", "queue_lost_fixes", "Recorded positions that were lost.", LOST),
)
_STATES = (
    ("receiver.state", "receiver_state", "State of the receiver.", get_args(ReceiverState)),
    ("receiver.quality", "fix_quality", "Quality of the last position.", get_args(Quality)),
    ("upload.state", "upload_state", "State of uploads.", get_args(UploadState)),
)


def metrics(snapshot: Snapshot, clock_offset_s: float | None = None) -> bytes:
    """Prometheus' text format; its type is ``MEDIA_TYPE``.

    Args:
        snapshot: of the agent. What is unknown there is absent here, too.
        clock_offset_s: by how much the system clock is ahead of GNSS time; ``None``: not known.
    """
    return generate_latest(_Families(snapshot, clock_offset_s))


@dataclass
class _Families(Collector):
    _snapshot: Snapshot
    _clock_offset_s: float | None

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        about = {"version": snapshot.version, "device": snapshot.device}
        antenna_fault = snapshot.receiver.antenna in {"OPEN", "SHORT"}
        refused = sum(snapshot.queue.dead_letters.values())
        is_storage_at_fault = bool(snapshot.storage or snapshot.queue.disk_error)
        yield InfoMetricFamily(_PREFIX.rstrip("_"), "Version and device.", about)
        for name, help_, value in (
            *((name, help_, self._value(path)) for path, name, help_ in _GAUGES),
            ("receiver_antenna_fault", "Whether the antenna is open or short.", antenna_fault),
            ("storage_fault", "Whether the disk may lose positions.", is_storage_at_fault),
            ("config_fault", "Whether the config is unusable.", snapshot.config is not None),
            ("clock_offset_seconds", "System time minus GNSS time.", self._clock_offset_s),
            ("queue_dead_letter_fixes", "Positions that the endpoint refused.", refused),
        ):
            if value is not None:
                yield GaugeMetricFamily(_PREFIX + name, help_, value)
        for path, name, help_ in _COUNTERS:
            yield CounterMetricFamily(_PREFIX + name, help_, self._value(path))
        for path, name, help_, reasons in _COUNTERS_BY_REASON:
            family = CounterMetricFamily(_PREFIX + name, help_, labels=["reason"])
            for reason, count in (dict.fromkeys(reasons, 0) | dict(self._value(path))).items():
                family.add_metric([reason], count)
            yield family
        for path, name, help_, words in _STATES:
            if (now := self._value(path)) is not None:
                state = GaugeMetricFamily(_PREFIX + name, help_, labels=[path.split(".")[1]])
                for word in words:
                    state.add_metric([word], word == now)
                yield state
        yield self._satellites()

    def _value(self, path: str) -> Any:
        return attrgetter(path)(self._snapshot)

    def _satellites(self) -> Metric:
        family = GaugeMetricFamily(
            f"{_PREFIX}satellites", "Satellites in view.", labels=["constellation", "used"]
        )
        seen = Counter(
            (satellite.system, str(satellite.used).lower())
            for satellite in self._snapshot.receiver.satellites
        )
        for system in get_args(Constellation):
            for used in ("true", "false"):
                family.add_metric([system, used], seen[system, used])
        return family
