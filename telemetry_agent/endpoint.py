"""The reference endpoint: takes the native format, and stores each fix once.

(stream, seq) names a fix and is the key of its row, so a batch that comes twice, or overlaps with
another, changes nothing of what is there. The answer goes out after the commit: what was
acknowledged is on the disk. All requests share one connection to the database, under a lock.
"""

import contextlib
import errno
import json
import logging
import random
import re
import socket
import socketserver
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self

from telemetry_agent import __version__
from telemetry_agent.clock import Clock
from telemetry_agent.errors import AgentError, StorageError, UsageError
from telemetry_agent.fixjson import rfc3339
from telemetry_agent.parcel import BODY_MAX_BYTES, Parcel, RefusedError, parse

_log = logging.getLogger(__name__)

PATH = "/v1/fixes"
AGENTS_PATH = "/v1/agents"
_DRAIN_MAX_BYTES = 8 * BODY_MAX_BYTES
_IDLE_S = 75.0

_FIXES = """CREATE TABLE IF NOT EXISTS fixes (
    stream TEXT NOT NULL, seq INTEGER NOT NULL, device TEXT NOT NULL,
    time TEXT NOT NULL, lat REAL NOT NULL, lon REAL NOT NULL, fix TEXT NOT NULL,
    PRIMARY KEY (stream, seq)) WITHOUT ROWID"""
_REPORTS = """CREATE TABLE IF NOT EXISTS reports (
    device TEXT PRIMARY KEY, stream TEXT NOT NULL, heard TEXT NOT NULL, agent TEXT NOT NULL)
    WITHOUT ROWID"""


class _Store:
    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("BEGIN IMMEDIATE")  # finds out now that the file cannot be written
            self._db.execute(_FIXES)
            self._db.execute(_REPORTS)
            self._db.commit()
        except sqlite3.Error as error:
            raise StorageError(f"cannot write {path}: {error}: choose another --db") from error

    def put(self, parcel: Parcel) -> int:
        """Commit; return how many fixes were new."""
        name = (parcel.stream, parcel.device)
        rows = [
            (*name, f["seq"], f["time"], f["lat"], f["lon"], json.dumps(f)) for f in parcel.fixes
        ]
        with self._lock, self._db:
            stored = self._db.executemany(
                "INSERT INTO fixes (stream, device, seq, time, lat, lon, fix)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                rows,
            ).rowcount
            if parcel.agent is not None:
                self._db.execute(
                    "INSERT OR REPLACE INTO reports (stream, device, heard, agent)"
                    " VALUES (?, ?, ?, ?)",
                    (*name, rfc3339(Clock().wall_ms()), json.dumps(parcel.agent)),
                )
        return max(0, stored)

    def read(self, sql: str, *values: str) -> list[Any]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def close(self) -> None:
        with self._lock:
            self._db.close()


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong on purpose, by chance or the first times."""

    kind: str
    """A status; ``drop``: store, then close without an answer; ``hang``: never answer."""
    chance: float = 1.0
    first: int | None = None

    @classmethod
    def parse(cls, pattern: str) -> Self:
        """``KIND``, ``KIND:CHANCE`` or ``KINDxCOUNT``, such as ``503:0.3`` or ``dropx2``.

        Raises:
            UsageError: it is none of these.
        """
        found = re.fullmatch(r"([345]\d\d|drop|hang)(?::(0|1|0?\.\d+)|x(\d+))?", pattern)
        if not found:
            raise UsageError(f"--fail {pattern}: it is like 503, 503:0.3, 503x5, drop:0.1, hangx1")
        kind, chance, first = found.groups()
        return cls(kind, float(chance or 1), int(first) if first else None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = f"telemetry-agent/{__version__}"
    sys_version = ""
    disable_nagle_algorithm = True  # else head and body of an answer are 44 ms apart
    timeout = _IDLE_S

    def __init__(self, endpoint: "Endpoint", *args: Any) -> None:
        self._endpoint = endpoint
        super().__init__(*args)

    def do_POST(self) -> None:
        try:
            answer = self._deliver(self._body())
        except RefusedError as refused:
            self._answer(refused.status, {"error": str(refused)})
        else:
            if answer is None:
                self.close_connection = True
            else:
                self._answer(200, answer)

    def do_GET(self) -> None:
        if self.path.partition("?")[0] == AGENTS_PATH:
            self._answer(200, self._endpoint.agents())
        else:
            self.send_error(HTTPStatus.NOT_IMPLEMENTED)

    def _deliver(self, body: bytes) -> dict[str, Any] | None:
        """Store it; return the answer, ``None`` for none at all."""
        fault = self._endpoint.next_fault()
        if fault == "hang":
            self.connection.settimeout(None)
            self.rfile.read(1)  # until the agent gives up, or the endpoint stops
            return None
        if fault and fault != "drop":
            raise RefusedError(int(fault), "on purpose")
        answer = self._endpoint.take(parse(body, self.headers.get("Content-Encoding", "identity")))
        return None if fault == "drop" else answer

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length")
        if length is None or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise RefusedError(411, "Content-Length is needed")
        if not re.fullmatch(r"\d{1,18}", length, re.ASCII):
            self.close_connection = True
            raise RefusedError(400, "Content-Length is no number")
        if int(length) > BODY_MAX_BYTES:
            self.close_connection = True
            self._drain(int(length))
            raise RefusedError(413, f"more than {BODY_MAX_BYTES} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionResetError
        return body

    def _drain(self, length: int) -> None:
        """Who is cut off while it still sends does not read the answer: hear it out."""
        left = min(length, _DRAIN_MAX_BYTES)
        while left > 0 and (data := self.rfile.read1(min(left, 1 << 16))):
            left -= len(data)

    def _answer(self, status: int, value: object, **headers: str) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, text in headers.items():
            self.send_header(name, text)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no POST, or no HTTP request at all, in JSON too."""
        self.close_connection = True  # it may have sent a body that nobody reads
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._answer(405, {"error": "fixes are sent with POST"}, Allow="POST")
        else:
            self._answer(code, {"error": message or explain})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        _log.debug("%s: " + format, self.address_string(), *args)


