"""A server that misbehaves on command.

::

    with Server(status(503), reset(after_reading=True)) as server:
        post_to(server.url)

A script is a list of acts. Each request runs the next act; after the last act, each request runs
``then`` (default: store all fixes and answer 200). ``ledger`` counts the stored fixes.
"""

import contextlib
import functools
import gzip
import json
import select
import socket
import ssl
import struct
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from listening import Listening

from telemetry_agent.upload.http.credentials import Credentials

Name = tuple[str, int]


@dataclass
class Request:
    """A received request; ``names`` are the fixes of a request in the native format."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int
    names: list[Name] = field(default_factory=list)

    @property
    def json(self) -> Any:
        body = gzip.decompress(self.body) if "content-encoding" in self.headers else self.body
        return json.loads(body)


class Line:
    """The server's end of a connection."""

    def __init__(self, server: "Server", sock: socket.socket, number: int) -> None:
        self.server = server
        self.sock = sock
        self.number = number
        self._buffer = b""

    def read_request(self) -> Request | None:
        """The next request; ``None`` when the client has hung up."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        while len(self._buffer) < length:
            if not self._more():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        request = Request(method, target, headers, body, self.number)
        with contextlib.suppress(ValueError, KeyError, TypeError, EOFError):
            said = request.json
            request.names = [(said["stream"], fix["seq"]) for fix in said["fixes"]]
        return request

    def has_more(self) -> bool:
        """Whether more bytes have come after the last request."""
        return bool(self._buffer)

    def _more(self) -> bool:
        data = self.sock.recv(65536)
        self._buffer += data
        return bool(data)

    def reply(
        self, status: int = 200, body: bytes | str = b"", headers: Mapping[str, str] = {}
    ) -> None:
        """Send a complete answer."""
        body = body.encode() if isinstance(body, str) else body
        self.head(status, {"Content-Length": str(len(body)), **headers})
        self.sock.sendall(body)

    def head(self, status: int, headers: Mapping[str, str] = {}) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.sock.sendall(f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode())

    def drip(self, data: bytes, interval_s: float = 0.05) -> None:
        """Send one byte at a time, until the data, the client or the server ends."""
        for byte in data:
            if self.server.stopping.wait(interval_s):
                return
            self.sock.sendall(bytes([byte]))

    def hang(self) -> None:
        """Send and read nothing until the client hangs up or the server stops."""
        while not self.server.stopping.is_set():
            poll = select.poll()
            poll.register(self.sock, select.POLLRDHUP | select.POLLHUP)
            poll.register(self.server.stopped, select.POLLIN)
            if poll.poll():
                return

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


@dataclass(frozen=True)
class Act:
    """The reaction to a request; if ``run`` returns false, the connection ends."""

    run: Callable[[Line, Request], bool | None]
    at_once: bool = False
    """Run as soon as a request begins (or a client connects), without reading it."""


def answer(
    status: int = 200,
    body: bytes | str = b"",
    headers: Mapping[str, str] = {},
    *,
    store: bool | None = None,
    close: bool = False,
) -> Act:
    """Send a complete answer. The fixes are stored if the status is 2xx; ``store`` overrides it."""

    def run(line: Line, request: Request) -> bool:
        if store if store is not None else 200 <= status < 300:
            line.server.take(request)
        line.reply(status, body, headers)
        return not close

    return Act(run)


def refusing(bad: Collection[int], status: int = 400, otherwise: int = 200) -> Act:
    """Refuse each whole request that contains one of these seqs; status 0: close instead."""

    def run(line: Line, request: Request) -> bool:
        if any(seq in bad for _, seq in request.names):
            return refuse(line, status, "bad fix")
        line.server.take(request)
        line.reply(otherwise)
        return True

    return Act(run)


def at_most(fixes: int, status: int = 413) -> Act:
    """Refuse requests with more fixes than this; status 0: close instead."""

    def run(line: Line, request: Request) -> bool:
        if len(request.names) > fixes:
            return refuse(line, status)
        line.server.take(request)
        line.reply(200)
        return True

    return Act(run)


def refuse(line: Line, status: int, body: str = "") -> bool:
    if status:
        line.reply(status, body)
    return bool(status)


def no_gzip(status: int = 400, body: str = "") -> Act:
    """Accept only uncompressed requests."""

    def run(line: Line, request: Request) -> None:
        if "content-encoding" in request.headers:
            line.reply(status, body)
        else:
            line.server.take(request)
            line.reply(200)

    return Act(run)


def reset(*, after_reading: bool = False, store: bool = False) -> Act:
    """Reset the connection, before or after reading (and storing) the request."""

    def run(line: Line, request: Request) -> bool:
        if store:
            line.server.take(request)
        line.reset()
        return False

    return Act(run, at_once=not after_reading)


def hang_up(*, store: bool = False) -> Act:
    """Read the request, then close without an answer."""

    def run(line: Line, request: Request) -> bool:
        if store:
            line.server.take(request)
        return False

    return Act(run)


def hang(*, after_reading: bool = True, store: bool = False) -> Act:
    """Never answer."""

    def run(line: Line, request: Request) -> bool:
        if store:
            line.server.take(request)
        line.hang()
        return False

    return Act(run, at_once=not after_reading)


def says(*parts: bytes, store: bool = False, then_hang: bool = False) -> Act:
    """Send these raw bytes, then close (or hang)."""

    def run(line: Line, request: Request) -> bool:
        if store:
            line.server.take(request)
        for part in parts:
            line.sock.sendall(part)
        if then_hang:
            line.hang()
        return False

    return Act(run)


def drips(data: bytes, *, first: bytes = b"", at_once: bool = False) -> Act:
    """Send ``first``, then the rest one byte at a time."""

    def run(line: Line, request: Request) -> bool:
        line.sock.sendall(first)
        line.drip(data)
        return False

    return Act(run, at_once=at_once)


def endless(first: bytes, chunk: bytes, *, store: bool = False) -> Act:
    """Send ``first``, then ``chunk`` again and again until the client hangs up."""

    def run(line: Line, request: Request) -> bool:
        if store:
            line.server.take(request)
        line.sock.sendall(first)
        while not line.server.stopping.is_set():
            line.sock.sendall(chunk)
        return False

    return Act(run)


def twice(status: int = 200, body: str = "") -> Act:
    """Send the answer twice in one write."""

    def run(line: Line, request: Request) -> None:
        line.server.take(request)
        length = len(body.encode())
        one = f"HTTP/1.1 {status} OK\r\nContent-Length: {length}\r\n\r\n{body}".encode()
        line.sock.sendall(one + one)

    return Act(run)


def tunnel(*, says: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> Act:
    """Act as a proxy: connect to the target of CONNECT and forward everything."""

    def run(line: Line, request: Request) -> bool:
        host, _, port = request.target.rpartition(":")
        with socket.create_connection((host, int(port))) as onward:
            line.sock.sendall(says)
            ends = {line.sock: onward, onward: line.sock}
            while readable := select.select([*ends, line.server.stopped], [], [])[0]:
                data = readable[0].recv(65536)
                if not data:
                    return False
                ends[readable[0]].sendall(data)
        return False

    return Act(run)


class Server(Listening):
    """A scripted HTTP server on loopback, as a context manager."""

    def __init__(
        self, *script: Act, then: Act | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__()
        self.ledger: Counter[Name] = Counter()
        """How often each fix was stored."""
        self.requests: list[Request] = []
        self.connections = 0
        self.then = then or answer()
        self._script = list(script)
        self._tls = tls
        self._lock = threading.Condition()
        self._lines: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1/fixes"

    def script(self, *acts: Act) -> None:
        """Append acts to the script."""
        with self._lock:
            self._script += acts

    def take(self, request: Request) -> None:
        """Store each fix of the request."""
        with self._lock:
            self.ledger.update(request.names)
            self._lock.notify_all()

    def wait_for(self, happened: Callable[["Server"], bool], limit_s: float = 60) -> None:
        """Wait until it is true; check after each request and each stored fix."""
        with self._lock:
            assert self._lock.wait_for(lambda: happened(self), limit_s), (
                f"{len(self.requests)} requests, {len(self.ledger)} fixes: not what was waited for"
            )

    def close_idle(self) -> None:
        """Close every connection from the server's side."""
        with self._lock:
            lines, self._lines = self._lines, []
        for sock in lines:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def hang_up(self) -> None:
        self.close_idle()

    def accepted(self, sock: socket.socket) -> None:
        self.connections += 1
        with self._lock:
            self._lines.append(sock)
        self.start(self._serve, sock, self.connections)

    def _serve(self, sock: socket.socket, number: int) -> None:
        # A client that hangs up is not an error of the server.
        with contextlib.suppress(OSError), contextlib.closing(sock):
            if self._next_is_at_once():
                # Before TLS, so that an act can also leave a handshake hanging.
                self._next().run(Line(self, sock, number), Request("", "", {}, b"", number))
                return
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._lines.append(sock)
            with contextlib.closing(sock):
                # Otherwise ``__exit__`` may have closed all lines before this one was added.
                if not self.stopping.is_set():
                    self._talk(Line(self, sock, number))

    def _talk(self, line: Line) -> None:
        while True:
            waiting = line.has_more() or (self._tls is None and line.sock.recv(1, socket.MSG_PEEK))
            if waiting and self._tls is None and self._next_is_at_once():
                self._next().run(line, Request("", "", {}, b"", line.number))
                return
            request = line.read_request()
            if request is None:
                return
            with self._lock:
                self.requests.append(request)
                self._lock.notify_all()
            if self._next().run(line, request) is False:
                return

    def _next_is_at_once(self) -> bool:
        with self._lock:
            return (self._script[0] if self._script else self.then).at_once

    def _next(self) -> Act:
        with self._lock:
            return self._script.pop(0) if self._script else self.then


