"""From a section of the config, and systemd's credentials, to the part that it describes."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from telemetry_agent.ackqueue.limits.bounds import Limits
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.addresses import is_loopback
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import (
    ExtraSettings,
    GpsSettings,
    PageSettings,
    QueueSettings,
    UploadSettings,
)
from telemetry_agent.daemon.extras import Attribute, Extras
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

_SHORTEST_TOKEN = 16  # nothing slows down who guesses
_AT_ONCE_S = 0.05  # longer than it takes to record what one read brought


def open_queue(queue: QueueSettings, clock: Clock) -> AckQueue:
    """The queue, for this process alone.

    Raises:
        QueueLockedError: another process holds it.
        StorageError: it cannot be opened.
    """
    return AckQueue(
        queue.path,
        # Never by the thread that reads: "0s" is as soon as the committer is awake, so that what
        # one read brought is one commit, and reading goes on while the disk takes it.
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
        return UdpSource(host, number, UdpOptions.read(parts.query))
    return ReplaySource(Path(gps.source.removeprefix("file://")))


def extras_of(extra: ExtraSettings) -> Extras:
    """What is added to each fix."""
    return Extras(
        [Attribute(name, one.file, one.scale) for name, one in extra.files.items()],
        power=extra.power,
    )


def policy_of(upload: UploadSettings, wire_format: WireFormat) -> UploadPolicy:
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


def build_credentials(upload: UploadSettings, secrets: set[str]) -> Credentials:
    """The secrets that the config names; where it names none, the credential of that name.

    ``Credentials.prepare`` reads them. It also raises where the settings and the credentials
    contradict each other, or a secret would be sent in the clear.

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
    return Credentials(
        upload.headers,
        token=token,
        scheme=_scheme(upload),
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
    """Read what lets a viewer of the page in; ``None``: everybody on this machine may look.

    Raises:
        ConfigError: there is a page that cannot be, or that others could open without a token.
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
                "`openssl rand -hex 16` makes some",
            )
        secrets.add(token)
        return token
    if page.names:
        raise ConfigError(
            "page.names: whoever reaches the proxy could see where this device is",
            "set page.token_file",
        )
    if not is_loopback(page.listen[0]):
        raise ConfigError(
            f"page.listen: whoever reaches {page.listen[0]} could see where this device is",
            f"set page.token_file, or listen on 127.0.0.1{_by_credential('page_token')}",
        )
    return None


def _scheme(upload: UploadSettings) -> str:
    """InfluxDB 2 has a word of its own for what others call a bearer token."""
    path = urlsplit(upload.url).path
    return "Token" if upload.format == "influx" and path.endswith("/api/v2/write") else "Bearer"


def _by_credential(name: str) -> str:
    """How the service gets a credential: systemd hands them over at the start alone."""
    if "CREDENTIALS_DIRECTORY" not in os.environ and "INVOCATION_ID" not in os.environ:
        return ""
    return (
        f"; or put it into /etc/credstore/telemetry-agent.{name} and "
        "`sudo systemctl restart telemetry-agent`: a reload does not bring it"
    )


def _credential(name: str) -> Path | None:
    """The file of one of the service's credentials, if it has that."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(folder, name)
    return path if folder and path.exists() else None
