"""The base of the tests' servers and relays: a context manager that accepts connections."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self


class Listening:
    """A listener on loopback that serves each connection in a thread."""

    def __init__(self, *, receive_buffer_bytes: int | None = None) -> None:
        self.stopping = threading.Event()
        self._stop, self.stopped = socket.socketpair()  # readable after the end
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket()
        if receive_buffer_bytes is not None:  # connections inherit it
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self.start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._stop.close()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        self.stopped.close()

    def accepted(self, sock: socket.socket) -> None:
        """Serve a connection; use ``start``, so that others can be accepted meanwhile."""
        raise NotImplementedError

    def hang_up(self) -> None:
        """Close every connection."""

    def start(self, target: Callable[..., None], *args: object) -> None:
        """Run this in a thread; the exit of the context waits for it."""
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.accepted(sock)
