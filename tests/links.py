"""A link of a given speed between a client and a server on this machine."""

import collections
import contextlib
import select
import socket
import time

from listening import Listening

_CHUNK_BYTES = 1400  # payload of a packet


class Link(Listening):
    """A relay that forwards TCP connections to ``port`` and counts bytes.

    Each direction carries ``bits_per_s``. Data arrives ``delay_s`` later; a connect is not delayed.
    """

    def __init__(
        self, port: int, bits_per_s: float = float("inf"), *, delay_s: float = 0.0
    ) -> None:
        # A link buffers little data: the sender must not get ahead of it.
        super().__init__(receive_buffer_bytes=4096)
        self.up_bytes = 0
        self.down_bytes = 0
        self._to = port
        self._bytes_per_s = bits_per_s / 8
        self._delay_s = delay_s

    def accepted(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self._to))
        except OSError:
            near.close()
            return
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.start(self._carry, near, far, "up_bytes")
        self.start(self._carry, far, near, "down_bytes")

    def _carry(self, source: socket.socket, target: socket.socket, counter: str) -> None:
        free_at_s = 0.0
        under_way: collections.deque[tuple[float, bytes]] = collections.deque()
        with contextlib.suppress(OSError):
            while not self.stopping.is_set():
                due_in_s = under_way[0][0] - time.monotonic() if under_way else 0.2
                if select.select([source], [], [], max(0.0, min(due_in_s, 0.2)))[0]:
                    data = source.recv(_CHUNK_BYTES)
                    if not data:
                        break
                    free_at_s = max(free_at_s, time.monotonic()) + len(data) / self._bytes_per_s
                    if not self._delay_s:
                        self.stopping.wait(free_at_s - time.monotonic())
                    under_way.append((free_at_s + self._delay_s, data))
                while under_way and under_way[0][0] <= time.monotonic():
                    _, data = under_way.popleft()
                    target.sendall(data)
                    setattr(self, counter, getattr(self, counter) + len(data))
            for due_s, data in under_way:
                self.stopping.wait(max(0.0, due_s - time.monotonic()))
                target.sendall(data)
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
