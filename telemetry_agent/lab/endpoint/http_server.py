"""The HTTP server of the reference endpoint."""

import contextlib
import json
import logging
import re
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib import resources
from typing import TYPE_CHECKING, Any

from telemetry_agent import __version__
from telemetry_agent.clock import Clock
from telemetry_agent.errors import StorageError
from telemetry_agent.lab.native_request import BODY_MAX_BYTES, RefusedError, parse
from telemetry_agent.trouble import Trouble

if TYPE_CHECKING:
    from telemetry_agent.lab.endpoint.endpoint import Endpoint

_log = logging.getLogger(__name__)

_DRAIN_MAX_BYTES = 8 * BODY_MAX_BYTES
_IDLE_S = 75.0
_RETRY_AFTER_S = "10"  # a full disk lasts at least that long
_ACCEPT_AGAIN_S = 1.0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # else a TLS hello gets an answer without a status
    server_version = f"telemetry-agent/{__version__}"
    sys_version = ""
    disable_nagle_algorithm = True  # else head and body of an answer are 44 ms apart
    timeout = _IDLE_S
    server: "HttpServer"

    def do_POST(self) -> None:
        if self._look() is None:
            self._answer_with(lambda: self._deliver(self._body()))
        else:
            self.send_error(HTTPStatus.NOT_IMPLEMENTED)

    def do_GET(self) -> None:
        if look := self._look():
            self.close_connection = True  # a body would not be read, and be the next request
            self._answer_with(look)
        else:
            self.send_error(HTTPStatus.NOT_IMPLEMENTED)

    def _look(self) -> Callable[[], Any] | None:
        """Makes what GET answers at this path; ``None``: nothing, it is one for fixes."""
        match self.path.partition("?")[0]:
            case "/v1/agents":
                return lambda: self.server.endpoint.store.agents(self._admitted())
            case "/v1/audit":
                return lambda: self.server.endpoint.store.audits(self._admitted())
            case "/openapi.json":
                description = resources.files(__package__).joinpath("openapi.json")
                return lambda: json.loads(description.read_text("utf-8"))
        return None

    def _admitted(self) -> str:
        return self.server.endpoint.admit(self.headers.get("Authorization", ""))

    def _answer_with(self, make: Callable[[], Any]) -> None:
        try:
            answer = make()
        except RefusedError as refused:
            headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
            self._answer(refused.status, {"error": str(refused)}, headers)
        except StorageError as error:
            _log.warning("%s", error)
            self._answer(503, {"error": str(error)}, {"Retry-After": _RETRY_AFTER_S})
        else:
            if answer is None:
                self.close_connection = True
            else:
                self._answer(200, answer)

    def _deliver(self, body: bytes) -> dict[str, Any] | None:
        """Store the fixes; return the answer, or ``None`` to send none."""
        fault = self.server.endpoint.next_fault()
        if fault == "hang":
            self.connection.settimeout(None)
            self.rfile.read(1)  # until the agent or the endpoint ends the connection
            return None
        if fault and fault != "drop":
            raise RefusedError(int(fault), "injected fault")
        device = self._admitted()
        request = parse(body, self.headers.get("Content-Encoding", "identity").strip())
        if device and request.device != device:
            raise RefusedError(403, f"this is the token of another device, not of {request.device}")
        answer = self.server.endpoint.take(request)
        return None if fault == "drop" else answer

    def _body(self) -> bytes:
        lengths = self.headers.get_all("Content-Length", [])
        closes, self.close_connection = self.close_connection, True  # until the body was read
        if not lengths or "Transfer-Encoding" in self.headers:
            raise RefusedError(411, "Content-Length is needed")
        if len(lengths) > 1 or not re.fullmatch(r"\d{1,18}", lengths[0].strip(), re.ASCII):
            raise RefusedError(400, "Content-Length is not a number")
        length = int(lengths[0])
        if length > BODY_MAX_BYTES:
            # A client that is cut off while it sends does not read the answer.
            left = min(length, _DRAIN_MAX_BYTES)
            while left > 0 and (data := self.rfile.read1(min(left, 1 << 16))):
                left -= len(data)
            raise RefusedError(413, f"more than {BODY_MAX_BYTES} bytes")
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionResetError
        self.close_connection = closes
        return body

    def _answer(self, status: int, value: object, headers: Mapping[str, str] = {}) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Encoding", "gzip")  # of requests (RFC 9110, 12.5.3)
        for name, text in headers.items():
            self.send_header(name, text)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002 - the base's signature
        """Answer in JSON to a method that the path does not allow, or to what is not HTTP."""
        self.close_connection = True  # it may have sent a body, which is not read
        if code == HTTPStatus.NOT_IMPLEMENTED:
            allowed = "GET" if self._look() else "POST"
            self._answer(405, {"error": f"only {allowed} is allowed here"}, {"Allow": allowed})
        else:
            self._answer(code, {"error": message or HTTPStatus(code).phrase})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        _log.debug("%s: " + format, self.address_string(), *args)


class HttpServer(socketserver.ThreadingTCPServer):
    """One thread for each connection; ``cut`` ends all of them."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, endpoint: "Endpoint") -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.endpoint = endpoint
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._full = Trouble(_log, Clock())
        super().__init__((host, port), _Handler, bind_and_activate=False)

    def get_request(self) -> tuple[Any, Any]:
        """See ``ThreadingTCPServer``. If the system refuses a connection, it is tried again."""
        try:
            request = super().get_request()
        except OSError as error:
            self._full.failed(f"no more connections can be accepted: {error.strerror}", kind="full")
            threading.Event().wait(_ACCEPT_AGAIN_S)  # it stays readable: the server would spin
            raise
        with self._lock:
            self._connections.add(request[0])
        return request

    def process_request(self, request: Any, client_address: Any) -> None:
        """See ``ThreadingTCPServer``. If the system refuses a thread, the connection is closed."""
        try:
            super().process_request(request, client_address)
        except RuntimeError as error:
            self._threads.pop()  # type: ignore[attr-defined]  # unstarted: no join
            self._full.failed(f"no more connections can be accepted: {error}", kind="full")
            raise OSError from None
        self._full.over("connections are accepted again")

    def shutdown_request(self, request: Any) -> None:
        """See ``ThreadingTCPServer``."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base's signature
        """See ``ThreadingTCPServer``."""
        if not isinstance(sys.exception(), OSError):  # it disconnected
            _log.exception("a request of %s failed", client_address)

    def cut(self) -> None:
        """End every connection."""
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
