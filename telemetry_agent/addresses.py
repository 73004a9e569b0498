"""Look up a name and connect to one of its addresses: the one way for all of the agent.

Theory of operation. ``getaddrinfo`` cannot be interrupted, so a look-up runs in a daemon thread.
Each name has at most one: who needs a name that is being looked up waits for the same answer. The
addresses of the last answer serve while the name server is silent, because a network without
names is still a way.

Connecting follows RFC 8305 ("happy eyeballs"): the addresses are tried in the resolver's order
with the families interleaved, the family that worked last first. The next attempt begins 250 ms
after the last one, or at once when one has failed; attempts go on side by side, and the first
connection wins. So dead addresses cost a fraction of a second each. One limit holds for all
attempts together.

``Connecting`` never blocks. ``poll`` does what can be done now; until it returns a socket, the
caller waits for the descriptors in ``watched``, at the latest until ``due_s``. The caller waits on
a bell of its own, so whoever rings that ends the wait at once.
"""

import errno
import ipaddress
import math
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, zip_longest
from typing import Any, Literal, NamedTuple

from telemetry_agent.clock import Clock
from telemetry_agent.tasks import Bell

CONNECT_S = 5.0
"""The limit for all addresses of a name together, counted from the first attempt."""
LOOK_UP_S = 5.0
"""How long a name server may be silent before that counts as a failure."""

_NEXT_ATTEMPT_S = 0.25
_PER_FAMILY_MAX = 8  # a name with more would turn an attempt into a volley
NO_ROUTE = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,  # an unreachable route
    errno.EACCES,  # a prohibit route
    errno.EINVAL,  # a blackhole route
    errno.ENETDOWN,
    errno.EADDRNOTAVAIL,  # this machine has no address to send from
    errno.EAFNOSUPPORT,  # IPv6 is switched off
    errno.ENODEV,  # the interface of a link-local address is gone
}
"""What ``connect`` returns at once, having sent nothing, when the kernel has no route."""

_UNDER_WAY = {errno.EINPROGRESS, errno.EALREADY, errno.EINTR}
_NO_SUCH_NAME = {socket.EAI_NONAME, socket.EAI_NODATA}

Wait = Callable[[float, list[tuple[int, int]]], object]
"""(seconds, descriptors with their events): as ``Bell.wait``."""

Kind = Literal["no-route", "refused", "silent", "no-name", "no-name-server", "other"]
_Why = tuple[Kind, str]  # and a text with a place for the addresses


