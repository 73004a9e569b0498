"""The only place where real parts are put together."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from telemetry_agent.ackqueue.committer import Committer
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.config import Gps, Sampling, Settings
from telemetry_agent.config import Upload as UploadSettings
from telemetry_agent.connectivity.monitor import Monitor
from telemetry_agent.connectivity.probe import Probe
from telemetry_agent.connectivity.routes import KernelBell
from telemetry_agent.daemon.supervisor import Supervised, Supervisor
from telemetry_agent.errors import StorageError
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.reader import Reader
from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy
from telemetry_agent.gnss.sources import Source
from telemetry_agent.gnss.sources.replay import ReplaySource
from telemetry_agent.gnss.sources.serial import SerialSource
from telemetry_agent.model import Fix, UploadState
from telemetry_agent.upload.formats import native
from telemetry_agent.upload.network import Network
from telemetry_agent.upload.transport import Transport
from telemetry_agent.upload.uploader import Uploader, UploadPolicy

log = logging.getLogger(__name__)

# What each part may take when the agent stops: together under the 10 s that are promised.
_READER_S = 1.0
_MONITOR_S = 0.5
_REQUEST_S = 3.0
_LAST_UPLOAD_S = 3.0
_COMMITTER_S = 0.5
_QUEUE_S = 1.0

_ROWS_TO_RESUME = 1000  # at 1 Hz more than parking takes


class Agent:
    """The parts of a running agent: reader, queue with its committer, uploader, monitor.

    Raises:
        QueueLockedError: another process holds the queue.
        StorageError: the queue cannot be opened.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock
        self.queue = AckQueue(
            settings.queue.path,
            commit_every_s=settings.queue.commit_every_s,
            keep_delivered_s=settings.queue.keep_delivered_s,
            clock=clock,
        )
        self.sampler = Sampler(_sampling(settings.sampling), self._recent())
        self._transport = self._build_transport()
        self.supervisor = Supervisor(clock)
        self._committer = self.supervisor.add("committer", lambda: Committer(self.queue))
        self.monitor = self.supervisor.add("connectivity", self._build_monitor)
        self.uploader = self.supervisor.add("uploader", self._build_uploader)
        self.reader = self.supervisor.add("reader", self._build_reader)
        self.queue.watch(self.uploader.wake)

    def start(self) -> None:
        """Start every thread."""
        self.supervisor.start()

    def stop(self) -> None:
        """End within 10 s. The last bytes read are recorded, and one last upload is tried."""
        self.reader.end(_READER_S)
        try:
            self.queue.commit()
        except StorageError as error:
            log.error("%s", error)  # noqa: TRY400 - the user's disk, no fault of the code
        self.monitor.end(_MONITOR_S)
        self.uploader.end(_REQUEST_S)
        last_upload = self.uploader.task.last_upload
        _within(_LAST_UPLOAD_S, lambda: last_upload(_LAST_UPLOAD_S))
        self._committer.end(_COMMITTER_S)
        _within(_QUEUE_S, self.queue.close)

    def apply(self, settings: Settings) -> None:
        """Go on with other settings; no fix is lost.

        The uploader starts afresh in any case, so that what was held goes on at once.
        """
        before, self.settings = self.settings, settings
        if settings.queue != before.queue:
            log.warning("[queue] has changed: that takes effect at the next start")
        self.sampler.policy = _sampling(settings.sampling)
        if settings.gps != before.gps:
            self.reader.restart(_READER_S)
        self.monitor.restart(_MONITOR_S)
        self.uploader.end(_REQUEST_S)
        self._transport.close()
        self._transport = self._build_transport()
        self.uploader.restart(0)

    def _build_transport(self) -> Transport:
        upload = self.settings.upload
        return Transport(
            upload.url,
            # Longer than a batch gathers, so that the next one finds the connection open.
            keepalive_expiry_s=3 * upload.flush_every_s,
            network=Network(self._clock),
        )

    def _build_uploader(self) -> Uploader:
        return Uploader(
            self.queue,
            native,
            self._transport,
            _policy(self.settings.upload),
            way=_Way(self.monitor),
            clock=self._clock,
        )

    def _build_monitor(self) -> Monitor:
        settings = self.settings
        host, port = settings.connectivity.probe or settings.upload.address
        bell = KernelBell()
        return Monitor(
            Probe(host, port, bell),
            bell,
            probe_every_s=settings.connectivity.probe_every_s,
            resume_spread_s=settings.upload.resume_spread_s,
            on_return=self._network_returned,
            on_change=self._network_changed,
            clock=self._clock,
        )

    def _network_returned(self) -> None:
        self.uploader.task.network_returned()

    def _network_changed(self) -> None:
        self.uploader.task.network_changed()

    def _build_reader(self) -> Reader:
        return Reader(
            _source(self.settings.gps), self._build_decoder, record=self._record, clock=self._clock
        )

    def _build_decoder(self) -> Decoder:
        # The dates of a recording are what they are; a receiver's may have rolled over.
        replays = self.settings.gps.source.startswith("file:")
        return Decoder(
            wall_clock=lambda: self._clock.wall_ms() if self._clock.synchronised() else None,
            fix_rollover=not replays,
            baud=self.settings.gps.baud,
        )

    def _record(self, fix: Fix) -> None:
        for chosen in self.sampler.feed(fix):
            self.queue.put(chosen, self.settings.device)

    def _recent(self) -> list[Fix]:
        try:
            return [record.fix for record in self.queue.newest(_ROWS_TO_RESUME)]
        except StorageError as error:
            log.error("%s; the odometer starts at 0", error)  # noqa: TRY400 - the user's disk
            return []

    def __str__(self) -> str:
        """What it does, in one line; no secret."""
        settings = self.settings
        # The rest of a URL may hold a key.
        return (
            f"records {settings.device} from {settings.gps.source} into {settings.queue.path}, "
            f"for {urlsplit(settings.upload.url).netloc}"
        )


class _Way:
    """The way to the endpoint as the monitor that runs now sees it."""

    def __init__(self, monitor: Supervised[Monitor]) -> None:
        self._monitor = monitor

    def closed(self) -> tuple[UploadState, str] | None:
        return self._monitor.task.closed()

    def doubt(self) -> None:
        self._monitor.task.doubt()

    def answered(self) -> None:
        self._monitor.task.answered()


def _within(timeout_s: float, act: Callable[[], object]) -> None:
    """Do it in a thread that is left behind where it takes too long."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(timeout_s)


def _source(gps: Gps) -> Source:
    if gps.source.startswith("file://"):
        return ReplaySource(Path(gps.source.removeprefix("file://")))
    return SerialSource(Path(gps.source), gps.baud)


def _sampling(sampling: Sampling) -> SamplingPolicy:
    return SamplingPolicy(
        interval_s=sampling.interval_s,
        distance_m=sampling.distance_m,
        turn_deg=sampling.turn_deg,
        parked_radius_m=sampling.parked_radius_m,
        parked_after_s=sampling.parked_after_s,
        heartbeat_s=sampling.heartbeat_s,
        max_hdop=sampling.max_hdop,
        drop_quality=sampling.drop_quality,
    )


def _policy(upload: UploadSettings) -> UploadPolicy:
    return UploadPolicy(
        max_batch=upload.max_batch,
        flush_every_s=upload.flush_every_s,
        timeout_s=upload.timeout_s,
        live_first=upload.order != "oldest-first",
        compression=upload.compression,
        backoff_initial_s=upload.backoff_initial_s,
        backoff_max_s=upload.backoff_max_s,
    )
