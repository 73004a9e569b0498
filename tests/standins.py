"""Stand-ins for servers that cannot run here. They follow their decoders' documented behaviour.

They refuse requests that the real servers refuse, and are silent where those are silent, so the
agent gets the same answers. None of them is the real server.
"""

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from listening import Listening


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(urlsplit(self.target).query, keep_blank_values=True)


@dataclass(frozen=True)
class Said:
    """An answer; with ``close`` it announces the end of the connection."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False

    def packed(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Whatever", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines += ["Connection: close"] if self.close else []
        return "\r\n".join([*lines, "", ""]).encode() + self.body


class Server(Listening):
    """A server that answers in order, each request after ``latency_s``.

    If the answer is None, it closes the connection without a response.

    For a ``Recorder`` it reads like the real one: when the body is complete, all bytes read so far
    are the body of one request. It is answered once; bytes that come before the answer are
    discarded.
    """

    def __init__(
        self, answer: Callable[[Asked], Said | bytes | None], *, latency_s: float = 0.0
    ) -> None:
        super().__init__()
        self.requests = 0
        self.connections = 0
        self.most_under_way = 0
        self._answer = answer
        self._latency_s = latency_s
        self._changed = threading.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_for(self, happened: Callable[[], bool], limit_s: float = 60) -> None:
        """Wait until it is true; check after each request."""
        with self._changed:
            assert self._changed.wait_for(happened, limit_s), f"not after {self.requests} requests"

    def accepted(self, sock: socket.socket) -> None:
        self.connections += 1
        self.start(self._serve, sock, self.connections)

    def _serve(self, sock: socket.socket, number: int) -> None:
        owed: list[tuple[float, bytes, bool]] = []
        buffer = b""
        with sock, contextlib.suppress(OSError):
            while True:
                wait_s = max(0.0, owed[0][0] - time.monotonic()) if owed else None
                readable = select.select([sock, self.stopped], [], [], wait_s)[0]
                if self.stopped in readable:
                    return
                if sock in readable:
                    data = sock.recv(1 << 20)
                    if not data:
                        return
                    buffer = self._take(buffer + data, number, owed)
                now_s = time.monotonic()
                due = [answer for answer in owed if answer[0] <= now_s]
                del owed[: len(due)]
                sock.sendall(b"".join([said for _, said, _ in due]))
                if any(last for *_, last in due):
                    return

    def _take(self, buffer: bytes, number: int, owed: list[tuple[float, bytes, bool]]) -> bytes:
        one_body = isinstance(self._answer, Recorder)
        if one_body and owed:
            return b""
        while True:
            head, end, rest = buffer.partition(b"\r\n\r\n")
            if not end:
                return buffer
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
            length = int(headers.get("content-length", "0"))
            if len(rest) < length:
                return buffer
            if one_body:
                length = len(rest)
            buffer = rest[length:]
            method, target, _ = first.split(" ", 2)
            if owed and owed[-1][2]:
                continue  # after an answer that ends the connection, ignore the rest
            with self._changed:
                self.requests += 1
                said = self._answer(Asked(method, target, headers, rest[:length], number))
                self._changed.notify_all()
            packed = said.packed() if isinstance(said, Said) else said or b""
            last = said is None or (isinstance(said, Said) and said.close)
            owed.append((time.monotonic() + self._latency_s, packed, last))
            self.most_under_way = max(self.most_under_way, len(owed))


class Traccar:
    """Traccar's decoder of port 5055: parameters in the query, else in the body.

    An unknown or missing identifier gets 400. A value that is not a number ends the connection.
    Latitude 0 with longitude 0 means the last known position. Everything else is stored again each
    time it comes.
    """

    def __init__(self, *devices: str) -> None:
        self.devices = set(devices)
        self.positions: list[dict[str, Any]] = []

    def __call__(self, asked: Asked) -> Said | None:
        pairs = asked.query or parse_qsl(asked.body.decode("ascii", "replace"))
        position: dict[str, Any] = {"attributes": {}}
        try:
            for name, value in pairs:
                if name in {"id", "deviceid"}:
                    if value not in self.devices:
                        return Said(400)
                    position["device"] = value
                elif not self._understood(position, name, value):
                    position["attributes"][name] = _attribute(value)
        except ValueError:
            return None
        if "device" not in position:
            return Said(400)
        self.positions.append(position)
        return Said(200)

    @staticmethod
    def _understood(position: dict[str, Any], name: str, value: str) -> bool:
        match name:
            case "timestamp":
                number = int(value)
                position["time_ms"] = number * 1000 if number < 2**31 - 1 else number
            case "lat" | "lon" | "altitude" | "accuracy":
                position[name] = float(value)
            case "speed":
                position["speed_kn"] = float(value)
            case "bearing" | "heading":
                position["course"] = float(value)
            case "hdop" | "batt":
                position["attributes"][name] = float(value)
            case "charge":
                position["attributes"]["charge"] = value == "true"
            case _:
                return False
        return True


def _attribute(value: str) -> float | bool | str:
    try:
        return float(value)
    except ValueError:
        return {"true": True, "false": False}.get(value, value)


class Recorder:
    """OwnTracks Recorder's /pub: answers ``[]`` to everything, and stores a body with one location.

    It reads one request at a time: see ``Server``.
    """

    def __init__(self) -> None:
        self.locations: dict[str, list[dict[str, Any]]] = {}
        """Topic -> the content of its .rec file."""

    def __call__(self, asked: Asked) -> Said:
        if asked.path != "/pub":
            return Said(404, b"no way\n")
        variables = dict(asked.query)
        user = asked.headers.get("x-limit-u", variables.get("u", "owntracks")).lower()
        device = asked.headers.get("x-limit-d", variables.get("d", "phone")).lower()
        self._publish(f"owntracks/{user}/{device}", asked.body)
        return Said(200, b"[]", {"Content-Type": "application/json; charset=utf-8"})

    def _publish(self, topic: str, payload: bytes) -> None:
        try:
            said = json.loads(payload)
        except ValueError:
            return
        if not isinstance(said, dict) or said.get("_type") != "location":
            return
        if topic.count("/") != 2 or not all(_is_number(said.get(key)) for key in ("lat", "lon")):
            return
        self.locations.setdefault(topic, []).append(said)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Dawarich:
    """Dawarich's Overland endpoint: key in the URL or bearer token, one row per place and time.

    It skips a feature without geometry or timestamp, and answers ok. It does not decompress gzip.
    """

    def __init__(self, *keys: str) -> None:
        self.keys = set(keys)
        self.points: dict[tuple[str, int, str], dict[str, Any]] = {}

    def __call__(self, asked: Asked) -> Said:
        if asked.path != "/api/v1/overland/batches":
            return Said(404, b"<!DOCTYPE html><title>The page you were looking for")
        authorization = asked.headers.get("authorization", "").split(" ")[-1]
        key = dict(asked.query).get("api_key", authorization)
        if key not in self.keys:
            return Said(401)
        try:
            locations = json.loads(asked.body).get("locations", [])
        except ValueError:
            return Said(400, b'{"status":400,"error":"Bad Request"}')
        for feature in locations:
            properties = feature.get("properties", {})
            if feature.get("geometry") and properties.get("timestamp"):
                longitude, latitude = feature["geometry"]["coordinates"]
                time_s = _parsed_s(properties["timestamp"])
                self.points[f"POINT({longitude} {latitude})", time_s, key] = feature
        return Said(201, b'{"result":"ok"}', {"Content-Type": "application/json"})


def _parsed_s(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


class Unlooking:
    """A user's own endpoint that ignores Content-Encoding.

    As with ``php://input`` in PHP, ``get_json(silent=True)`` in Flask and ``JSON.parse`` in Node:
    a body that is not JSON counts as empty, and the answer is still 200.
    """

    def __init__(self) -> None:
        self.stored: list[dict[str, Any]] = []
        self.packed = 0
        """The number of compressed requests."""

    def __call__(self, asked: Asked) -> Said:
        self.packed += "content-encoding" in asked.headers
        with contextlib.suppress(ValueError):
            said = json.loads(asked.body)
            self.stored += said.get("fixes") or said.get("locations") or []
        return Said(200, b'{"result":"ok"}', {"Content-Type": "application/json"})


class PhoneTrack:
    """PhoneTrack's Overland endpoint in Nextcloud: it answers ok even if it stores nothing.

    The session's token is in the path; with a wrong token nothing is stored. A body that is not
    JSON counts as empty. A location that comes again is stored again.
    """

    def __init__(self, *tokens: str) -> None:
        self.points: dict[str, list[dict[str, Any]]] = {token: [] for token in tokens}

    def __call__(self, asked: Asked) -> Said:
        before, _, behind = asked.path.partition("/apps/phonetrack/log/overland/")
        if before not in {"", "/index.php"} or not behind:
            return Said(404, b"<!DOCTYPE html><title>Nextcloud")
        token, _, name = (unquote(part) for part in behind.partition("/"))
        with contextlib.suppress(ValueError):
            for feature in json.loads(asked.body)["locations"]:
                if token in self.points and feature["type"] == "Feature":
                    device = feature["properties"].get("device_id") or name
                    self.points[token].append({**feature, "device": device})
        return Said(200, b'{"result":"ok"}', {"Content-Type": "application/json"})


class Reitti:
    """Reitti's endpoint for Overland's format: drops locations without accuracy, and answers ok."""

    def __init__(self) -> None:
        self.points: list[dict[str, Any]] = []

    def __call__(self, asked: Asked) -> Said:
        if asked.path != "/api/v1/ingest/overland":
            return Said(404)
        try:
            locations = json.loads(asked.body).get("locations", [])
        except ValueError:
            return Said(400)
        self.points += [
            feature
            for feature in locations
            if feature["properties"].get("horizontal_accuracy") is not None
            and _parsed_s(feature["properties"]["timestamp"])
        ]
        return Said(200, b'{"result":"ok"}', {"Content-Type": "application/json"})


class GPSLogger:
    """Home Assistant's webhook: refuses unknown fields, and answers 200 at any other path."""

    _NUMBERS = frozenset(
        {"latitude", "longitude", "accuracy", "altitude", "battery", "direction", "speed"}
    )

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def __call__(self, asked: Asked) -> Said:
        if asked.path != "/api/webhook/gpslogger":
            return Said(200)
        form = asked.headers.get("content-type") == "application/x-www-form-urlencoded"
        said: dict[str, Any] = dict(parse_qsl(asked.body.decode())) if form else {}
        others = said.keys() - self._NUMBERS - {"device", "activity", "provider"}
        if others or not said.keys() >= {"device", "latitude", "longitude"}:
            return Said(422, b"required key not provided")
        try:
            said |= {name: float(said[name]) for name in self._NUMBERS & said.keys()}
        except ValueError:
            return Said(422, b"expected float")
        self.states.append({"gps_accuracy": said.pop("accuracy", 200.0), **said})
        return Said(200, f"Setting location for {said['device'].replace('-', '')}".encode())


class Compass:
    """Compass with a cache: it keeps the first location of each second, and none at 0, 0.

    A wrong token is reported with status 200.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self.points: dict[int, dict[str, Any]] = {}

    def __call__(self, asked: Asked) -> Said:
        json_type = {"Content-Type": "application/json"}
        if asked.path != "/api/input":
            return Said(404)
        if dict(asked.query).get("token") != self.token:
            return Said(200, b'{"error":"invalid token"}', json_type)
        try:
            locations = json.loads(asked.body)["locations"]
        except (ValueError, KeyError):
            return Said(200, b'{"error":"invalid input"}', json_type)
        for feature in locations:
            if feature["geometry"]["coordinates"] != [0, 0]:
                self.points.setdefault(_parsed_s(feature["properties"]["timestamp"]), feature)
        saved = json.dumps({"result": "ok", "saved": len(locations), "trips": 0})
        return Said(200, saved.encode(), json_type)
