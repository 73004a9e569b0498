"""From ``[gps]`` of the config to where bytes come from."""

from pathlib import Path
from urllib.parse import urlsplit

from telemetry_agent.config.settings import Gps
from telemetry_agent.gnss.sources import Source, gpsd
from telemetry_agent.gnss.sources.auto import AutoSource
from telemetry_agent.gnss.sources.baud import BaudMemory
from telemetry_agent.gnss.sources.commands import command_bytes
from telemetry_agent.gnss.sources.gpsd import GpsdSource
from telemetry_agent.gnss.sources.network import TcpSource, UdpSource
from telemetry_agent.gnss.sources.replay import ReplaySource
from telemetry_agent.gnss.sources.serial import SerialSource


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
