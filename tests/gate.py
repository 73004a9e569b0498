"""A way between the agent and a server that can be shut, also in the middle of a request."""

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Self

_RST = struct.pack("ii", 1, 0)


class Gate:
    """Passes connections on to ``port`` while it is open."""

    def __init__(self, port: int) -> None:
        self.up_bytes = 0
        self._to = port
        self._left: int | None = None
        self._loses_answer = False
        self._changed = threading.Condition()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._threads: list[threading.Thread] = []
        self._ending = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port: int = self._listener.getsockname()[1]
        self.is_open = True

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.shut()
        for thread in self._threads:
            thread.join(60)

    def aim_at(self, port: int) -> None:
        """Pass new connections on to another port."""
        self._to = port

    def open(self, up_bytes: int | None = None, *, lose_answer: bool = False) -> None:
        """Let through so many bytes from the agent, then shut.

        ``lose_answer``: the server still gets the rest of the request; its answer is lost.
        """
        with self._changed:
            self.is_open, self._left, self._loses_answer = True, up_bytes, lose_answer

    def shut(self) -> None:
        """Cut every connection, and each new one at once."""
        with self._changed:
            self.is_open = False
            pairs, self._pairs = self._pairs, set()
            self._changed.notify_all()
        for sock in (end for pair in pairs for end in pair):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def wait_until_shut(self, limit_s: float = 60) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: not self.is_open, limit_s)

    def _start(self, *call: object) -> None:
        thread = threading.Thread(target=call[0], args=call[1:], daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ending:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self.is_open:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:  # the server is killed
                near.close()
                continue
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                self._pairs.add((near, far))
                is_shut = not self.is_open  # meanwhile
            if is_shut:
                self.shut()
                continue
            self._start(self._carry_up, near, far)
            self._start(self._carry_down, far, near)

    def _carry_up(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.up_bytes += len(data)
                over = False
                with self._changed:
                    if self._left is not None:
                        self._left -= len(data)
                        over = self._left < 0 and not self._loses_answer
                if over:
                    target.sendall(data[: len(data) // 2])
                    self.shut()
                    return
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def _carry_down(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self._loses_answer and self._left is not None and self._left < 0:
                    self.shut()
                    return
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
