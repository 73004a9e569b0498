"""What kind of server is behind a URL: told by the URL itself, else by what the server answers."""

import contextlib
import http.client
import re
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

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
    if server == "traccar":  # this is its page; positions have a port of their own
        return server, f"http://{parts.hostname}:5055/"
    return server, url


def told_by_root(url: str, context: ssl.SSLContext | None = None) -> str | None:
    """Ask for the page at the root of the URL's server: which server that is.

    Whatever goes wrong, nothing is told: that the server is away is found out elsewhere.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            return None
        return _recognised(*_asked(parts.scheme, parts.hostname, parts.port, context))
    except (OSError, ValueError, http.client.HTTPException):
        return None


def _asked(
    scheme: str, host: str, port: int | None, context: ssl.SSLContext | None
) -> tuple[int, Mapping[str, str], str]:
    connection = (
        http.client.HTTPSConnection(
            host, port, timeout=_ANSWER_S, context=context or ssl.create_default_context()
        )
        if scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=_ANSWER_S)
    )
    with contextlib.closing(connection):
        connection.request("GET", "/", headers={"Accept": "text/html, */*"})
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, headers, answer.read(_READ_BYTES).decode("utf-8", "replace")


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
