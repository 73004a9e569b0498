"""Can the endpoint be reached: its name, its addresses, a TCP connection.

A probe never blocks. ``start`` begins a resolution of the name and a connection to every address
that is already known and has a way; ``poll`` looks how they fare. Between the two the caller waits
on the bell, which rings when a connection or the resolution is done.

A resolution cannot be interrupted, so it runs in a daemon thread, one at a time: while one hangs
(its question may have left into a dead network) no other is begun, and the addresses of the last
one that succeeded serve. One that fails and was begun before the try says nothing of the network
as it is now, and is repeated. All addresses are tried at once, so a dead IPv4 beside a living IPv6
costs nothing.
"""

import errno
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from telemetry_agent.connectivity.routes import Address, KernelBell, Path, path

Word = Literal["up", "no-route", "unreachable"]

_CONNECT_WITHIN_S = 5.0
_RESOLVE_WITHIN_S = 5.0
_PER_FAMILY_MAX = 4  # a name with more would turn a probe into a volley


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a probe ended."""

    word: Word
    error: str = ""
    """Why not, for the user; empty when up."""


def resolve(host: str, port: int) -> list[Address]:
    """The addresses of a host name or literal, most preferred first. Blocks.

    Raises:
        OSError: the name cannot be resolved now.
        UnicodeError: it never can.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


class Probe:
    """Tries ``host:port``, any number of times, one try at a time. For one thread."""

    def __init__(
        self,
        host: str,
        port: int,
        bell: KernelBell,
        *,
        resolver: Callable[[str, int], list[Address]] = resolve,
        path: Callable[[Address], Path | None] = path,
    ) -> None:
        self.target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.addresses: tuple[Address, ...] = ()
        """The last known; empty until the name was resolved once."""
        self.running = False
        self._host, self._port = host, port
        self._bell = bell
        self._resolver = resolver
        self._path = path
        self._resolving = False
        self._resolving_since_before = False
        self._resolved: deque[list[Address] | str] = deque(maxlen=1)
        self._resolve_until_s = 0.0
        self._resolve_error = ""
        self._connecting: dict[Address, tuple[socket.socket, float]] = {}
        self._failed: dict[Address, str] = {}

    def start(self, now_s: float) -> None:
        """Begin a try; one that runs is given up."""
        self.cancel()
        self.running = True
        if self._resolved:
            self._take_resolution()
        self._resolve_until_s = now_s + _RESOLVE_WITHIN_S
        self._resolve_error = f"no answer within {_RESOLVE_WITHIN_S:g} s"
        self._resolving_since_before = self._resolving
        if not self._resolving:
            self._begin_resolution()
        self._connect(now_s)

    def poll(self, now_s: float) -> Verdict | None:
        """How the running try ended, or ``None`` while it goes on."""
        if self._resolved:
            if not self._take_resolution() and self._resolving_since_before:
                self._begin_resolution()
            self._resolving_since_before = False
            self._connect(now_s)
        for address, (connecting, until_s) in list(self._connecting.items()):
            # Asked again, a connect that was begun says how far it is.
            result = connecting.connect_ex(address.sockaddr)
            if result in (0, errno.EISCONN):
                self.cancel()
                return Verdict("up")
            if result != errno.EALREADY:
                self._give_up(address, _why_not(address, result))
            elif now_s >= until_s:
                self._give_up(address, f"no connection to {address} within {_CONNECT_WITHIN_S:g} s")
        if self._connecting or (self._resolving and now_s < self._resolve_until_s):
            return None
        verdict = self._failure()
        self.cancel()
        return verdict

    def due_s(self) -> float:
        """By when to poll a running try, if nothing rings before."""
        dues = (until_s for _, until_s in self._connecting.values())
        return min(dues, default=self._resolve_until_s)

    def paths(self) -> dict[Address, Path | None]:
        """The way to each known address, as the kernel has it now."""
        return {address: self._path(address) for address in self.addresses}

    def cancel(self) -> None:
        """Give the running try up. A resolution goes on, its result is kept. Idempotent."""
        self.running = False
        for address in list(self._connecting):
            self._give_up(address, "")
        self._failed = {}

    def _begin_resolution(self) -> None:
        self._resolving = True
        threading.Thread(target=self._resolve, name="resolve", daemon=True).start()

    def _resolve(self) -> None:
        try:
            self._resolved.append(self._resolver(self._host, self._port))
        except OSError as error:
            self._resolved.append(error.strerror or str(error))
        except UnicodeError as error:
            self._resolved.append(str(error))
        self._bell.ring()

    def _take_resolution(self) -> bool:
        """Note what the thread left; whether it was addresses."""
        result = self._resolved.pop()
        self._resolving = False
        if isinstance(result, str):
            self._resolve_error = result
            return False
        kept: list[Address] = []
        for address in dict.fromkeys(result):
            if sum(other.family == address.family for other in kept) < _PER_FAMILY_MAX:
                kept.append(address)
        self.addresses = tuple(kept)
        return True

    def _connect(self, now_s: float) -> None:
        for address in self.addresses:
            if address in self._connecting or address in self._failed or not self._path(address):
                continue
            try:
                connecting = socket.socket(address.family, socket.SOCK_STREAM)
            except OSError as error:
                self._failed[address] = f"no connection to {address}: {error.strerror or error}"
                continue
            self._bell.watched.add(connecting)
            self._connecting[address] = (connecting, now_s + _CONNECT_WITHIN_S)
            connecting.setblocking(False)
            result = connecting.connect_ex(address.sockaddr)
            if result not in (0, errno.EINPROGRESS):
                self._give_up(address, _why_not(address, result))

    def _give_up(self, address: Address, error: str) -> None:
        connecting, _ = self._connecting.pop(address)
        self._bell.watched.discard(connecting)
        connecting.close()
        self._failed[address] = error

    def _failure(self) -> Verdict:
        if self._failed:
            return Verdict("unreachable", "; ".join(self._failed.values()))
        if self.addresses:
            listed = ", ".join(str(address) for address in self.addresses)
            return Verdict("no-route", f"no route to {listed}")
        return Verdict("unreachable", f"{self._host} cannot be resolved: {self._resolve_error}")


def _why_not(address: Address, error: int) -> str:
    """In the words of the transport: an outage is told by whichever sees it first."""
    if error == errno.ECONNREFUSED:
        return f"connection refused by {address}"
    return f"no connection to {address}: {os.strerror(error)}"
