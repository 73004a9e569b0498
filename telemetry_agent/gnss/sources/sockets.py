"""A receiver's bytes from another program or machine, over TCP or UDP.

Everyone who reaches a UDP port can send to it, and on a boat several devices do. So each sender has
its own buffer, in which its sentences become whole. One sender is followed: the first that has a
position, until it has none for ``_SILENT_S``. The others are not used; the log reports each of them
once.
"""

import ipaddress
import logging
import re
import select
import socket
import struct
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from telemetry_agent.addresses import (
    Address,
    Resolve,
    Resolver,
    UnreachableError,
    bracketed,
    resolve,
)
from telemetry_agent.clock import Clock
from telemetry_agent.connecting import Connecting
from telemetry_agent.errors import Advice, SourceError
from telemetry_agent.gnss.sources import Source
from telemetry_agent.gnss.sources.on_connect import OnConnect
from telemetry_agent.model import ReceiverState
from telemetry_agent.tasks import Bell

_log = logging.getLogger(__name__)

_READ_BYTES = 65536
_TAIL_BYTES = 4096
_SENDERS = 16
_SILENT_S = 5.0
_UNENDED = re.compile(rb"\*[0-9A-Fa-f]{2}[^$!*\r\n]*\Z")
# A position that is valid: RMC and GLL by status, GGA by quality, GNS by mode.
_POSITION = re.compile(
    rb"\$..(?:RMC,[^,]*,[AD],|GLL,(?:[^,]*,){5}[AD]|GGA,(?:[^,]*,){5}0?[1-9]"
    rb"|GNS,(?:[^,]*,){5}[^,]*[ADEFPRMS])"
)


