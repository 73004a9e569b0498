"""A link between two machines that delays IPv4 packets and drops IPv6 packets."""

import fcntl
import os
import select
import struct
import threading
import time
from collections import deque

from netns import Namespace

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_PACKET_BYTES = 65536


class FarAway:
    """A device ``far0`` in both machines, up and without addresses, until ``close``.

    All IPv4 packets arrive in order, ``one_way_s`` after they were sent, without a rate limit.
    """

    def __init__(self, near: Namespace, far: Namespace, one_way_s: float) -> None:
        self._one_way_s = one_way_s
        self._ends = tuple(where.inside(_tun) for where in (near, far))
        for where in (near, far):
            where.ip("link set far0 up")
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        os.close(self._stop)
        self._thread.join(60)
        for descriptor in (*self._ends, self._stopped):
            os.close(descriptor)

    def _run(self) -> None:
        under_way: deque[tuple[float, int, bytes]] = deque()
        others = dict(zip(self._ends, reversed(self._ends), strict=True))
        while True:
            wait_s = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
            ready, _, _ = select.select([*self._ends, self._stopped], [], [], wait_s)
            if self._stopped in ready:
                return
            for end in ready:
                packet = os.read(end, _PACKET_BYTES)
                if packet[0] >> 4 == 4:
                    under_way.append((time.monotonic() + self._one_way_s, others[end], packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, end, packet = under_way.popleft()
                os.write(end, packet)


def _tun() -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", b"far0", _IFF_TUN | _IFF_NO_PI))
    return descriptor