# Certificates for localhost and 127.0.0.1, used only by tests. The first is valid until 2126, the
# second until 2001, the third from 2100.
_KEY = """\
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIArjFKhbFhchohoEI1R08P7OVbwcFogsT+gC/ckxNmkioAoGCCqGSM49
AwEHoUQDQgAEHWMWPEBcZL1TJMlo0hOt7ihwyM5ll8jdsel+slDjgYfUYWVrZZ4v
lxiCkxY6qqkyn2YwxLrGC/nERAFZlc38Uw==
-----END EC PRIVATE KEY-----
"""
_CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBdjCCAR2gAwIBAgIBAjAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMDAwMTAxMDAwMDAwWhgPMjEyNjAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABB1jFjxAXGS9UyTJ
aNITre4ocMjOZZfI3bHpfrJQ44GH1GFla2WeL5cYgpMWOqqpMp9mMMS6xgv5xEQB
WZXN/FOjXjBcMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAPBgNVHRMBAf8E
BTADAQH/MB0GA1UdDgQWBBTq+LUgnGGrrlMkqX3Qs+fuUbEgNTAOBgNVHQ8BAf8E
BAMCAoQwCgYIKoZIzj0EAwIDRwAwRAIgR5/FKIuRKu31bnkkOG7HbcfNwpHUwmg8
wtBu4tNfBK8CIFGgj2v6rVk4JnYPS7Dho7gFAwuHgV5bkY2iarz0qLB/
-----END CERTIFICATE-----
"""
_EXPIRED = """\
-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIBAzAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwHhcNMDAwMTAxMDAwMDAwWhcNMDEwMTAxMDAwMDAwWjAUMRIwEAYDVQQDDAls
b2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQdYxY8QFxkvVMkyWjS
E63uKHDIzmWXyN2x6X6yUOOBh9RhZWtlni+XGIKTFjqqqTKfZjDEusYL+cREAVmV
zfxTo14wXDAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwDwYDVR0TAQH/BAUw
AwEB/zAdBgNVHQ4EFgQU6vi1IJxhq65TJKl90LPn7lGxIDUwDgYDVR0PAQH/BAQD
AgKEMAoGCCqGSM49BAMCA0gAMEUCIQDrCRUAkyw8KfY6gIbC5ZWRNFLQKp60/z3v
ZjfOIEOxOQIgRnJHk0LtD2+VEFiF7oMaN41xmITfHWMX0j7tsMkBUFE=
-----END CERTIFICATE-----
"""

_NOT_YET_VALID = """\
-----BEGIN CERTIFICATE-----
MIIBdjCCARygAwIBAgIBBDAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIhgPMjEwMDAxMDEwMDAwMDBaGA8yMTI2MDEwMTAwMDAwMFowFDESMBAGA1UE
AwwJbG9jYWxob3N0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEHWMWPEBcZL1T
JMlo0hOt7ihwyM5ll8jdsel+slDjgYfUYWVrZZ4vlxiCkxY6qqkyn2YwxLrGC/nE
RAFZlc38U6NbMFkwGgYDVR0RBBMwEYIJbG9jYWxob3N0hwR/AAABMA8GA1UdEwEB
/wQFMAMBAf8wHQYDVR0OBBYEFOr4tSCcYauuUySpfdCz5+5RsSA1MAsGA1UdDwQE
AwIChDAKBggqhkjOPQQDAgNIADBFAiBwSdCRIwiGXldIf+OTdMko9uF/E6JLRoaP
wvO/2wZK0AIhALjx9tyiBT/4ij26nWa9cBmd6bMlfniHvj8TzGiLvnkQ
-----END CERTIFICATE-----
"""

Validity = Literal["now", "past", "future"]
_CERTIFICATES = {"now": _CERTIFICATE, "past": _EXPIRED, "future": _NOT_YET_VALID}


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Create it on first use: a killed process that only imports this leaves no folder behind."""
    return tempfile.TemporaryDirectory()


def tls_server_context(validity: Validity = "now") -> ssl.SSLContext:
    """The context for ``Server(tls=…)``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair_file(validity))
    return context


def demands_certificates(most: ssl.TLSVersion) -> ssl.SSLContext:
    """The context for ``Server(tls=…)`` that trusts only the expired certificate of a client."""
    context = tls_server_context()
    context.load_verify_locations(ca_file("past"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = most
    return context


def pair_file(validity: Validity) -> Path:
    """A file with a certificate and its key."""
    file = Path(_folder().name) / f"pair-{validity}.pem"
    file.write_text(_KEY + _CERTIFICATES[validity])
    return file


def ca_file(validity: Validity = "now") -> Path:
    """The path of the server's certificate."""
    file = Path(_folder().name) / f"ca-{validity}.pem"
    file.write_text(_CERTIFICATES[validity])
    return file


def trusting(validity: Validity = "now") -> Credentials:
    """Credentials that trust only the server's certificate."""
    return Credentials(ca_file=ca_file(validity))


@contextlib.contextmanager
def swallowed_syn() -> Iterator[int]:
    """A loopback port on which connecting hangs, because its backlog is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(address)
        yield address[1]
