"""Can the endpoint be reached: its name, its addresses, a TCP connection.

A probe never blocks. ``start`` begins to look up the name and to connect to the addresses that are
already known and have a route; ``poll`` follows that. Between calls the caller waits for the
descriptors in ``watched``.

A network can return before its name server does, or after it. So the known addresses do
not wait for the look-up, and the addresses that it finds are tried as well.
"""

from collections.abc import Callable
from typing import Literal

from telemetry_agent.addresses import (
    Address,
    Resolve,
    Resolver,
    UnreachableError,
    bracketed,
    resolve,
)
from telemetry_agent.connecting import Connecting
from telemetry_agent.connectivity.routes import Path, path

Word = Literal["up", "no-route", "unreachable"]


class Probe:
    """Tries ``host:port`` any number of times, one try at a time. For one thread.

    Args:
        host: a name, or an address without brackets.
        path: the kernel's path to an address; nothing is sent to an address without one.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        resolve: Resolve = resolve,
        path: Callable[[Address], Path | None] = path,
    ) -> None:
        self.target = f"{bracketed(host)}:{port}"
        self._host, self._port = host, port
        self._resolver = Resolver(resolve)
        self._path = path
        self._connecting: Connecting | None = None

    @property
    def addresses(self) -> list[Address]:
        """The addresses of the last look-up."""
        return self._resolver.known(self._host, self._port)

    @property
    def running(self) -> bool:
        """Whether a try has not ended yet."""
        return self._connecting is not None

    def start(self, now_s: float) -> None:
        """Begin a try; end the one that runs."""
        self.cancel()
        self._connecting = Connecting(
            self._resolver,
            self._host,
            self._port,
            now_s,
            known_after_s=0,
            has_route=lambda address: self._path(address) is not None,
        )

    def poll(self, now_s: float) -> tuple[Word, str] | None:
        """How the running try ended, and why it failed; ``None`` while it continues."""
        if self._connecting is None:
            return None
        try:
            connected = self._connecting.poll(now_s)
        except UnreachableError as error:
            self.cancel()
            return error.state, str(error)
        if connected is None:
            return None
        connected.close()
        self.cancel()
        return "up", ""

    def due_s(self) -> float:
        """When to poll a running try if no watched descriptor is ready before."""
        return float("inf") if self._connecting is None else self._connecting.due_s()

    def watched(self) -> list[tuple[int, int]]:
        """Descriptors to wait for while a try runs, with their events."""
        return [] if self._connecting is None else self._connecting.watched()

    def paths(self) -> dict[Address, Path | None]:
        """The kernel's current path to each known address."""
        return {address: self._path(address) for address in self.addresses}

    def cancel(self) -> None:
        """End the running try. A look-up continues, and its result is kept. Idempotent."""
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