class _Server(socketserver.ThreadingTCPServer):
    """One thread for each connection. It knows the connections, so that it can cut them."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, endpoint: "Endpoint") -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__((host, port), partial(_Handler, endpoint), bind_and_activate=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base's signature
        if isinstance(sys.exception(), OSError):
            _log.debug("%s went away: %s", client_address, sys.exception())
        else:
            _log.exception("a request of %s failed", client_address)

    def cut(self) -> None:
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class Endpoint:
    """The reference endpoint: ``start`` it, ``stop`` it, and cut its network in between.

    Args:
        listen: ``HOST:PORT``, ``[HOST]:PORT`` for IPv6; port 0 takes a free one.
        db: the SQLite file, made if it is not there.
        faults: what goes wrong on purpose; the first that applies is taken.
        draw: gives the chances, 0 <= x < 1.

    Raises:
        UsageError: ``listen`` is no address.
        StorageError: the database cannot be written.
    """

    def __init__(
        self,
        listen: str,
        db: Path,
        faults: Sequence[Fault] = (),
        draw: Callable[[], float] = random.random,
    ) -> None:
        host, colon, port = listen.rpartition(":")
        if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
            raise UsageError(f"--listen {listen}: it is HOST:PORT, such as 127.0.0.1:8080")
        self._host = host.strip("[]")
        self._port = int(port)
        self._faults = faults
        self._draw = draw
        self._lock = threading.Lock()
        self._news = threading.Condition()
        self._left = [fault.first for fault in faults]
        self.counters: Counter[str] = Counter()
        """Of fixes ``stored``, ``known``, ``rejected``; of requests ``answered``, ``failed``."""
        self._store = _Store(db)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen.

        Raises:
            AgentError: it cannot listen there.
        """
        self._bind()
        self.reconnect()

    def stop(self) -> None:
        """End every connection, and let requests that were read reach the disk. Idempotent."""
        if self._thread:
            self._hang_up()
        elif self._server:
            self._server.server_close()
        self._server = None
        self._store.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where fixes go."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}{PATH}"

    @property
    def reachable(self) -> bool:
        """Whether it listens."""
        return self._thread is not None

    def disconnect(self) -> None:
        """Cut the network: connections end, new ones are refused. The port stays ours."""
        if self._thread:
            self._hang_up()
            self._bind()

    def reconnect(self) -> None:
        """Listen again on the same port."""
        if self._server and not self._thread:
            self._server.server_activate()
            self._thread = threading.Thread(
                target=self._server.serve_forever, args=(0.05,), name="endpoint", daemon=True
            )
            self._thread.start()

    def received(self) -> list[tuple[str, int, str]]:
        """(stream, seq, time) of each stored fix, sorted by name."""
        rows = self._store.read("SELECT stream, seq, time FROM fixes ORDER BY stream, seq")
        return [tuple(row) for row in rows]

    def wait_for(self, count: int, timeout_s: float) -> bool:
        """Wait until so many fixes are stored; whether they are."""
        with self._news:
            return self._news.wait_for(lambda: self.count() >= count, timeout_s)

    def count(self) -> int:
        """Stored fixes."""
        count: int = self._store.read("SELECT count(*) FROM fixes")[0][0]
        return count

    def agents(self) -> list[dict[str, Any]]:
        """What each agent said last about itself, sorted by ``device``.

        Each with ``device``, ``stream``, ``heard`` (when, by the clock of this machine), ``agent``.
        """
        rows = self._store.read("SELECT device, stream, heard, agent FROM reports ORDER BY device")
        names = ("device", "stream", "heard", "agent")
        return [dict(zip(names, (*row[:3], json.loads(row[3])), strict=True)) for row in rows]

    # For the handlers, each in a thread of its own.

    def next_fault(self) -> str | None:
        """What goes wrong with this request."""
        with self._lock:
            for i, fault in enumerate(self._faults):
                left = self._left[i]
                if left != 0 and self._draw() < fault.chance:
                    self._left[i] = left and left - 1
                    self.counters["failed"] += 1
                    return fault.kind
        return None

    def take(self, parcel: Parcel) -> dict[str, Any]:
        """Store a parcel; return the answer to it."""
        try:
            stored = self._store.put(parcel)
        except sqlite3.Error as error:
            _log.warning("cannot store: %s", error)
            raise RefusedError(503, f"cannot store: {error}") from error
        known = len(parcel.fixes) - stored
        with self._lock:
            self.counters.update(
                answered=1, stored=stored, known=known, rejected=len(parcel.rejected)
            )
        with self._news:
            self._news.notify_all()
        answer: dict[str, Any] = {"stored": stored, "known": known}
        if parcel.rejected:
            answer["rejected"] = parcel.rejected
        return answer

    def _bind(self) -> None:
        """Take the port without listening: who connects is refused."""
        server = _Server(self._host, self._port, self)
        try:
            server.server_bind()
        except OSError as error:
            server.server_close()
            if error.errno == errno.EADDRINUSE:
                raise AgentError(
                    f"port {self._port} is in use: choose another with --listen, or 0 for any"
                ) from error
            raise AgentError(f"cannot listen on {self._host}: {error.strerror}") from error
        self._server = server
        self._port = server.server_address[1]

    def _hang_up(self) -> None:
        server, thread = self._server, self._thread
        if server and thread:
            server.shutdown()
            thread.join()
            server.cut()
            server.server_close()
            self._thread = None
