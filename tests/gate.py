"""A relay between the agent and a server that can be shut, even in the middle of a request."""

import contextlib
import socket
import struct
import threading

from listening import Listening

_RST = struct.pack("ii", 1, 0)


class Gate(Listening):
    """A relay that forwards connections to ``port`` while it is open."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.up_bytes = 0
        self._to = port
        self._left: int | None = None
        self._loses_answer = False
        self._changed = threading.Condition()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self.is_open = True

    def aim_at(self, port: int) -> None:
        """Forward new connections to another port."""
        self._to = port

    def open(self, up_bytes: int | None = None, *, lose_answer: bool = False) -> None:
        """Let ``up_bytes`` from the agent through, then shut.

        ``lose_answer``: the server still gets the rest of the request; its answer is lost.
        """
        with self._changed:
            self.is_open, self._left, self._loses_answer = True, up_bytes, lose_answer

    def shut(self) -> None:
        """Cut every connection, and each new one immediately."""
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

    def hang_up(self) -> None:
        self.shut()

    def accepted(self, near: socket.socket) -> None:
        if not self.is_open:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
            near.close()
            return
        try:
            far = socket.create_connection(("127.0.0.1", self._to))
        except OSError:  # the server was killed
            near.close()
            return
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._changed:
            self._pairs.add((near, far))
            is_shut = not self.is_open  # it may have been shut meanwhile
        if is_shut:
            self.shut()
            return
        self.start(self._carry_up, near, far)
        self.start(self._carry_down, far, near)

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
