"""The control socket: how the commands talk to the running daemon.

``control.sock`` in the service's runtime directory, or ``QUEUE_PATH.sock`` where there is none, is
a Unix socket that everybody may connect to. The asker sends one line, a
JSON object such as ``{"ask": "queue list", "limit": 10}``, and gets JSON lines: the answers, then
``{"end": true}``, or ``{"error": TEXT, "remedy": TEXT, "exit_status": N}`` in place of what is
missing. The kernel says who asks. All but the public commands are for root and the service's user
and group.

Nothing that an asker does may disturb recording. So each has a thread of its own, there are at
most 16 of them (8 for strangers), a question must be there within 10 s and is at most 64 KiB, and
an answer that is not read for a minute ends the conversation. The task itself only accepts.
"""

import contextlib
import json
import logging
import math
import os
import select
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from telemetry_agent.clock import Clock
from telemetry_agent.daemon.client import Answers, address, service_socket, socket_path
from telemetry_agent.errors import JOIN, AgentError, UsageError
from telemetry_agent.tasks import Bell

log = logging.getLogger(__name__)

_ASKERS = 16
_STRANGERS = 8  # leaves room for the others
_LISTEN_AGAIN_S = 60.0
_ACCEPT_AGAIN_S = 1.0
_STEP_S = 60.0  # a sign of life for the watchdog
_QUESTION_S = 10.0
_QUESTION_BYTES = 64 * 1024
_SEND_S = 60.0

_SO_PEERGROUPS = 59  # asm-generic/socket.h
_PEER_GROUPS_BYTES = 1024  # the most that Python asks for: 256 groups
_NOBODY = 65534  # in a user namespace, everybody whom it does not know


def _finite(text: str) -> float:
    """A number of JSON: ``NaN``, ``Infinity`` and 1e999 are none."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a number")
    return number


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
            question = json.loads(
                line.partition(b"\n")[0], parse_float=_finite, parse_constant=_finite
            )
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


class Command(NamedTuple):
    """One thing that can be asked."""

    run: Callable[[Mapping[str, Any], Bell], Answers]
    """Takes what was asked, and a bell whose wait also ends (by raising) when the asker leaves."""
    public: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """Everybody on the machine may ask it, and gets what this makes of each answer."""


class Control:
    """The task that listens.

    Args:
        queue_path: the queue, whose lock this process holds: so a socket that is there already
            is the rest of a daemon that was killed.
        commands: what can be asked.
        clock: tells how long a question took.
    """

    name = "control"
    max_step_s = 2 * _STEP_S

    def __init__(self, queue_path: Path, commands: Mapping[str, Command], clock: Clock) -> None:
        self.bell = Bell()
        self._queue_path = queue_path
        # As the service: where everybody can reach it, also on a read-only disk.
        is_service = "RUNTIME_DIRECTORY" in os.environ
        self._path = service_socket() if is_service else socket_path(queue_path)
        self._commands = commands
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = False
        self._woken = Bell()
        self._listener: socket.socket | None = None
        self._askers: set[Asker] = set()
        self._failed = False

    def listen(self) -> bool:
        """Be there to be asked; ``step`` does it too, if need be. Returns whether that worked."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISSOCK(self._path.lstat().st_mode):
                    raise FileExistsError(0, "something else is there")
                self._path.unlink()
            with address(self._path) as name:
                listener.bind(name)
            self._path.chmod(0o666)  # who may ask what is decided by who asks
            listener.setblocking(False)
            listener.listen(_ASKERS)
        except OSError as error:
            listener.close()
            if not self._failed:
                self._failed = True
                log.warning(
                    "the commands cannot reach this agent: cannot listen on %s: %s",
                    self._path,
                    error.strerror or error,
                )
            return False
        self._listener = listener
        return True

    def step(self, now_s: float) -> float | None:  # noqa: ARG002 - the task's signature
        """Accept one asker, or listen if it does not yet."""
        if self._closed:
            return None
        if self._listener is None:
            return 0 if self.listen() else _LISTEN_AGAIN_S
        ready = self._woken.wait(_STEP_S, [(self._listener.fileno(), select.POLLIN)])
        self._woken.clear()
        if ready:
            try:
                self._welcome(self._listener.accept()[0])
            except OSError:  # it left again; or there are no descriptors, then there may be soon
                return _ACCEPT_AGAIN_S
        return 0

    def wake(self) -> None:
        """See ``Task.wake``."""
        self.bell.ring()
        self._woken.ring()

    def close(self) -> None:
        """Stop listening, and end every conversation."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            askers = list(self._askers)
        for asker in askers:
            asker.dismiss()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._listener.close()

    def _welcome(self, sock: socket.socket) -> None:
        asker = Asker(sock, self._clock)
        with self._lock:
            room = _ASKERS if asker.trusted else _STRANGERS
            welcome = not self._closed and len(self._askers) < room
            if welcome:
                self._askers.add(asker)
        if welcome:
            threading.Thread(
                target=self._converse, args=(asker,), name="control asker", daemon=True
            ).start()
        else:
            with contextlib.suppress(GoneError):
                asker.say({"error": "too many ask at once: try again later", "exit_status": 1})
            asker.close()

    def _converse(self, asker: Asker) -> None:
        try:
            asker.say(self._answer(asker))
        except GoneError:
            pass
        finally:
            with self._lock:
                self._askers.discard(asker)
            asker.close()

    def _answer(self, asker: Asker) -> dict[str, Any]:
        """Say all answers; returns the last."""
        try:
            question = asker.listen()
            command = self._commands.get(question.get("ask", ""))
            if command is None:
                raise UsageError(f"{question.get('ask')!r} cannot be asked here")  # noqa: TRY301
            if question.pop("queue", str(self._queue_path)) != str(self._queue_path):
                return {"error": "the service has another queue", "other_queue": True}
            if not asker.trusted and command.public is None:
                raise AgentError(  # noqa: TRY301 - told to the asker as any other
                    f"only root and the agent's user and group may ask for {question['ask']!r}",
                    JOIN,
                )
            with contextlib.closing(command.run(question, asker.bell)) as answers:
                for answer in answers:
                    hide = None if asker.trusted else command.public
                    asker.say(hide(answer) if hide else answer)
        except AgentError as error:
            return {
                "error": error.message,
                "remedy": error.remedy,
                "exit_status": error.exit_status,
            }
        except GoneError:
            raise
        except Exception:
            if self._closed:  # the queue was closed under the command
                raise GoneError from None
            log.exception("a command of the control socket failed")
            return {"error": "a fault of the agent: its log says more", "exit_status": 1}
        return {"end": True}


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
