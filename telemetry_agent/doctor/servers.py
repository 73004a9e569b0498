"""The servers that ``init`` knows: which URL each one needs, and how each one is recognised."""

import contextlib
import re
from collections.abc import Container
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, urlencode, urlsplit

from telemetry_agent.addresses import bracketed
from telemetry_agent.errors import UsageError
from telemetry_agent.model import Answer, Payload
from telemetry_agent.upload.formats.choice import WEBHOOK_PATH, is_webhook
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.dialer import Dialer
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import FormatName, NoAnswer

_PHONETRACK_PATH = "/apps/phonetrack/log/overland/"


@dataclass(frozen=True)
class ServerPreset:
    """What one kind of server needs.

    A path, port or query is the default for a URL without it; the port only with plain http.
    """

    format: FormatName
    path: str = ""
    port: int | None = None
    query: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    """Parameters that the URL must have, and that only the user knows."""
    shown: tuple[str, str] | None = None
    """Who shows the user the whole address, and its path."""
    hint: str = ""
    """What the user has to do and the trial of ``init`` does not show, with the ``{device}``."""
    unpacks: bool = True
    """Whether it unpacks gzip, if ``compression = "auto"`` compresses for its format."""


SERVERS = {
    "native": ServerPreset("native"),
    "traccar": ServerPreset(
        "osmand",
        "/",
        5055,
        hint="in Traccar, add a device with the identifier {device}, or the one of ?id=… in "
        "upload.url",
    ),
    "dawarich": ServerPreset("overland", "/api/v1/overland/batches"),
    "phonetrack": ServerPreset(
        "overland", shown=("PhoneTrack shows for Overland", f"{_PHONETRACK_PATH}TOKEN/NAME")
    ),
    "owntracks": ServerPreset(
        "owntracks",
        "/pub",
        8083,
        hint="check that ?u=… of upload.url names the user whose positions they are",
    ),
    "home-assistant": ServerPreset(
        "gpslogger",
        shown=("Home Assistant's integration GPSLogger shows", f"{WEBHOOK_PATH}ID"),
    ),
    "influxdb": ServerPreset("influx", "/write", 8086, {"db": "gps"}),
    "influxdb2": ServerPreset("influx", "/api/v2/write", 8086, needs=("org", "bucket")),
    "victoria-metrics": ServerPreset(
        "influx", "/write", 8428, hint="start VictoriaMetrics with -dedup.minScrapeInterval=1ms"
    ),
    "questdb": ServerPreset(
        "influx",
        "/write",
        9000,
        hint="in QuestDB, create the table as in docs/servers.md",
        unpacks=False,
    ),
    "clickhouse": ServerPreset("clickhouse", "/", 8123, {"database": "gps"}),
}

_PATHS = {
    "/api/v1/overland": "dawarich",
    _PHONETRACK_PATH: "phonetrack",
    "/api/v2/write": "influxdb2",
    "/pub": "owntracks",
}
# Not by ClickHouse's port, which is also Home Assistant's.
_BY_PORT = ("traccar", "owntracks", "influxdb", "victoria-metrics")
_PORTS = {SERVERS[name].port: name for name in _BY_PORT}
_TITLED = ("traccar", "dawarich", "owntracks", "victoria-metrics", "home-assistant")
"""They name themselves in the title of the page at their root."""

_ANSWER_S = 4.0


def completed(name: str, url: str) -> str:
    """The URL, which is a valid one, with what this kind of server needs besides the address.

    Raises:
        UsageError: something is missing that only the user knows.
    """
    server, parts = SERVERS[name], urlsplit(url)
    plain = parts.scheme == "http" and parts.port is None
    if server.shown is not None and server_by_url(url) != name:
        who, path = server.shown
        raise UsageError(f"--url needs the address that {who}, with {path}")
    has = parse_qs(parts.query)
    missing = [f"{key}=…" for key in server.needs if key not in has]
    if missing:
        raise UsageError(f"--url needs ?{'&'.join(missing)} at its end for {name}")
    added = urlencode({key: value for key, value in server.query.items() if key not in has})
    return parts._replace(
        netloc=f"{parts.netloc}:{server.port}" if plain and server.port else parts.netloc,
        path=parts.path if parts.path.strip("/") else server.path or parts.path,
        query="&".join(filter(None, (parts.query, added))),
    ).geturl()


def usual(name: str, url: str) -> str:
    """The URL that this kind of server usually has at the address of ``url``."""
    server, parts = SERVERS[name], urlsplit(url)
    if name == "traccar":  # it takes positions on another port than its page
        return f"http://{bracketed(parts.hostname or '')}:{server.port}/"
    query = "&".join([f"{key}=…" for key in server.needs] + [*map("=".join, server.query.items())])
    path = server.path
    if server.shown is not None:
        path = parts.path if server_by_url(url) == name else server.shown[1]
    return parts._replace(path=path, query=query).geturl()


def server_by_url(url: str) -> str | None:
    """The server that the path, the port or the host's name shows; ``None``: unknown."""
    parts = urlsplit(url)
    if is_webhook(url):  # its integration for OwnTracks needs a user
        return "owntracks" if "u" in parse_qs(parts.query) else "home-assistant"
    for path, server in _PATHS.items():
        if path in f"{parts.path}/":
            return server
    if parts.path.strip("/"):
        return None  # a path was typed for a server that is known already
    return _PORTS.get(parts.port) or _titled(re.split(r"[.-]", parts.hostname or ""))


def server_by_answer(url: str) -> tuple[str, str] | None:
    """Ask a server whose URL has no path: which server it is, and the URL for fixes."""
    if urlsplit(url).path.strip("/") or (server := server_by_root(url)) is None:
        return None
    return server, usual(server, url) if server == "traccar" else url


def server_by_root(
    url: str, credentials: Credentials | None = None, dialer: Dialer | None = None
) -> str | None:
    """Ask for the page at the root of the URL's server: which server that is.

    ``None`` also after an error: other checks report that the server is unreachable.
    """
    root = urlsplit(url)._replace(path="/", query="", fragment="").geturl()
    request = Payload(b"", {"Accept": "text/html, */*"})
    with contextlib.closing(Transport(root, credentials=credentials, dialer=dialer)) as transport:
        answer = transport.exchange(request, _ANSWER_S, "GET")
    return None if isinstance(answer, NoAnswer) else _recognised(answer)


def _recognised(answer: Answer) -> str | None:
    headers, body = answer.headers, answer.body.decode("utf-8", "replace")
    if version := headers.get("x-influxdb-version"):
        return "influxdb" if version.lstrip("v").startswith("1") else "influxdb2"
    server = headers.get("server", "").lower()
    if server.startswith("telemetry-agent"):
        return "native"
    if server.startswith("questdb"):
        return "questdb"
    if answer.status == HTTPStatus.OK and body.strip() == "Ok.":
        return "clickhouse"
    title = re.search(r"<(?:title|h2)>([^<]*)", body, re.IGNORECASE)
    return _titled(re.sub(r"[ -]", "", title[1].lower()) if title else "")


def _titled(said: Container[str]) -> str | None:
    """The server whose name, without its hyphen, is in there."""
    return next((name for name in _TITLED if name.replace("-", "") in said), None)