class Address(NamedTuple):
    """One address of a name, with the port, as ``getaddrinfo`` gives it."""

    family: int
    sockaddr: tuple[Any, ...]

    def __str__(self) -> str:
        host, port = self.sockaddr[:2]
        return f"[{host}]:{port}" if self.family == socket.AF_INET6 else f"{host}:{port}"


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
    """Ask the system's resolver for the addresses of a name or literal. Blocks.

    Raises:
        OSError: the name cannot be resolved now.
        UnicodeError: no name can be spelled like that.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


def look_up_error(host: str, error: Exception) -> UnreachableError:
    """Why ``resolve`` failed, in words for the user."""
    number = error.errno if isinstance(error, OSError) else socket.EAI_NONAME
    if number in _NO_SUCH_NAME:
        return UnreachableError(f"name {host} does not resolve", "no-name")
    if number == socket.EAI_AGAIN:
        return UnreachableError(f"no name server answers for {host}", "no-name-server")
    return UnreachableError(f"cannot look up {host}: {getattr(error, 'strerror', error)}")


def no_route_to(addresses: Iterable[Address]) -> UnreachableError:
    """The kernel has no route to any of them."""
    return _failure(dict.fromkeys(addresses, _why(errno.ENETUNREACH, at_once=True)))


def is_literal(host: str) -> bool:
    """Whether this is an address, not a name."""
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


class _LookUp:
    """One name that is being looked up."""

    def __init__(self) -> None:
        self.done = Bell()
        """Rung once, and never cleared: any number of threads may wait for it."""
        self.result: list[Address] | Exception | None = None


class Resolver:
    """Looks names up in daemon threads, and remembers their addresses. For any thread."""

    def __init__(self, ask: Resolve = resolve) -> None:
        self.preferred_family: int = socket.AF_UNSPEC
        """Of the last connection; its addresses are tried first."""
        self._ask = ask
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, int], _LookUp] = {}
        self._known: dict[tuple[str, int], list[Address]] = {}

    def known(self, host: str, port: int) -> list[Address]:
        """The addresses that were found last; none before."""
        return self._known.get((host, port), [])

    def begin(self, host: str, port: int) -> tuple[_LookUp, bool]:
        """Look a name up; whether that was under way already."""
        with self._lock:
            look_up = self._under_way.get((host, port))
            if look_up is not None:
                return look_up, True
            look_up = self._under_way[host, port] = _LookUp()
        args = (host, port, look_up)
        threading.Thread(target=self._run, args=args, name=f"resolve {host}", daemon=True).start()
        return look_up, False

    def wait(self, host: str, port: int, wait: Wait) -> list[Address]:
        """Look a name up, and block until that is done.

        Raises:
            UnreachableError: it has no address, or no name server answered in time.
        """
        look_up, _ = self.begin(host, port)
        wait(LOOK_UP_S, [(look_up.done.fileno(), select.POLLIN)])
        if isinstance(look_up.result, list):
            return look_up.result
        raise look_up_error(host, look_up.result or TimeoutError(0, "no name server answered"))

    def prefer(self, family: int) -> None:
        """Note the family of an address that was reached."""
        self.preferred_family = family

    def _run(self, host: str, port: int, look_up: _LookUp) -> None:
        result: list[Address] | Exception
        try:
            result = _interleaved(self._ask(host, port))
        except (OSError, UnicodeError) as error:
            result = error
        with self._lock:
            del self._under_way[host, port]
            if isinstance(result, list):
                self._known[host, port] = result
        look_up.result = result
        look_up.done.ring()


class Connecting:
    """A TCP connection that is being made to any address of a name. For one thread.

    Args:
        resolver: looks the name up, and knows what worked before.
        host: a name, or an address without brackets.
        port: the port there.
        now_s: monotonic time.
        known_after_s: how long a look-up holds up the addresses that are known from before.
        look_up_s: the limit for a look-up where no address is known.
        connect_s: the limit for all addresses together.
        has_route: whether it makes sense to try an address; without a route it counts as failed.
    """

    def __init__(
        self,
        resolver: Resolver,
        host: str,
        port: int,
        now_s: float,
        *,
        known_after_s: float = LOOK_UP_S,
        look_up_s: float = LOOK_UP_S,
        connect_s: float = CONNECT_S,
        has_route: Callable[[Address], bool] = lambda _: True,
    ) -> None:
        self._resolver = resolver
        self._host, self._port = host, port
        self._connect_s = connect_s
        self._has_route = has_route
        self._known = resolver.known(host, port)
        self._known_due_s = now_s + known_after_s if self._known else math.inf
        self._look_up_until_s = now_s + (LOOK_UP_S if self._known else look_up_s)
        self._look_up: _LookUp | None
        self._look_up, self._joined = resolver.begin(host, port)
        self._look_up_error: UnreachableError | None = None
        self._waiting: deque[Address] = deque()
        self._sockets: dict[Address, socket.socket] = {}
        self._failed: dict[Address, _Why] = {}
        self._next_s = now_s
        self._apart_s = _NEXT_ATTEMPT_S
        self._until_s = math.inf

    @property
    def doing(self) -> str:
        """What has not happened yet, to be followed by "within 5 s"."""
        if self._sockets or self._waiting:
            return f"no connection to {self._host}"
        return f"no name server answered for {self._host}"

    def poll(self, now_s: float) -> socket.socket | None:
        """Go on as far as possible without blocking.

        Returns:
            The connected socket (non-blocking, Nagle off), or ``None`` while it is being made.

        Raises:
            UnreachableError: no address could be found or reached.
        """
        self._follow_look_up(now_s)
        while True:
            connected = self._follow_attempts(now_s)
            if connected is not None:
                return connected
            if not self._waiting or now_s < self._next_s:
                break
            self._begin(self._waiting.popleft(), now_s)
        if now_s >= self._until_s:
            self._give_up(errno.ETIMEDOUT)
        if self._sockets or self._waiting or self._look_up is not None:
            return None
        if self._failed or self._look_up_error is None:
            raise _failure(self._failed)
        raise self._look_up_error

    def due_s(self) -> float:
        """When to poll, if none of the watched descriptors is ready before."""
        due_s = self._until_s if self._sockets else math.inf
        if self._waiting:
            due_s = min(due_s, self._next_s)
        if self._look_up is not None:
            due_s = min(due_s, self._known_due_s, self._look_up_until_s)
        return due_s

    def watched(self) -> list[tuple[int, int]]:
        """What to wait for: descriptors with events, as ``Bell.wait`` takes them."""
        watched = [(attempt.fileno(), select.POLLOUT) for attempt in self._sockets.values()]
        if self._look_up is not None:
            watched.append((self._look_up.done.fileno(), select.POLLIN))
        return watched

    def cancel(self) -> None:
        """Close all sockets that are not connected. A look-up goes on. Idempotent."""
        self._waiting.clear()
        self._give_up(errno.ECANCELED)

    def run(self, clock: Clock, wait: Wait) -> socket.socket:
        """Block until there is a connection.

        Args:
            clock: tells when.
            wait: waits for so many seconds or for a watched descriptor. What it raises ends this.

        Raises:
            UnreachableError: as ``poll``.
        """
        try:
            while True:
                now_s = clock.monotonic_s()
                connected = self.poll(now_s)
                if connected is not None:
                    return connected
                wait(self.due_s() - now_s, self.watched())
        finally:
            self.cancel()

    def _follow_look_up(self, now_s: float) -> None:
        if self._look_up is None:
            return
        result = self._look_up.result
        if isinstance(result, Exception) and self._joined:
            # It was begun before this attempt, perhaps in a network that was dead: ask again.
            self._look_up, self._joined = self._resolver.begin(self._host, self._port)
            result = self._look_up.result
        if result is None:
            if now_s >= self._known_due_s:
                self._add_known(now_s)
            if now_s >= self._look_up_until_s:
                self._look_up = None
                said = f"no name server answered for {self._host} within {LOOK_UP_S:g} s"
                self._look_up_error = UnreachableError(said, "no-name-server")
            return
        self._look_up = None
        if isinstance(result, list):
            self._add(result, now_s)
            return
        self._look_up_error = look_up_error(self._host, result)
        if self._look_up_error.kind != "no-name":
            self._add_known(now_s)

    def _add_known(self, now_s: float) -> None:
        self._known_due_s = math.inf
        self._add(self._known, now_s)

    def _add(self, addresses: list[Address], now_s: float) -> None:
        seen = {*self._waiting, *self._sockets, *self._failed}
        new = [address for address in addresses if address not in seen]
        preferred = self._resolver.preferred_family
        new.sort(key=lambda address: address.family != preferred)
        if new:
            self._waiting.extend(_interleaved(new))
            self._until_s = now_s + self._connect_s
            # However many there are, the last one still has half of the time.
            self._apart_s = min(_NEXT_ATTEMPT_S, self._connect_s / 2 / len(self._waiting))

    def _begin(self, address: Address, now_s: float) -> None:
        if not self._has_route(address):
            self._failed[address] = _why(errno.ENETUNREACH, at_once=True)
            return
        try:
            attempt = socket.socket(address.family, socket.SOCK_STREAM)
        except OSError as error:
            self._failed[address] = _why(error.errno or 0, at_once=True)
            return
        attempt.setblocking(False)
        number = attempt.connect_ex(address.sockaddr)
        if number and number not in _UNDER_WAY:
            attempt.close()
            self._failed[address] = _why(number, at_once=True)
            return
        self._sockets[address] = attempt
        self._next_s = now_s + self._apart_s

    def _follow_attempts(self, now_s: float) -> socket.socket | None:
        for address, attempt in list(self._sockets.items()):
            # Asked again, a connect that is under way says how far it is.
            number = attempt.connect_ex(address.sockaddr)
            if number in _UNDER_WAY:
                continue
            del self._sockets[address]
            if number in (0, errno.EISCONN):
                self._resolver.prefer(address.family)
                self.cancel()
                attempt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return attempt
            attempt.close()
            self._failed[address] = _why(number, at_once=False)
            self._next_s = now_s
        return None

    def _give_up(self, number: int) -> None:
        for attempt in self._sockets.values():
            attempt.close()
        why = _why(number, at_once=False, limit_s=self._connect_s)
        self._failed.update(dict.fromkeys([*self._sockets, *self._waiting], why))
        self._sockets.clear()
        self._waiting.clear()


def _interleaved(addresses: Iterable[Address]) -> list[Address]:
    """The families in turn, that of the first address first; no more than a few of each."""
    by_family: dict[int, list[Address]] = {}
    for address in dict.fromkeys(addresses):
        by_family.setdefault(address.family, []).append(address)
    some = (found[:_PER_FAMILY_MAX] for found in by_family.values())
    return [address for address in chain(*zip_longest(*some)) if address is not None]


def _why(number: int, *, at_once: bool, limit_s: float = CONNECT_S) -> _Why:
    """What an errno of ``connect`` means; a router's "unreachable" is not this kernel's."""
    if at_once and number in NO_ROUTE:
        return "no-route", "no route to {}"
    if number == errno.ECONNREFUSED:
        return "refused", "connection refused by {}"
    if number == errno.ETIMEDOUT:
        return "silent", f"no connection to {{}} within {limit_s:g} s"
    return "other", f"no connection to {{}}: {os.strerror(number)}"


def _failure(failed: Mapping[Address, _Why]) -> UnreachableError:
    """One error for all addresses; "no-route" only if that is so for each of them."""
    peers: dict[_Why, list[str]] = {}
    for address, why in failed.items():
        peers.setdefault(why, []).append(str(address))
    text = "; ".join(reason.format(", ".join(listed)) for (_, reason), listed in peers.items())
    kinds = {kind for kind, _ in peers}
    order: tuple[Kind, ...] = ("refused", "silent", "other", "no-route")
    worst: Kind = next((kind for kind in order if kind in kinds), "other")
    return UnreachableError(text or "the name has no address", worst)


def bracketed(host: str) -> str:
    """A host as it stands before ``:PORT``: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
