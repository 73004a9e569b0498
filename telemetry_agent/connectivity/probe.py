"""Can the endpoint be reached: its name, its addresses, a TCP connection.

A network can return before its name server does, or after it. So a probe looks up the name and at
the same time connects to the addresses that are already known and have a route; the addresses that
the look-up finds are tried as well. A probe never blocks: see ``Connecting``.
"""

from collections.abc import Callable

from telemetry_agent.addresses import Address, Resolve, Resolver, resolve
from telemetry_agent.connecting import Connecting
from telemetry_agent.connectivity.routes import Path, path


class Probe:
    """Makes probes of ``host:port``. For one thread.

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
        self._host, self._port = host, port
        self._resolver = Resolver(resolve)
        self._path = path

    def begin(self, now_s: float) -> Connecting:
        """Begin a probe. If it is cancelled, its look-up continues, and the result is kept."""
        return Connecting(
            self._resolver,
            self._host,
            self._port,
            now_s,
            known_after_s=0,
            has_route=lambda address: self._path(address) is not None,
        )

    def paths(self) -> dict[Address, Path | None]:
        """The kernel's current path to each address that the last look-up found."""
        known = self._resolver.known(self._host, self._port)
        return {address: self._path(address) for address in known}
