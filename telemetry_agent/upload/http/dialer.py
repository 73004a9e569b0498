"""Finds the endpoint and opens connections to it, within the exchange that needs them.

Name resolution cannot be interrupted. It runs in daemon threads, of which each name has at most
one: an exchange that finds a look-up pending joins it. Where the name server stays silent, the
addresses that it told last serve: a network without names is still a way.
"""

import errno
import socket
import threading
from collections.abc import Callable
from typing import Any

from telemetry_agent.clock import Clock
from telemetry_agent.upload.http.attempt import Attempt, NetworkError
from telemetry_agent.upload.http.connection import Connection, Handshakes

Resolve = Callable[[str, int], list[Any]]
"""(host, port) -> what ``socket.getaddrinfo`` returns, for TCP."""

_NO_ROUTE = {errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL}


def resolve_tcp(host: str, port: int) -> list[Any]:
    """Ask the system's resolver."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class _Lookup:
    """One name on its way: ``result`` is set when the answer is there."""

    result: list[Any] | Exception | None = None


class Network(Attempt):
    """The exchange under way, and the way to open connections for it."""

    def __init__(
        self,
        clock: Clock,
        resolve: Resolve = resolve_tcp,
        connect_timeout_s: float = 5.0,
        look_up_timeout_s: float = 5.0,
        gnss_ms: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            clock: The machine's clocks.
            resolve: Finds the addresses of a name.
            connect_timeout_s: For each address; a name may have several, which share alike.
            look_up_timeout_s: How long a name server may be silent where older addresses serve.
            gnss_ms: UTC now as the receiver has it, in milliseconds since 1970; ``None``: unknown.
                It tells an expired certificate from a wrong clock.
        """
        super().__init__(clock)
        self._resolve = resolve
        self._connect_timeout_s = connect_timeout_s
        self._look_up_timeout_s = look_up_timeout_s
        self._handshakes = Handshakes(clock, gnss_ms)
        self._family = socket.AF_UNSPEC  # the one that worked last is tried first
        # Guarded as the abort is, which ends the wait for them.
        self._lookups: dict[tuple[str, int], _Lookup] = {}
        self._known: dict[tuple[str, int], list[Any]] = {}

    def connect(self, host: str, port: int) -> Connection:
        """Try the addresses of ``host`` one after another.

        Raises:
            NetworkError: none could be reached.
        """
        self.connected = True
        addresses = self._look_up(host, port)
        addresses.sort(key=lambda address: address[0] != self._family)
        failures: list[str] = []
        states: set[str] = set()
        for left, (family, kind, protocol, _, address) in zip(
            range(len(addresses), 0, -1), addresses, strict=True
        ):
            peer = f"[{address[0]}]:{address[1]}" if ":" in address[0] else "{}:{}".format(*address)
            sock: socket.socket | None = None
            try:
                sock = socket.socket(family, kind, protocol)
                left_s = self.left_s(f"no connection to {peer}", sock)
                # A dead address leaves time for those behind it.
                sock.settimeout(min(left_s / left, self._connect_timeout_s))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                failures.append(self._why_not(error, peer))
                states.add("no-route" if error.errno in _NO_ROUTE else "unreachable")
            else:
                self._family = family
                return Connection(self, sock, peer, self._handshakes)
            if sock is not None:
                self.close(sock)
        self.left_s(f"no connection to {host}")  # an abort fails a connect with any error
        raise NetworkError(
            "; ".join(dict.fromkeys(failures)),
            "no-route" if states == {"no-route"} else "unreachable",
        )

    def _why_not(self, error: OSError, peer: str) -> str:
        if isinstance(error, TimeoutError):
            return f"no connection to {peer} within {self._connect_timeout_s:g} s"
        if isinstance(error, ConnectionRefusedError):
            return f"connection refused by {peer}"
        if error.errno in _NO_ROUTE:
            return f"no route to {peer}"
        return f"no connection to {peer}: {error.strerror or error}"

    def _look_up(self, host: str, port: int) -> list[Any]:
        with self._changed:
            lookup = self._lookups.get((host, port))
            if lookup is None:
                lookup = self._lookups[host, port] = _Lookup()
                threading.Thread(
                    target=self._run_lookup,
                    args=(host, port, lookup),
                    name=f"resolve {host}",
                    daemon=True,
                ).start()
            known = self._known.get((host, port))
        patient_until_s = self._clock.monotonic_s() + self._look_up_timeout_s
        while True:
            left_s = self.left_s(f"no name server told the address of {host}")
            if known is not None:
                left_s = min(left_s, patient_until_s - self._clock.monotonic_s())
                if left_s <= 0:
                    return list(known)
            with self._changed:
                if lookup.result is None and not self._aborted:
                    self._changed.wait(left_s)
                result = lookup.result
            if isinstance(result, socket.gaierror) and result.errno == socket.EAI_AGAIN:
                if known is not None:
                    return list(known)
                raise NetworkError(f"no name server tells the address of {host}")
            if isinstance(result, Exception):
                raise NetworkError(f"name {host} does not resolve") from result
            if result is not None:
                return list(result)

    def _run_lookup(self, host: str, port: int, lookup: _Lookup) -> None:
        result: list[Any] | Exception
        try:
            result = self._resolve(host, port)
        except (OSError, UnicodeError) as error:  # UnicodeError: no name can be spelled like that
            result = error
        with self._changed:
            lookup.result = result
            if isinstance(result, list):
                self._known[host, port] = result
            del self._lookups[host, port]
            self._changed.notify_all()
