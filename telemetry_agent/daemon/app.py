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
from telemetry_agent.config import Gps, Settings
from telemetry_agent.config import Upload as UploadSettings
from telemetry_agent.daemon.supervisor import Supervised, Supervisor
from telemetry_agent.errors import StorageError
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.reader import Reader
from telemetry_agent.gnss.sources import Source, gpsd
from telemetry_agent.gnss.sources.auto import AutoSource
from telemetry_agent.gnss.sources.baud import BaudMemory
from telemetry_agent.gnss.sources.commands import command_bytes
from telemetry_agent.gnss.sources.gpsd import GpsdSource
from telemetry_agent.gnss.sources.hotplug import Hotplug
from telemetry_agent.gnss.sources.network import TcpSource, UdpSource
from telemetry_agent.gnss.sources.replay import ReplaySource
from telemetry_agent.gnss.sources.serial import SerialSource
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
        self._transport = Transport(
            settings.upload.url,
            # Longer than a batch gathers, so that the next one finds the connection open.
            keepalive_expiry_s=3 * settings.upload.flush_every_s,
            network=Network(clock),
        )
        self.supervisor = Supervisor(clock)
        self._committer = self.supervisor.add("committer", lambda: Committer(self.queue))
        self.uploader = self.supervisor.add("uploader", self._build_uploader)
        self._hotplug = self.supervisor.add("hotplug", self._build_hotplug)
        self.reader = self.supervisor.add("reader", self._build_reader)
        self.queue.watch(self._committer.wake)
        self.queue.watch(self.uploader.wake)

    def _build_uploader(self) -> Uploader:
        return Uploader(
            self.queue, native, self._transport, _policy(self._settings.upload), clock=self._clock
        )

    def _build_hotplug(self) -> Hotplug:
        def ring() -> None:
            self.reader.wake()  # the one that runs by then

        return Hotplug(ring)

    def _build_reader(self) -> Reader:
        gps = self._settings.gps
        replays = gps.source.startswith("file:")
        source = _source(gps, self._settings.queue.path.with_suffix(".baud"))

        def decoder() -> Decoder:
            # The dates of a recording are what they are; a receiver's may have rolled over.
            baud = source.baud if isinstance(source, SerialSource | AutoSource) else None
            return Decoder(wall_clock=self._wall_clock, fix_rollover=not replays, baud=baud)

        return Reader(
            source,
            decoder,
            record=lambda fix: self.queue.put(fix, self._settings.device),
            clock=self._clock,
            arrivals=lambda: self._hotplug.task.arrivals,
        )

    def _wall_clock(self) -> int | None:
        return self._clock.wall_ms() if self._clock.synchronised() else None

    def start(self) -> None:
        """Start every thread."""
        self.supervisor.start()

    def stop(self) -> None:
        """End within 10 s. The last bytes read are recorded, and one last upload is tried."""
        _end(self.reader, _READER_S)
        _end(self._hotplug, _ABORT_S)
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


def _source(gps: Gps, baud_file: Path) -> Source:
    """Where bytes come from. ``baud_file`` keeps what speed a serial line was found to have."""
    commands = [command_bytes(text) for text in gps.on_connect]
    memory = BaudMemory(baud_file)
    baud = None if gps.baud == "auto" else gps.baud

    def port(path: Path) -> Source:
        return SerialSource(path, baud, commands=commands, memory=memory)

    if gps.source == "auto":
        return AutoSource(port)
    if gps.source.startswith("/"):
        return port(Path(gps.source))
    parts = urlsplit(gps.source)
    host, number = parts.hostname or "", parts.port or 0
    if parts.scheme == "gpsd":
        return GpsdSource(host, number or gpsd.PORT)
    if parts.scheme == "tcp":
        return TcpSource(host, number, commands=commands)
    if parts.scheme == "udp":
        return UdpSource(host, number)
    return ReplaySource(Path(gps.source.removeprefix("file://")))


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
