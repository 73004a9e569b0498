"""The kernel's view of the path to the endpoint: its messages, and its answer when asked.

Messages. The kernel sends a netlink message for every change of links, addresses, routes and rules.
None of them is parsed, because they are incomplete: taking a link down removes its IPv4 routes
without a message for each, and a burst that overflows the socket is lost. So each message, and an
overflow, only means "look again". A ring of a bell means the same, hence ``KernelBell``: a bell
that the kernel also rings.

Answer. ``path`` connects a UDP socket to the address. That sends no packet, and makes the kernel
choose a route and a source address. So policy rules, tunnels, LAN endpoints without a default route
and IPv6 are treated as for a real connection. Measured in a namespace with a veth pair (Linux
6.18):

====================  =============================  =====================================
fault                 connecting a UDP socket        the matching route (RTM_GETROUTE)
====================  =============================  =====================================
link down             ENETUNREACH                    ENETUNREACH
address removed       ENETUNREACH                    ENETUNREACH
route deleted, throw  ENETUNREACH                    ENETUNREACH
unreachable           EHOSTUNREACH                   EHOSTUNREACH
prohibit              EACCES                         EACCES
blackhole             EINVAL                         EINVAL
carrier lost          succeeds                       has the flag ``linkdown``
====================  =============================  =====================================

Because of the last row the route is asked for too. Only the route in the table
(``RTM_F_FIB_MATCH``) has that flag; the answer to a plain RTM_GETROUTE does not. A route with
several gateways has the flag at each of them: it counts as a path, and as another path when a
gateway is lost.
"""

import errno
import socket
import struct
from typing import NamedTuple

from telemetry_agent.addresses import Address
from telemetry_agent.connecting import NO_ROUTE
from telemetry_agent.tasks import KernelBell

# Links; then addresses, routes and policy rules of IPv4, and of IPv6.
_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x40000

# linux/netlink.h and linux/rtnetlink.h, in the machine's own byte order
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, two prefix lengths, …, flags
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_NLM_F_REQUEST = 1
_RTM_F_FIB_MATCH = 0x2000
_RTNH_F_DEAD_OR_LINKDOWN = 0x1 | 0x10
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH, _RTA_VIA = 1, 2, 4, 5, 9, 18
_PATH_ATTRIBUTES = {_RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH, _RTA_VIA}
_KERNEL_ANSWERS_WITHIN_S = 1.0


class Path(NamedTuple):
    """How packets to an address leave this machine. When it changes, old connections hang."""

    source: str
    """The source address."""
    route: tuple[tuple[int, bytes], ...] = ()
    """Interface and gateway as the kernel names them; empty: it could not be asked."""


def path(address: Address) -> Path | None:
    """Ask the kernel for the path to an address; ``None``: there is none. Sends no packet.

    A query that fails for another reason counts as a path: only the kernel can say that there is
    none.
    """
    try:
        with socket.socket(address.family, socket.SOCK_DGRAM) as query:
            query.connect(address.sockaddr)
            source = str(query.getsockname()[0])
    except OSError as error:
        return None if error.errno in NO_ROUTE else Path("")
    try:
        flags, route = _matching_route(address, source)
    except OSError:
        return Path(source)
    return None if flags & _RTNH_F_DEAD_OR_LINKDOWN else Path(source, route)


def _matching_route(address: Address, source: str) -> tuple[int, tuple[tuple[int, bytes], ...]]:
    """The flags of the route that the kernel would use, and its interface and gateway."""
    ends = [
        (kind, socket.inet_pton(address.family, host.partition("%")[0]))
        for kind, host in ((_RTA_DST, address.sockaddr[0]), (_RTA_SRC, source))
    ]
    if address.family == socket.AF_INET6 and (scope := address.sockaddr[3]):
        ends.append((_RTA_OIF, struct.pack("=I", scope)))
    bits = 8 * len(ends[0][1])
    message = _ROUTE.pack(address.family, bits, bits, 0, 0, 0, 0, 0, _RTM_F_FIB_MATCH) + b"".join(
        _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value for kind, value in ends
    )
    header = _HEADER.pack(_HEADER.size + len(message), _RTM_GETROUTE, _NLM_F_REQUEST, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as query:
        query.settimeout(_KERNEL_ANSWERS_WITHIN_S)
        query.send(header + message)
        answer = query.recv(65536)
    length, kind = _HEADER.unpack_from(answer)[:2]
    if kind != _RTM_NEWROUTE:
        raise OSError(errno.EPROTO, "no route in the kernel's answer")
    flags: int = _ROUTE.unpack_from(answer, _HEADER.size)[-1]
    attributes = []
    at = _HEADER.size + _ROUTE.size
    while at + _ATTRIBUTE.size <= length:
        size, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind in _PATH_ATTRIBUTES:
            attributes.append((kind, answer[at + _ATTRIBUTE.size : at + size]))
        at += max(_ATTRIBUTE.size, (size + 3) & ~3)
    return flags, tuple(attributes)


def route_bell() -> KernelBell:
    """A bell that the kernel rings when links, addresses, routes or policy rules change."""
    return KernelBell(socket.NETLINK_ROUTE, _GROUPS, "links and routes", "probing only")
