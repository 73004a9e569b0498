"""Can the endpoint be reached: its name, its addresses, a TCP connection.

A probe never blocks. ``start`` begins to look up the name and to connect to the addresses that are
already known and have a route; ``poll`` looks how that goes. Between the two the caller waits for
the descriptors in ``watched``.

A network that is back may have a name server that is not, and the other way round. So the known
addresses do not wait for the look-up, and those that it finds are tried as well.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from telemetry_agent.addresses import (
    Address,
    Connecting,
    Resolve,
    Resolver,
    UnreachableError,
    resolve,
)
from telemetry_agent.connectivity.routes import Path, path

Word = Literal["up", "no-route", "unreachable"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a probe ended."""

    word: Word
    error: str = ""
    """Why not, for the user; empty when up."""


class Probe:
    """Tries ``host:port``, any number of times, one try at a time. For one thread.

    Args:
        host: a name, or an address without brackets.
        port: the port there.
        resolve: finds the addresses of a name.
        path: the kernel's path to an address; without one nothing is sent.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        resolve: Resolve = resolve,
        path: Callable[[Address], Path | None] = path,
    ) -> None:
        self.target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._host, self._port = host, port
        self._resolver = Resolver(resolve)
        self._path = path
        self._connecting: Connecting | None = None

    @property
    def addresses(self) -> list[Address]:
        """The last known; empty until the name was resolved once."""
        return self._resolver.known(self._host, self._port)

    @property
    def running(self) -> bool:
        """Whether there is a try that has not ended."""
        return self._connecting is not None

    def start(self, now_s: float) -> None:
        """Begin a try; one that runs is given up."""
        self.cancel()
        self._connecting = Connecting(
            self._resolver,
            self._host,
            self._port,
            now_s,
            known_after_s=0,
            has_route=lambda address: self._path(address) is not None,
        )

    def poll(self, now_s: float) -> Verdict | None:
        """How the running try ended, or ``None`` while it goes on."""
        if self._connecting is None:
            return None
        try:
            connected = self._connecting.poll(now_s)
        except UnreachableError as error:
            self.cancel()
            return Verdict(error.state, str(error))
        if connected is None:
            return None
        connected.close()
        self.cancel()
        return Verdict("up")

    def due_s(self) -> float:
        """By when to poll a running try, if none of the watched descriptors is ready before."""
        return float("inf") if self._connecting is None else self._connecting.due_s()

    def watched(self) -> list[tuple[int, int]]:
        """What to wait for while a try runs: descriptors with their events."""
        return [] if self._connecting is None else self._connecting.watched()

    def paths(self) -> dict[Address, Path | None]:
        """The way to each known address, as the kernel has it now."""
        return {address: self._path(address) for address in self.addresses}

    def cancel(self) -> None:
        """Give the running try up. A look-up goes on, its result is kept. Idempotent."""
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
