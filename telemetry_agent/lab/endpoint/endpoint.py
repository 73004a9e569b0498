"""The reference endpoint: accepts the native format and stores each fix once.

(stream, seq) names a fix and is the key of its row, so a batch that comes twice, or overlaps with
another, changes no stored row. The answer is sent after the commit: acknowledged fixes are on the
disk. All requests share one connection to the database, under a lock.
"""

import errno
import math
import random
import re
import threading
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from telemetry_agent.addresses import bracketed
from telemetry_agent.errors import AgentError, ConfigError, UsageError
from telemetry_agent.lab.endpoint.database import FixDatabase
from telemetry_agent.lab.endpoint.http_server import HttpServer
from telemetry_agent.lab.native_request import NativeRequest, RefusedError

_ASKS_MAX, _SEQS_MAX = 20, 10_000  # an agent ignores more than this in one answer


@dataclass
class Fault:
    """A fault that is injected at random, or into the first requests."""

    kind: str
    """A status; ``drop``: store, then close without an answer; ``hang``: never answer."""
    chance: float = 1.0
    left: float = math.inf
    """Into how many more requests."""

    @classmethod
    def parse(cls, pattern: str) -> Self:
        """``KIND``, ``KIND:CHANCE`` or ``KINDxCOUNT``, such as ``503:0.3`` or ``dropx2``.

        Raises:
            UsageError: it is none of these.
        """
        found = re.fullmatch(r"([345]\d\d|drop|hang)(?::(0|1|0?\.\d+)|x(\d+))?", pattern)
        if not found:
            raise UsageError(
                f"--fail {pattern}: must be like 503, 503:0.3, 503x5, drop:0.1, hangx1"
            )
        kind, chance, first = found.groups()
        return cls(kind, float(chance or 1), float(first or math.inf))

    def strikes(self, draw: Callable[[], float]) -> bool:
        """Whether it is injected into this request."""
        if not self.left or draw() >= self.chance:
            return False
        self.left -= 1
        return True


class Tokens:
    """The tokens of a TOML file: ``van-07 = "a long random text"``, one line for each device."""

    def __init__(self, path: Path) -> None:
        """Read them.

        Raises:
            ConfigError: the file cannot be read, or does not hold tokens.
        """
        try:
            tokens = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"--tokens: cannot read {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            # Without the parser's message: it may quote a token.
            raise ConfigError(f'--tokens: {path} must hold lines like van-07 = "token"') from None
        for name, token in tokens.items():
            # Without a name, its token would show the reports of all devices.
            if not (name and isinstance(token, str) and re.fullmatch("[!-~]+", token)):
                wanted = "needs a name, and a token: ASCII without spaces"
                raise ConfigError(f"--tokens: {path}: {name!r} {wanted}")
        if len(set(tokens.values())) < len(tokens):
            raise ConfigError(f"--tokens: {path}: two devices have the same token")
        self._devices: dict[bytes, str] = {_digest(token): name for name, token in tokens.items()}

    def device_of(self, authorization: str) -> str | None:
        """The device with this token; ``None``: no device has it."""
        word, _, sent = authorization.partition(" ")
        return self._devices.get(_digest(sent.strip())) if word.lower() == "bearer" else None


def _digest(token: str) -> bytes:
    """Tokens are compared by it: the time that this takes shows nothing of them."""
    return sha256(token.encode("utf-8", "replace")).digest()


