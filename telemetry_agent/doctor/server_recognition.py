"""What kind of server is behind a URL: told by the URL itself, else by what the server answers."""

import contextlib
import http.client
import re
import ssl
from collections.abc import Mapping
from socket import socket
from urllib.parse import urlsplit

from telemetry_agent.addresses import Resolve, Resolver, UnreachableError, resolve
from telemetry_agent.clock import Clock
from telemetry_agent.connecting import Connecting
from telemetry_agent.doctor.server_presets import usual
from telemetry_agent.tasks import Bell

_PATHS = {
    "/api/v1/overland": "dawarich",
    "/apps/phonetrack/log/overland/": "phonetrack",
    "/api/v2/write": "influxdb2",
    "/pub": "owntracks",
}
_PORTS = {
    5055: "traccar",
    8083: "owntracks",
    8086: "influxdb",
    8123: "clickhouse",
    8428: "victoria-metrics",
}
_TITLES = {
    "traccar": "traccar",
    "dawarich": "dawarich",
    "owntracks": "owntracks",
    "victoriametrics": "victoria-metrics",
}
"""A word in the page at its root -> the server."""

_ANSWER_S = 4.0
_READ_BYTES = 1 << 16


def told_by_url(url: str) -> str | None:
    """What the path, the port or the host's name says."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    for path, server in _PATHS.items():
        if path in f"{parts.path}/":
            return server
    if parts.path.strip("/"):
        return None  # whoever names a path knows what is there
    named = {name for name in _TITLES.values() if name in re.split(r"[.-]", host)}
    return _PORTS.get(port or 0) or next(iter(named), None)


def told_by_answer(url: str) -> tuple[str, str] | None:
    """Ask for the page at the root of a URL that names no path: the server, and where fixes go."""
    try:
        parts = urlsplit(url)
        if parts.path.strip("/") or (server := told_by_root(url)) is None:
            return None
    except ValueError:
        return None
    return server, usual(server, url) if server == "traccar" else url


def told_by_root(
    url: str, context: ssl.SSLContext | None = None, resolve: Resolve = resolve
) -> str | None:
    """Ask for the page at the root of the URL's server: which server that is.

    Whatever goes wrong, nothing is told: that the server is away is found out elsewhere.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            return None
        port = parts.port or (443 if parts.scheme == "https" else 80)
        sock = connected(resolve, parts.hostname, port, _ANSWER_S)
        if parts.scheme == "https":
            context = context or ssl.create_default_context()
            sock = context.wrap_socket(sock, server_hostname=parts.hostname)
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=_ANSWER_S)
        connection.sock = sock
        with contextlib.closing(connection):
            connection.request("GET", "/", headers={"Accept": "text/html, */*"})
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            body = answer.read(_READ_BYTES).decode("utf-8", "replace")
    except (OSError, UnreachableError, ValueError, http.client.HTTPException):
        return None
    return _recognised(answer.status, headers, body)


def connected(resolve: Resolve, host: str, port: int, limit_s: float) -> socket:
    """A connection to any address of ``host``, as the agent makes it; it blocks at most so long.

    Raises:
        UnreachableError: there is none.
    """
    clock = Clock()
    now_s = clock.monotonic_s()
    connecting = Connecting(Resolver(resolve), host, port, now_s, connect_s=limit_s)
    sock = connecting.run(clock, Bell().wait)
    sock.settimeout(limit_s)
    return sock


def _recognised(status: int, headers: Mapping[str, str], body: str) -> str | None:
    if version := headers.get("x-influxdb-version"):
        return "influxdb" if version.lstrip("v").startswith("1") else "influxdb2"
    server = headers.get("server", "").lower()
    if server.startswith("telemetry-agent"):
        return "native"
    if server.startswith("questdb"):
        return "questdb"
    if status == http.HTTPStatus.OK and body.strip() == "Ok.":
        return "clickhouse"
    title = re.search(r"<(?:title|h2)>([^<]*)", body, re.IGNORECASE)
    said = title[1].lower().replace("-", "") if title else ""
    return next((name for word, name in _TITLES.items() if word in said), None)
