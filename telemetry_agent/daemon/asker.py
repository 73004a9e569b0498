"""One conversation over the control socket, and who is at its other end."""

import contextlib
import json
import os
import select
import socket
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from telemetry_agent.clock import Clock
from telemetry_agent.errors import UsageError
from telemetry_agent.tasks import Bell

_QUESTION_S = 10.0
_QUESTION_BYTES = 64 * 1024
_SEND_S = 60.0

_SO_PEERGROUPS = 59  # asm-generic/socket.h
_PEER_GROUPS_BYTES = 1024  # the most that Python asks for: 256 groups
_NOBODY = 65534  # in a user namespace, everybody whom it does not know


class GoneError(Exception):
    """The asker has left, or the daemon stops."""


class Asker:
    """One conversation, for the thread that leads it; any thread may dismiss the asker."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self.trusted = _is_trusted(sock)
        self.bell = _AskersBell(sock)
        self._sock = sock
        self._clock = clock
        self._sock.settimeout(_SEND_S)

    def listen(self) -> dict[str, Any]:
        """The question.

        Raises:
            UsageError: it is none.
        """
        deadline_s = self._clock.monotonic_s() + _QUESTION_S
        line = b""
        try:
            while b"\n" not in line and len(line) <= _QUESTION_BYTES:
                left_s = deadline_s - self._clock.monotonic_s()
                self._sock.settimeout(max(left_s, 0.001))
                data = self._sock.recv(4096)
                if not data:
                    raise GoneError
                line += data
        except OSError as error:
            raise GoneError from error
        self._sock.settimeout(_SEND_S)
        try:
            question = json.loads(line.partition(b"\n")[0])
        except (ValueError, RecursionError) as error:
            raise UsageError("one line with a JSON object is needed") from error
        if not isinstance(question, dict) or not isinstance(question.get("ask"), str):
            raise UsageError('a JSON object with "ask" is needed')
        return question

    def say(self, answer: Mapping[str, Any]) -> None:
        """Send a line.

        Raises:
            GoneError: the asker does not read it.
        """
        try:
            self._sock.sendall(json.dumps(answer).encode() + b"\n")
        except OSError as error:
            raise GoneError from error

    def dismiss(self) -> None:
        """End the conversation: whatever it waits for ends now."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self.bell.ring()

    def close(self) -> None:
        """End of the conversation, by the thread that led it."""
        self._sock.close()


class _AskersBell(Bell):
    """A bell whose wait ends, by GoneError, when the asker leaves."""

    def __init__(self, asker: socket.socket) -> None:
        super().__init__()
        self._asker = asker

    def wait(
        self, timeout_s: float | None, watched: Iterable[tuple[int, int]] = ()
    ) -> dict[int, int]:
        ready = super().wait(timeout_s, [*watched, (self._asker.fileno(), select.POLLRDHUP)])
        if self._asker.fileno() in ready:
            raise GoneError
        return ready


def _is_trusted(sock: socket.socket) -> bool:
    """Whether root, or the user or the group of this process, is at the other end."""
    _, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid in {0, os.geteuid()} - {_NOBODY}:
        return True
    try:
        # Not from /proc: a service is often kept from seeing the processes of others there.
        listed = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _PEER_GROUPS_BYTES)
    except OSError:
        listed = b""
    groups = {gid, *struct.unpack(f"{len(listed) // 4}I", listed)}
    return os.getegid() in groups - {_NOBODY}
