"""The only place where real parts are put together, and the life of the process round them."""

import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from telemetry_agent import __version__
from telemetry_agent.ackqueue.committer import Committer
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.config import Gps, Sampling, Settings
from telemetry_agent.config import Upload as UploadSettings
from telemetry_agent.daemon.supervisor import Supervised, Supervisor
from telemetry_agent.errors import StorageError
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.reader import Reader
from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy
from telemetry_agent.gnss.sources import Source
from telemetry_agent.gnss.sources.replay import ReplaySource
from telemetry_agent.gnss.sources.serial import SerialSource
from telemetry_agent.model import Fix
from telemetry_agent.upload.formats import native
from telemetry_agent.upload.network import Network
from telemetry_agent.upload.transport import Transport
from telemetry_agent.upload.uploader import Uploader, UploadPolicy

log = logging.getLogger(__name__)

# What each part may take when the agent stops: together under the 10 s that are promised.
_READER_S = 1.0
_REQUEST_S = 3.0
_ABORT_S = 0.5
_LAST_UPLOAD_S = 3.0
_QUEUE_S = 1.0

_ROWS_TO_RESUME = 1000  # at 1 Hz more than parking takes

_EX_SOFTWARE = 70  # sysexits.h: a fault of ours; the service manager starts the agent again
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class Agent:
    """The parts of a running agent: reader, queue with its committer, uploader.

    Raises:
        QueueLockedError: another process holds the queue.
        StorageError: the queue cannot be opened.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.queue = AckQueue(
            settings.queue.path,
            commit_every_s=settings.queue.commit_every_s,
            keep_delivered_s=settings.queue.keep_delivered_s,
            clock=clock,
        )
        self._settings = settings
        self._clock = clock
        self.sampler = Sampler(
            _sampling(settings.sampling),
            [record.fix for record in self.queue.newest(_ROWS_TO_RESUME)],
        )
        self._transport = Transport(
            settings.upload.url,
            # Longer than a batch gathers, so that the next one finds the connection open.
            keepalive_expiry_s=3 * settings.upload.flush_every_s,
            network=Network(clock),
        )
        self.supervisor = Supervisor(clock)
        self._committer = self.supervisor.add("committer", lambda: Committer(self.queue))
        self.uploader = self.supervisor.add("uploader", self._build_uploader)
        self.reader = self.supervisor.add("reader", self._build_reader)
        self.queue.watch(self._committer.wake)
        self.queue.watch(self.uploader.wake)

    def _build_uploader(self) -> Uploader:
        return Uploader(
            self.queue, native, self._transport, _policy(self._settings.upload), clock=self._clock
        )

    def _build_reader(self) -> Reader:
        gps = self._settings.gps
        replays = gps.source.startswith("file:")

        def decoder() -> Decoder:
            # The dates of a recording are what they are; a receiver's may have rolled over.
            return Decoder(wall_clock=self._wall_clock, fix_rollover=not replays)

        return Reader(_source(gps), decoder, record=self._record, clock=self._clock)

    def _record(self, fix: Fix) -> None:
        for chosen in self.sampler.feed(fix):
            self.queue.put(chosen, self._settings.device)

    def _wall_clock(self) -> int | None:
        return self._clock.wall_ms() if self._clock.synchronised() else None

    def start(self) -> None:
        """Start every thread."""
        self.supervisor.start()

    def stop(self) -> None:
        """End within 10 s. The last bytes read are recorded, and one last upload is tried."""
        _end(self.reader, _READER_S)
        try:
            self.queue.commit()
        except StorageError as error:
            log.error("%s", error)  # noqa: TRY400 - the user's disk, no fault of the code
        _end(self.uploader, _REQUEST_S)
        last_upload = self.uploader.task.last_upload
        _within(_LAST_UPLOAD_S + _ABORT_S, lambda: last_upload(_LAST_UPLOAD_S))
        _end(self._committer, _ABORT_S)
        _within(_QUEUE_S, self.queue.close)


def _end(supervised: Supervised[Any], timeout_s: float) -> None:
    supervised.ask_to_stop()
    supervised.join(timeout_s)
    supervised.task.close()
    supervised.join(_ABORT_S)


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


def run(settings: Settings, clock: Clock) -> int:
    """Run until a signal says stop. Returns the exit status."""
    # Before any thread starts, so that all inherit it and only sigwait hears of them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    agent = Agent(settings, clock)
    log.info(
        "telemetry-agent %s records %s from %s into %s, for %s",
        __version__,
        settings.device,
        settings.gps.source,
        settings.queue.path,
        urlsplit(settings.upload.url).netloc,  # the rest of a URL may hold a key
    )
    agent.start()
    number = signal.sigwait(_SIGNALS)
    if agent.supervisor.gave_up:
        log.critical("stopping, to be started afresh")
    else:
        log.info("stopping on %s", signal.Signals(number).name)
    agent.stop()
    stats = agent.queue.stats()
    log.info("stopped: %d fixes wait for the next start", stats.ready + stats.unack)
    return _EX_SOFTWARE if agent.supervisor.gave_up else 0
