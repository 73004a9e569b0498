"""A link of a given speed between a client and a server on this machine."""

import collections
import contextlib
import select
import socket
import threading
import time
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 1400  # what a packet carries


class Link:
    """Passes TCP connections on to ``port``, each direction at ``bits_per_s``, and counts.

    What is sent arrives ``delay_s`` later; connecting takes no longer.
    """

    def __init__(
        self, port: int, bits_per_s: float = float("inf"), *, delay_s: float = 0.0
    ) -> None:
        self.up_bytes = 0
        self.down_bytes = 0
        self._to = port
        self._bytes_per_s = bits_per_s / 8
        self._delay_s = delay_s
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket()
        # A link holds little of what is under way: the sender must not be ahead of it.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(60)

    def _start(self, *call: object) -> None:
        thread = threading.Thread(target=call[0], args=call[1:], daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start(self._carry, near, far, "up_bytes")
            self._start(self._carry, far, near, "down_bytes")

    def _carry(self, source: socket.socket, target: socket.socket, counter: str) -> None:
        free_at_s = 0.0
        under_way: collections.deque[tuple[float, bytes]] = collections.deque()
        with contextlib.suppress(OSError):
            while not self._stopping.is_set():
                due_in_s = under_way[0][0] - time.monotonic() if under_way else 0.2
                if select.select([source], [], [], max(0.0, min(due_in_s, 0.2)))[0]:
                    data = source.recv(_CHUNK_BYTES)
                    if not data:
                        break
                    free_at_s = max(free_at_s, time.monotonic()) + len(data) / self._bytes_per_s
                    if not self._delay_s:
                        self._stopping.wait(free_at_s - time.monotonic())
                    under_way.append((free_at_s + self._delay_s, data))
                while under_way and under_way[0][0] <= time.monotonic():
                    _, data = under_way.popleft()
                    target.sendall(data)
                    setattr(self, counter, getattr(self, counter) + len(data))
            for due_s, data in under_way:
                self._stopping.wait(max(0.0, due_s - time.monotonic()))
                target.sendall(data)
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
