"""Builds parts from the sections of the config and from systemd's credentials."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from telemetry_agent.ackqueue.limits.bounds import Limits
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.addresses import is_loopback
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import (
    GpsSettings,
    PageSettings,
    QueueSettings,
    UploadSettings,
)
from telemetry_agent.errors import ConfigError
from telemetry_agent.gnss.sources import Source, gpsd
from telemetry_agent.gnss.sources.auto import AutoSource
from telemetry_agent.gnss.sources.gpsd import GpsdSource
from telemetry_agent.gnss.sources.on_connect import command_bytes
from telemetry_agent.gnss.sources.replay import ReplaySource
from telemetry_agent.gnss.sources.serial import BaudMemory, SerialSource
from telemetry_agent.gnss.sources.sockets import TcpSource, UdpOptions, UdpSource
from telemetry_agent.page.libraries import server_missing
from telemetry_agent.secrecy import read_secret, secrets_in_url
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.interfaces import UploadPolicy, WireFormat

_SHORTEST_TOKEN = 16  # the page does not limit the rate of guesses
_AT_ONCE_S = 0.05  # longer than it takes to record the fixes of one read


def open_queue(queue: QueueSettings, clock: Clock) -> AckQueue:
    """Open the queue for this process.

    Raises:
        QueueLockedError: another process holds it.
        StorageError: it cannot be opened.
    """
    return AckQueue(
        queue.path,
        # The thread that reads never commits. With "0s" the committer does so at once: the fixes of
        # one read are one commit, and reading continues while the disk writes them.
        commit_every_s=queue.commit_every_s or _AT_ONCE_S,
        keep_delivered_s=queue.keep_delivered_s,
        limits=Limits(
            max_size_bytes=queue.max_size_bytes,
            min_free_bytes=queue.min_free_bytes,
            max_age_s=queue.max_age_s,
            when_full=queue.when_full,
        ),
        clock=clock,
    )


def source_of(gps: GpsSettings, baud_file: Path | None) -> Source:
    """The source of bytes. ``baud_file`` keeps the speed that a serial line was found to have."""
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
        return UdpSource(host, number, UdpOptions.read(parts.query))
    return ReplaySource(Path(gps.source.removeprefix("file://")))


def policy_of(upload: UploadSettings, wire_format: WireFormat) -> UploadPolicy:
    """The policy of uploads; with ``order = "auto"`` the format chooses the order."""
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


def build_credentials(upload: UploadSettings, secrets: set[str]) -> Credentials:
    """The secrets that the config names, or else systemd's credentials of the same names.

    ``Credentials.prepare`` reads them. It also raises if the settings and the credentials
    contradict each other, or if a secret would be sent without encryption.

    Args:
        upload: the settings.
        secrets: every secret that is read is added to it, now and later.
    """
    token = upload.token_file or _credential("token")
    password = upload.password_file or _credential("password") if upload.username else None
    fault = None
    if upload.username and token is not None:
        fault = f"upload.username is set, and there is a token {token}: keep one"
    elif upload.username and password is None:
        fault = "upload.password_file is missing, upload.username is set" + _by_credential(
            "password"
        )
    elif token is not None:
        fault = upload.secret_in_the_clear()
    secrets |= secrets_in_url(upload.url)
    # InfluxDB 2 calls a bearer token ``Token``.
    influx_2 = upload.format == "influx" and urlsplit(upload.url).path.endswith("/api/v2/write")
    return Credentials(
        upload.headers,
        token=token,
        scheme="Token" if influx_2 else "Bearer",
        username=upload.username,
        password=password,
        ca_file=upload.ca_file,
        client_cert=upload.client_cert,
        client_key=(upload.client_key or _credential("client_key")) if upload.client_cert else None,
        proxy_username=urlsplit(upload.proxy).username or "",
        proxy_password=upload.proxy_password_file,
        secrets=secrets,
        fault=fault,
    )


def build_page_token(page: PageSettings, secrets: set[str]) -> str | None:
    """Read the token of the page; ``None`` if it needs none, because only this machine reaches it.

    Raises:
        ConfigError: the page cannot be served, or others could open it without a token.
    """
    if page.listen is None:
        return None
    if (missing := server_missing()) is not None:
        raise ConfigError(f"page.listen is set, and {missing}")
    path = page.token_file or _credential("page_token")
    if path is not None:
        token = read_secret("page.token_file", path)
        if len(token) < _SHORTEST_TOKEN:
            raise ConfigError(
                f"page.token_file: {path} must hold at least {_SHORTEST_TOKEN} characters",
                "`openssl rand -hex 16` makes one",
            )
        secrets.add(token)
        return token
    if page.names:
        raise ConfigError(
            "page.names: everyone who reaches the proxy could see where this device is",
            "set page.token_file",
        )
    if not is_loopback(page.listen[0]):
        raise ConfigError(
            f"page.listen: everyone who reaches {page.listen[0]} could see where this device is",
            f"set page.token_file, or listen on 127.0.0.1{_by_credential('page_token')}",
        )
    return None


def _by_credential(name: str) -> str:
    """The remedy for a missing credential; systemd passes credentials only at a start."""
    if "CREDENTIALS_DIRECTORY" not in os.environ and "INVOCATION_ID" not in os.environ:
        return ""
    return (
        f"; or put it into /etc/credstore/telemetry-agent.{name} and "
        "`sudo systemctl restart telemetry-agent`: a reload does not read it"
    )


def _credential(name: str) -> Path | None:
    """The file of one of the service's credentials, if there is one."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(folder, name)
    return path if folder and path.exists() else None
