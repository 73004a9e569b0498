"""Connects to any address of a name; all connections of the agent are made here.

Theory of operation, after RFC 8305 ("happy eyeballs"). The addresses are tried in the resolver's
order with the families interleaved, the family that worked last first. The next attempt begins
250 ms after the last one, or at once when one has failed; attempts run side by side, and the first
connection wins. So each dead address costs a fraction of a second. All attempts share one limit.

``Connecting`` never blocks. ``poll`` does what can be done now; until it returns a socket, the
caller waits on its own bell for the descriptors in ``watched``, at the latest until ``due_s``.
"""

import errno
import math
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Mapping

from telemetry_agent.addresses import (
    LOOK_UP_S,
    Address,
    Kind,
    LookUp,
    Resolver,
    UnreachableError,
    Wait,
    interleaved,
    look_up_error,
)
from telemetry_agent.clock import Clock
from telemetry_agent.errors import limit_reached

CONNECT_S = 5.0
"""The limit for all addresses of a name together, counted from the first attempt."""
_NEXT_ATTEMPT_S = 0.25
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
"""What ``connect`` returns at once, before it sends a packet, when the kernel has no route."""

_UNDER_WAY = {errno.EINPROGRESS, errno.EALREADY, errno.EINTR}

_Cause = tuple[Kind, str]  # and a text with a place for the addresses


class Connecting:
    """A TCP connection that is being made to any address of a name. For one thread.

    Args:
        resolver: looks the name up, and knows what worked before.
        host: a name, or an address without brackets.
        known_after_s: how long a look-up holds back the addresses known from an earlier one.
        look_up_s: limit for the look-up if no address is known.
        has_route: whether to try an address; one without a route counts as failed.
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
        self._look_up: LookUp | None = None
        self._joined = False  # another caller had begun it
        self._look_up_error: UnreachableError | None = None
        self._waiting: deque[Address] = deque()
        self._sockets: dict[Address, socket.socket] = {}
        self._failed: dict[Address, _Cause] = {}
        self._next_s = now_s
        self._spacing_s = _NEXT_ATTEMPT_S
        self._until_s = math.inf
        self._look_name_up(now_s)

    @property
    def doing(self) -> str:
        """What has not happened yet; the caller adds "within 5 s"."""
        if self._sockets or self._waiting:
            return f"no connection to {self._host}"
        return f"no name server answered for {self._host}"

    def poll(self, now_s: float) -> socket.socket | None:
        """Do what can be done without blocking.

        Returns the connected socket (non-blocking, Nagle off), or ``None`` if there is none yet.

        Raises:
            UnreachableError: no address could be found or reached.
        """
        self._follow_look_up(now_s)
        while True:
            connected = self._follow_attempts(now_s)
            if connected is not None:
                return connected
            # An address without a route fails at once, and the next one is begun at once.
            if not self._waiting or now_s < self._next_s:
                break
            self._begin(self._waiting.popleft(), now_s)
        if now_s >= self._until_s:
            cause: _Cause = "silent", f"no connection to {{}} within {self._connect_s:g} s"
            self._failed.update(dict.fromkeys([*self._sockets, *self._waiting], cause))
            self.cancel()
        if self._sockets or self._waiting or self._look_up is not None:
            return None
        if self._failed or self._look_up_error is None:
            raise _error(self._failed)
        raise self._look_up_error

    def due_s(self) -> float:
        """When to poll if no watched descriptor is ready before."""
        due_s = self._until_s if self._sockets else math.inf
        if self._waiting or not self.watched():  # without either there is nothing to wait for
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
        """End all attempts. A look-up continues. Idempotent."""
        for attempt in self._sockets.values():
            attempt.close()
        self._sockets.clear()
        self._waiting.clear()

    def run(self, clock: Clock, wait: Wait) -> socket.socket:
        """Block until there is a connection. What ``wait`` raises ends this.

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
            # It began before this attempt, perhaps when the network was dead: ask again.
            self._look_name_up(now_s)
            return
        if result is None:
            if now_s >= self._known_due_s:
                self._add_known(now_s)
            if now_s >= self._look_up_until_s:
                self._look_up = None
                text = f"no name server answered for {self._host} within {LOOK_UP_S:g} s"
                self._look_up_error = UnreachableError(text, "no-name-server")
            return
        self._look_up = None
        if isinstance(result, list):
            self._add(result, now_s)
            return
        self._look_up_error = look_up_error(self._host, result)
        if self._look_up_error.kind != "no-name":
            self._add_known(now_s)

    def _look_name_up(self, now_s: float) -> None:
        self._look_up, self._joined = None, False
        try:
            self._look_up, self._joined = self._resolver.begin(self._host, self._port)
        except UnreachableError as error:
            self._look_up_error = error
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
            self._waiting.extend(interleaved(new))
            self._until_s = now_s + self._connect_s
            # The last address, however many there are, still gets half of the time.
            self._spacing_s = min(_NEXT_ATTEMPT_S, self._connect_s / 2 / len(self._waiting))

    def _begin(self, address: Address, now_s: float) -> None:
        number: int | None = errno.ENETUNREACH
        if self._has_route(address):
            try:
                attempt = socket.socket(address.family, socket.SOCK_STREAM)
            except OSError as error:
                number = error.errno
            else:
                attempt.setblocking(False)
                number = attempt.connect_ex(address.sockaddr)
                if not number or number in _UNDER_WAY:
                    self._sockets[address] = attempt
                    self._next_s = now_s + self._spacing_s
                    return
                attempt.close()
        self._failed[address] = _cause(number or 0, at_once=True)

    def _follow_attempts(self, now_s: float) -> socket.socket | None:
        for address, attempt in list(self._sockets.items()):
            # A second connect on the same socket reports how far the first one is.
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
            self._failed[address] = _cause(number, at_once=False)
            self._next_s = now_s  # a failure starts the next attempt at once
        return None


def _cause(number: int, *, at_once: bool) -> _Cause:
    """What an errno of ``connect`` means.

    Only an error ``at_once`` is this kernel's own; later it may be a router's "unreachable".
    """
    if at_once and number in NO_ROUTE:
        return "no-route", "no route to {}"
    if number == errno.ECONNREFUSED:
        return "refused", "connection refused by {}"
    if number == errno.ETIMEDOUT:
        return "silent", f"no connection to {{}} within {CONNECT_S:g} s"
    why = os.strerror(number)
    return "other", f"no connection to {{}}: {limit_reached(why) or why}"


def _error(failed: Mapping[Address, _Cause]) -> UnreachableError:
    """One error for all addresses: "no-route" only if no address has a route."""
    peers: dict[_Cause, list[str]] = {}
    for address, cause in failed.items():
        peers.setdefault(cause, []).append(str(address))
    text = "; ".join(reason.format(", ".join(listed)) for (_, reason), listed in peers.items())
    kinds = {kind for kind, _ in peers}
    order: tuple[Kind, ...] = ("refused", "silent", "other", "no-route")
    worst: Kind = next((kind for kind in order if kind in kinds), "other")
    return UnreachableError(text or "the name has no address", worst)
