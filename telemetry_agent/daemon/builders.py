"""From a section of the config to the part that it describes."""

from pathlib import Path
from urllib.parse import urlsplit

from telemetry_agent.ackqueue.limits.bounds import Limits
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import Extra, Gps, Queue, Upload
from telemetry_agent.daemon.extras import Attribute, Extras
from telemetry_agent.gnss.sources import Source, gpsd
from telemetry_agent.gnss.sources.auto import AutoSource
from telemetry_agent.gnss.sources.baud import BaudMemory
from telemetry_agent.gnss.sources.gpsd import GpsdSource
from telemetry_agent.gnss.sources.on_connect import command_bytes
from telemetry_agent.gnss.sources.replay import ReplaySource
from telemetry_agent.gnss.sources.serial import SerialSource
from telemetry_agent.gnss.sources.sockets import TcpSource, UdpSource
from telemetry_agent.upload.interfaces import WireFormat
from telemetry_agent.upload.uploader import UploadPolicy


def open_queue(queue: Queue, clock: Clock) -> AckQueue:
    """The queue, for this process alone.

    Raises:
        QueueLockedError: another process holds it.
        StorageError: it cannot be opened.
    """
    return AckQueue(
        queue.path,
        commit_every_s=queue.commit_every_s,
        keep_delivered_s=queue.keep_delivered_s,
        limits=Limits(
            max_size_bytes=queue.max_size_bytes,
            min_free_bytes=queue.min_free_bytes,
            max_age_s=queue.max_age_s,
            when_full=queue.when_full,
        ),
        clock=clock,
    )


def source_of(gps: Gps, baud_file: Path | None) -> Source:
    """Where bytes come from. ``baud_file`` keeps what speed a serial line was found to have.

    Without it nothing is remembered.
    """
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


def extras_of(extra: Extra) -> Extras:
    """What is added to each fix."""
    return Extras(
        [Attribute(name, one.file, one.scale) for name, one in extra.files.items()],
        power=extra.power,
    )


def policy_of(upload: Upload, wire_format: WireFormat) -> UploadPolicy:
    """How uploads are made; in which order they are by default, the format knows."""
    return UploadPolicy(
        max_batch=upload.max_batch,
        flush_every_s=upload.flush_every_s,
        timeout_s=upload.timeout_s,
        live_first=upload.order == "live-first"
        or (upload.order == "auto" and not wire_format.oldest_first),
        compression=upload.compression,
        backoff_initial_s=upload.backoff_initial_s,
        backoff_max_s=upload.backoff_max_s,
    )