class Endpoint:
    """The reference endpoint. It listens in a ``with`` block; meanwhile its network can be cut.

    Args:
        listen: ``HOST:PORT``, ``[HOST]:PORT`` for IPv6; port 0 takes a free one.
        db: the SQLite file, created if it does not exist.
        faults: faults to inject; the first that applies is used.
        draw: random numbers, 0 <= x < 1.
        tokens: who may send; ``None``: everyone.
        asks_again: ask a reporting agent again for the fixes that the audit misses.

    Raises:
        UsageError: ``listen`` is not an address.
        StorageError: the database cannot be written.
    """

    def __init__(
        self,
        listen: str,
        db: Path,
        faults: Sequence[Fault] = (),
        draw: Callable[[], float] = random.random,
        tokens: Tokens | None = None,
        *,
        asks_again: bool = False,
    ) -> None:
        host, _, port = listen.rpartition(":")
        if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
            raise UsageError(f"--listen {listen}: must be HOST:PORT, such as 127.0.0.1:8080")
        self._host = host.strip("[]")
        self._port = int(port)
        self._faults = faults
        self._draw = draw
        self._tokens = tokens
        self._asks_again = asks_again
        self._news = threading.Condition()
        self.counters: Counter[str] = Counter()
        """Of fixes ``stored``, ``known``, ``rejected``; of requests ``failed``."""
        self.store = FixDatabase(db)
        self._server: HttpServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Listen.

        Raises:
            AgentError: it cannot listen there.
        """
        self._bind()
        self.reconnect()
        return self

    def __exit__(self, *_: object) -> None:
        """End all connections; requests that were read reach the disk."""
        self._hang_up()
        self.store.close()

    @property
    def url(self) -> str:
        """The URL for fixes."""
        return f"http://{bracketed(self._host)}:{self._port}/v1/fixes"

    @property
    def reachable(self) -> bool:
        """Whether it listens."""
        return self._thread is not None

    def disconnect(self) -> None:
        """Cut the network: connections end, new ones are refused. The port stays bound."""
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
        return self.store.read("SELECT stream, seq, time FROM fixes ORDER BY stream, seq")

    def wait_for(self, count: int, timeout_s: float) -> bool:
        """Wait until ``count`` fixes are stored; returns whether they are."""
        with self._news:
            return self._news.wait_for(lambda: self.count() >= count, timeout_s)

    def count(self) -> int:
        """Stored fixes."""
        return int(self.store.read("SELECT count(*) FROM fixes")[0][0])

    # For the handlers, each in a thread of its own.

    def admit(self, authorization: str) -> str:
        """The only device that may send with this token; empty: any device.

        Raises:
            RefusedError: the token is unknown.
        """
        if self._tokens is None:
            return ""
        device = self._tokens.device_of(authorization)
        if device is None:
            raise RefusedError(401, "the token of a device is needed: Authorization: Bearer TOKEN")
        return device

    def next_fault(self) -> str | None:
        """The fault to inject into this request."""
        with self._news:
            for fault in self._faults:
                if fault.strikes(self._draw):
                    self.counters["failed"] += 1
                    return fault.kind
        return None

    def take(self, request: NativeRequest) -> dict[str, Any]:
        """Store a request; return the answer to it."""
        stored = self.store.put(request)
        known = len(request.fixes) - stored
        answer: dict[str, Any] = {"received": stored + known, "stored": stored, "known": known}
        if request.rejected:
            answer["rejected"] = request.rejected
        if self._asks_again and request.agent is not None:
            answer["resend"] = list(self._missing(request.device))
        with self._news:
            self.counters.update(stored=stored, known=known, rejected=len(request.rejected))
            self._news.notify_all()
        return answer

    def _missing(self, device: str) -> Iterator[dict[str, Any]]:
        """What to ask for: other gaps each time, because most of them can be legal."""
        gaps = self.store.some_gaps(device)
        for stream, first, last in sorted(gaps, key=lambda _: self._draw())[:_ASKS_MAX]:
            parts = (last - first) // _SEQS_MAX + 1
            begin = first + _SEQS_MAX * int(self._draw() * parts)
            yield {"stream": stream, "from": begin, "to": min(last, begin + _SEQS_MAX - 1)}

    def _bind(self) -> None:
        """Bind the port without listening, so that connections are refused."""
        server = HttpServer(self._host, self._port, self)
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
        if self._server:
            if self._thread:
                self._server.shutdown()
                self._thread.join()
                self._server.cut()
            self._server.server_close()
            self._thread = None
