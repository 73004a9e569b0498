"""Stand-ins for servers that cannot be had here, strict after their decoders' documented behaviour.

They refuse what the real ones refuse, and are silent where those are silent: what the agent learns
from them is what it would learn there. None of them is the real thing.
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
    """What is answered; ``close``: with the announcement that the connection ends."""

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
    """Answers in order; each answer leaves ``latency_s`` after its request came.

    A request that is answered with nothing ends the connection without a word.

    For a ``Recorder`` it reads as the real one does: all that has been read when the body is
    complete is the body of one request. It is answered once, and what else comes before the answer
    is thrown away.
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
        """Wait until a request makes it so."""
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
                continue  # behind an answer that ends the connection nothing is looked at
            with self._changed:
                self.requests += 1
                said = self._answer(Asked(method, target, headers, rest[:length], number))
                self._changed.notify_all()
            packed = said.packed() if isinstance(said, Said) else said or b""
            last = said is None or (isinstance(said, Said) and said.close)
            owed.append((time.monotonic() + self._latency_s, packed, last))
            self.most_under_way = max(self.most_under_way, len(owed))


class Traccar:
    """The decoder of port 5055: parameters in the query, or in the body if that has none.

    An identifier that it does not know is 400, and so is none. What is no number ends the
    connection. Zero degrees twice is the last known position. Everything else is stored again each
    time that it comes.
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
    """OwnTracks Recorder's /pub: says ``[]`` to everything, and keeps what is one location.

    It takes one request at a time: see ``Server``.
    """

    def __init__(self) -> None:
        self.locations: dict[str, list[dict[str, Any]]] = {}
        """Topic -> what its .rec file holds."""

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
    """Its Overland endpoint: the key in the URL or as a bearer token, one row for place and time.

    It leaves out a feature without geometry or timestamp, and says ok. It does not unpack gzip.
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
    """An endpoint of one's own that does not look at Content-Encoding.

    As seen with ``php://input`` in PHP, ``get_json(silent=True)`` in Flask and ``JSON.parse`` in
    Node: a body that is not JSON holds nothing, and the answer is 200 all the same.
    """

    def __init__(self) -> None:
        self.stored: list[dict[str, Any]] = []
        self.packed = 0
        """How many requests came compressed."""

    def __call__(self, asked: Asked) -> Said:
        self.packed += "content-encoding" in asked.headers
        with contextlib.suppress(ValueError):
            said = json.loads(asked.body)
            self.stored += said.get("fixes") or said.get("locations") or []
        return Said(200, b'{"result":"ok"}', {"Content-Type": "application/json"})


class PhoneTrack:
    """Its Overland endpoint in Nextcloud: says ok whatever it stores.

    The session's token stands in the path, and a wrong one stores nothing. A body that is no JSON
    holds no locations. What comes again is stored again.
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
    """Its endpoint for Overland's format: drops what has no accuracy, and says ok."""

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
    """Home Assistant's webhook: no field that it does not know, and 200 at any other address."""

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
    """Compass with a cache: of one second it keeps what comes first, and nothing at 0, 0.

    A wrong token is said with status 200.
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
