"""A receiver's bytes from another program or machine, over TCP."""

import select
import socket
from collections.abc import Sequence
from typing import Any

from telemetry_agent.addresses import Resolve, Resolver, UnreachableError, bracketed, resolve
from telemetry_agent.clock import Clock
from telemetry_agent.connecting import Connecting
from telemetry_agent.errors import Advice, SourceError
from telemetry_agent.gnss.sources.on_connect import OnConnect
from telemetry_agent.model import ReceiverState
from telemetry_agent.tasks import Bell

_READ_BYTES = 65536


class SocketSource:
    """What TCP and UDP share: a socket, and a way to end a wait on it."""

    baud: int | None = None
    live = True

    def __init__(self, name: str, clock: Clock | None = None) -> None:
        self.name = name
        self._clock = clock or Clock()
        self._socket: socket.socket | None = None
        self._cancelled = Bell()

    def cancel(self) -> None:
        """See ``Source.cancel``."""
        self._cancelled.ring()

    def close(self) -> None:
        """See ``Source.close``."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def advice(self, state: ReceiverState, heard: bytes) -> Advice:  # noqa: ARG002
        """See ``Source.advice``."""
        if state == "silent":
            return Advice(
                f"no data from {self.name}", "check that its sender runs and has a receiver"
            )
        return Advice(f"the data from {self.name} is not NMEA", "check what its sender sends")

    def _receive(self, timeout_s: float) -> tuple[bytes, Any] | None:
        """Bytes and their sender; None: nothing came in time, or the wait was cancelled."""
        if self._socket is None:
            raise SourceError(f"{self.name} is not open")
        ready = self._cancelled.wait(timeout_s, [(self._socket.fileno(), select.POLLIN)])
        if self._cancelled.clear() or not ready:
            return None
        try:
            return self._socket.recvfrom(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise SourceError(f"{self.name} failed: {error.strerror}") from error

    def _wait_or_stop(self, timeout_s: float, watched: list[tuple[int, int]]) -> None:
        self._cancelled.wait(timeout_s, watched)
        if self._cancelled.clear():
            raise UnreachableError("stopped")


class TcpSource(SocketSource):
    """Connects to ``host:port`` and reads what comes, as ``ser2net`` and many receivers send it.

    Args:
        host: a name, or an address without brackets.
        port: TCP port.
        commands: sent after each connection, and when the receiver reports a start.
        clock: limits the time to connect.
        name: of the source in messages.
        resolve: finds the addresses of a name.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        commands: Sequence[bytes] = (),
        clock: Clock | None = None,
        name: str | None = None,
        resolve: Resolve = resolve,
    ) -> None:
        super().__init__(name or f"tcp://{bracketed(host)}:{port}", clock)
        self._host = host
        self._port = port
        self._commands = OnConnect(self.name, commands, self._clock)
        self._resolver = Resolver(resolve)

    def open(self) -> None:
        """See ``Source.open``."""
        self.close()  # the last open may have ended after connecting
        connecting = Connecting(self._resolver, self._host, self._port, self._clock.monotonic_s())
        try:
            self._socket = connecting.run(self._clock, self._wait_or_stop)
        except UnreachableError as error:
            raise SourceError(
                f"{self.name} cannot be reached ({error})",
                "check the address, and that its sender runs",
            ) from error
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for command in self._commands.opened():
            self.request(command)

    def read(self, timeout_s: float) -> bytes:
        """See ``Source.read``."""
        received = self._receive(timeout_s)
        if received is None:
            return b""
        data, _ = received
        if not data:
            raise SourceError(f"{self.name} closed the connection", "check that its sender runs")
        for command in self._commands.heard(data):
            self.request(command)
        return data

    def request(self, data: bytes) -> None:
        """Send something to the other side.

        Raises:
            SourceError: the connection failed.
        """
        if self._socket is None:
            raise SourceError(f"{self.name} is not open")
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise SourceError(f"{self.name} failed: {error.strerror}") from error
