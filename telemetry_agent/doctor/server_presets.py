"""The servers that ``init`` knows: from the address that a user has to the URL that is needed."""

from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode, urlsplit

from telemetry_agent.errors import UsageError
from telemetry_agent.upload.interfaces import FormatName


@dataclass(frozen=True)
class ServerPreset:
    """What one kind of server wants.

    Defaults stand for what the URL leaves out; a port only where it is plain http.
    """

    format: FormatName
    path: str = ""
    port: int | None = None
    query: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    """Parameters without which no URL works, and nobody can guess them."""
    hint: str = ""
    """What is left to be done, there or here, with the ``{device}``'s name."""
    unpacks: bool = True
    """Whether ``compression = "auto"`` does the right thing: other servers of its format unpack."""


SERVERS = {
    "native": ServerPreset("native"),
    "traccar": ServerPreset(
        "osmand", "/", 5055, hint="in Traccar, add a device with the identifier {device}"
    ),
    "dawarich": ServerPreset(
        "overland",
        "/api/v1/overland/batches",
        hint="put your API key into a file and name it in upload.token_file",
    ),
    "phonetrack": ServerPreset("overland"),
    "owntracks": ServerPreset(
        "owntracks",
        "/pub",
        8083,
        hint="see that ?u=… of upload.url names the user whose positions they are",
    ),
    "home-assistant": ServerPreset(
        "gpslogger",
        hint="see that upload.url is the address that the integration GPSLogger shows",
    ),
    "influxdb": ServerPreset(
        "influx",
        "/write",
        8086,
        {"db": "gps"},
        hint="in InfluxDB, CREATE DATABASE gps, or name yours in upload.url",
    ),
    "influxdb2": ServerPreset(
        "influx",
        "/api/v2/write",
        8086,
        needs=("org", "bucket"),
        hint="put a token that may write the bucket into a file and name it in upload.token_file",
    ),
    "victoria-metrics": ServerPreset(
        "influx", "/write", 8428, hint="start it with -dedup.minScrapeInterval=1ms"
    ),
    "questdb": ServerPreset(
        "influx",
        "/write",
        9000,
        hint="in QuestDB, create the table as docs/servers.md has it",
        unpacks=False,
    ),
    "clickhouse": ServerPreset(
        "clickhouse",
        "/",
        8123,
        {"database": "gps"},
        hint="in ClickHouse, create table and user as docs/servers.md has them",
    ),
}

_PHONETRACK_PATH = "/apps/phonetrack/log/overland/"


def completed(name: str, url: str) -> str:
    """The URL with what this kind of server needs beside the address.

    Raises:
        UsageError: what is missing cannot be guessed.
    """
    server = SERVERS[name]
    try:
        parts = urlsplit(url)
        plain = parts.scheme == "http" and parts.port is None
    except ValueError as error:
        raise UsageError(f"--url {url}: {error}") from None
    if name == "phonetrack" and _PHONETRACK_PATH not in parts.path:
        raise UsageError(
            f"--url needs what PhoneTrack shows for Overland: it has {_PHONETRACK_PATH} in it"
        )
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
    if name == "traccar":  # positions have a port of their own, beside that of its page
        host = parts.hostname or ""
        return f"http://{f'[{host}]' if ':' in host else host}:{server.port}/"
    query = "&".join([f"{key}=…" for key in server.needs] + [*map("=".join, server.query.items())])
    path = f"{_PHONETRACK_PATH}TOKEN/NAME" if name == "phonetrack" else server.path
    return parts._replace(path=path, query=query).geturl()
