"""Names and their addresses: looks names up without blocking the caller.

``getaddrinfo`` cannot be interrupted, so a look-up runs in a daemon thread. All callers that need
the same name wait for the same answer, unless it takes too long. The addresses of the last answer
are kept, because a network whose name server is silent can still carry requests.
"""

import errno
import ipaddress
import os
import random
import select
import socket
import threading
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain, zip_longest
from typing import Any, Literal, NamedTuple

from telemetry_agent.clock import Clock
from telemetry_agent.errors import limit_reached
from telemetry_agent.tasks import Bell, started

LOOK_UP_S = 5.0
"""How long a name server may be silent before that counts as a failure."""

_PER_FAMILY_MAX = 8  # more would be a burst of packets, and may use up all descriptors
_NO_SUCH_NAME = {socket.EAI_NONAME, socket.EAI_NODATA}

Wait = Callable[[float, list[tuple[int, int]]], object]
"""(seconds, descriptors with their events): as ``Bell.wait``."""

Kind = Literal["no-route", "refused", "silent", "no-name", "no-name-server", "other"]


class Address(NamedTuple):
    """One address of a name, with the port, as ``getaddrinfo`` gives it."""

    family: int
    sockaddr: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{bracketed(self.sockaddr[0])}:{self.sockaddr[1]}"


class UnreachableError(Exception):
    """No address could be found or reached. The text says why, for the user."""

    def __init__(self, reason: str, kind: Kind = "other") -> None:
        super().__init__(reason)
        self.kind: Kind = kind

    @property
    def state(self) -> Literal["no-route", "unreachable"]:
        """The state word of the endpoint that cannot be reached."""
        return "no-route" if self.kind == "no-route" else "unreachable"


Resolve = Callable[[str, int], list[Address]]
"""(host, port) -> addresses, most preferred first. Blocks; raises OSError or UnicodeError."""


def resolve(host: str, port: int) -> list[Address]:
    """Ask the system's resolver, as ``Resolve`` says."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


def look_up_error(host: str, error: Exception) -> UnreachableError:
    """The reason why ``resolve`` failed."""
    number = error.errno if isinstance(error, OSError) else socket.EAI_NONAME
    if number in _NO_SUCH_NAME:
        return UnreachableError(f"name {host} does not resolve", "no-name")
    if number == socket.EAI_AGAIN:
        return UnreachableError(f"no name server answers for {host}", "no-name-server")
    why: object = limit_reached(error) or getattr(error, "strerror", error)
    return UnreachableError(f"cannot look up {host}: {why}")


def is_literal(host: str) -> bool:
    """Whether ``host`` is an address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a host of this name or address can only be this machine itself (RFC 6761)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return is_literal(host) and ipaddress.ip_address(host).is_loopback


class LookUp:
    """One name that is being looked up."""

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        """Monotonic."""
        self.done = Bell()  # never cleared: any number of threads may wait for it
        self.result: list[Address] | Exception | None = None

    def end(self, result: list[Address] | Exception) -> None:
        """It has this result: wake those who wait for it."""
        self.result = result
        self.done.ring()


class Resolver:
    """Looks names up in daemon threads and remembers their addresses. Any thread may call."""

    def __init__(self, ask: Resolve = resolve, clock: Clock | None = None) -> None:
        self.preferred_family: int = socket.AF_UNSPEC
        """Family of the last connection; its addresses are tried first."""
        self._ask = ask
        self._lock = threading.Lock()
        self._clock = clock or Clock()
        self._under_way: dict[tuple[str, int], list[LookUp]] = {}
        self._known: dict[tuple[str, int], list[Address]] = {}

    def prefer(self, family: int) -> None:
        """A connection was made to an address of this family."""
        self.preferred_family = family

    def known(self, host: str, port: int) -> list[Address]:
        """The addresses that the last look-up found."""
        return self._known.get((host, port), [])

    def begin(self, host: str, port: int) -> tuple[LookUp, bool]:
        """Start a look-up, or join the one that is running; returns whether it joined.

        One that hangs, perhaps with the name servers of another network, is not waited for: a new
        one is started, and each that hangs doubles the time until the next.

        Raises:
            UnreachableError: the system refuses what it needs.
        """
        with self._lock:
            running = self._under_way.setdefault((host, port), [])
            now_s = self._clock.monotonic_s()
            if running and now_s < running[-1].began_s + LOOK_UP_S * 2 ** len(running):
                return running[-1], True
            try:
                look_up = LookUp(now_s)
            except OSError as error:  # no descriptor is left
                raise look_up_error(host, error) from error
            running.append(look_up)
        if started(partial(self._run, host, port, look_up), f"resolve {host}") is None:
            self._end(host, port, look_up, OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
        return look_up, False

    def wait(self, host: str, port: int, wait: Wait) -> list[Address]:
        """Look a name up and block until that is done.

        Raises:
            UnreachableError: the name has no address, or no name server answered in time.
        """
        look_up, _ = self.begin(host, port)
        wait(LOOK_UP_S, [(look_up.done.fileno(), select.POLLIN)])
        if isinstance(look_up.result, list):
            return look_up.result
        raise look_up_error(host, look_up.result or TimeoutError(0, "no name server answered"))

    def _run(self, host: str, port: int, look_up: LookUp) -> None:
        result: list[Address] | Exception
        try:
            result = interleaved(self._ask(host, port))
        except (OSError, UnicodeError) as error:
            result = error
        self._end(host, port, look_up, result)

    def _end(
        self, host: str, port: int, look_up: LookUp, result: list[Address] | Exception
    ) -> None:
        with self._lock:
            self._under_way[host, port].remove(look_up)
            if isinstance(result, list):
                self._known[host, port] = result
        look_up.end(result)


def interleaved(addresses: Iterable[Address]) -> list[Address]:
    """The families in turn, that of the first address first; a few addresses of each."""
    by_family: dict[int, list[Address]] = {}
    for address in dict.fromkeys(addresses):
        by_family.setdefault(address.family, []).append(address)
    for found in by_family.values():
        if len(found) > _PER_FAMILY_MAX:  # others each time: the first may all be dead
            half = _PER_FAMILY_MAX // 2
            found[half:] = random.sample(found[half:], half)
    in_turn = chain(*zip_longest(*by_family.values()))
    return [address for address in in_turn if address is not None]


def bracketed(host: str) -> str:
    """The host as written before ``:PORT``: an IPv6 address gets brackets."""
    return f"[{host}]" if ":" in host else host