class SocketSource(Source):
    """What TCP and UDP share: a socket, and a way to end a wait on it."""

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

    def advice(self, state: ReceiverState, heard: bytes) -> Advice:
        """See ``Source.advice``."""
        if heard.startswith(b'{"class":'):
            url = self.name.replace("tcp:", "gpsd:")
            return Advice(f"{self.name} is a gpsd", f'set gps.source = "{url}"')
        if state == "silent":
            return Advice(
                f"no data from {self.name}", "check that its sender runs and has a receiver"
            )
        return Advice(f"the data from {self.name} is not NMEA", "check what its sender sends")

    def _receive(self, timeout_s: float) -> tuple[bytes, Any] | None:
        """Bytes and their sender; None: no bytes came in time, or the wait was cancelled."""
        opened = self._opened()
        ready = self._cancelled.wait(timeout_s, [(opened.fileno(), select.POLLIN)])
        if self._cancelled.clear() or not ready:
            return None
        try:
            return opened.recvfrom(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise SourceError(f"{self.name} failed: {error.strerror}") from error

    def _opened(self) -> socket.socket:
        if self._socket is None:
            raise SourceError(f"{self.name} is not open")
        return self._socket

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
        try:
            self._opened().sendall(data)
        except OSError as error:
            raise SourceError(f"{self.name} failed: {error.strerror}") from error


class UdpOptions(NamedTuple):
    """The options after ``udp://HOST:PORT?`` in the config."""

    sender: str = ""
    """The only address that may send; "": any."""
    interface: str = ""
    """Where a group is joined; "": the interface that routes to it."""

    @classmethod
    def read(cls, query: str) -> Self:
        """Read ``from=ADDRESS&interface=NAME``; both are optional.

        Raises:
            ValueError: an option is unknown or has no value, or ADDRESS is not an address.
        """
        found = dict(part.partition("=")[::2] for part in query.split("&") if part)
        if not found.keys() <= {"from", "interface"} or "" in found.values():
            raise ValueError("after udp://HOST:PORT only ?from=ADDRESS and &interface=NAME go")
        sender = found.get("from", "")
        if sender:
            # As ``read`` spells a sender, so that texts can be compared: in the kernel's spelling,
            # without the interface, and IPv4 also where the socket is of IPv6.
            address = ipaddress.ip_address(sender)
            ipv4 = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
            sender = str(ipv4 or address).partition("%")[0]
        return cls(sender, found.get("interface", ""))


class UdpSource(SocketSource):
    """Receives the datagrams that are sent to ``port``.

    Args:
        host: an address of this machine, or a multicast group to join; "": all addresses.
        port: UDP port.
        options: who may send, and where a group is joined.
        clock: measures how long a sender is silent.
    """

    def __init__(
        self,
        host: str,
        port: int,
        options: UdpOptions = UdpOptions(),  # noqa: B008 - it is immutable
        *,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(f"udp://{bracketed(host)}:{port}", clock)
        self._host = host
        self._port = port
        self._sender, self._interface = options
        self._resolver = Resolver(_own_addresses)
        self._tails: OrderedDict[str, bytes] = OrderedDict()  # by sender, the newest last
        self._followed: str | None = None
        self._followed_s = 0.0
        self._reported: set[str] = set()

    def open(self) -> None:
        """See ``Source.open``."""
        self.close()
        try:
            address = self._resolver.wait(self._host, self._port, self._wait_or_stop)[0]
            self._socket = socket.socket(address.family, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            host = address.sockaddr[0]
            is_group = ipaddress.ip_address(host).is_multicast
            if is_group:  # other programs of this machine may listen to it too
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(address.sockaddr)
            if is_group:
                _join(self._socket, host, self._interface)
        except (OSError, UnreachableError) as error:
            self.close()
            raise SourceError(
                f"cannot listen at {self.name} ({getattr(error, 'strerror', error)})",
                f"`sudo ss -ulpn sport = :{self._port}` shows who does, `ip address` which "
                "interfaces there are",
            ) from error

    def read(self, timeout_s: float) -> bytes:
        """See ``Source.read``. Returns whole sentences of the followed sender."""
        received = self._receive(timeout_s)
        if received is None:
            return b""
        data, (sender, *_) = received
        return self._take(sender.partition("%")[0].removeprefix("::ffff:"), data)

    def _take(self, sender: str, data: bytes) -> bytes:
        if self._sender and sender != self._sender:
            self._report(sender, f"{sender} sends to {self.name}, and only {self._sender} may")
            return b""
        whole = self._framed(sender, data)
        now_s = self._clock.monotonic_s()
        if _POSITION.search(whole):
            silent = now_s - self._followed_s > _SILENT_S
            if self._followed is None or (sender != self._followed and silent):
                self._followed = sender
                _log.info("%s: positions come from %s", self.name, sender)
            if sender == self._followed:
                self._followed_s = now_s
            else:
                self._report(
                    sender,
                    f"{sender} sends positions to {self.name} too, and is not used: "
                    f'"{self.name}?from={sender}" in gps.source chooses it',
                )
        # Until a sender has a position, all are read, so that the state shows what is wrong.
        return whole if self._followed in {None, sender} else b""

    def _framed(self, sender: str, data: bytes) -> bytes:
        """The sentences of this sender that are whole now."""
        text = self._tails.pop(sender, b"") + data
        if _UNENDED.search(text):
            text += b"\n"  # some senders send no line end
        end = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
        begin = text.rfind(b"$", end + 1)
        if begin > end:  # others no checksum either: the next sentence ends it
            text = text[:begin] + b"\n" + text[begin:]
            end = begin + 1
        self._tails[sender] = text[end:][-_TAIL_BYTES:]
        if len(self._tails) > _SENDERS:
            self._tails.popitem(last=False)
        return text[:end]

    def _report(self, sender: str, text: str) -> None:
        if sender not in self._reported and len(self._reported) < _SENDERS:
            self._reported.add(sender)
            _log.warning("%s", text)


def _join(sock: socket.socket, group: str, interface: str) -> None:
    """Join a group.

    Raises:
        OSError: the interface does not exist, or no interface routes to the group.
    """
    index = socket.if_nametoindex(interface) if interface else 0  # 0: by the routing table
    if sock.family == socket.AF_INET6:
        request = socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    else:
        request = struct.pack("@4s4si", socket.inet_aton(group), b"\0" * 4, index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)


def _own_addresses(host: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]
