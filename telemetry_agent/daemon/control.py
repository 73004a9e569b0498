"""The control socket: how the commands talk to the running daemon.

``control.sock`` in the service's runtime directory, or ``QUEUE_PATH.sock`` without one, is a Unix
socket that every user may connect to. The client sends one line, a JSON object such as ``{"ask":
"queue list", "limit": 10}``, and gets JSON lines: the answers, then ``{"end": true}``, or
``{"error": TEXT, "remedy": TEXT, "exit_status": N}`` in place of the missing answers. Each line
also has ``"protocol"``, the version of this JSON. The kernel reports the user of the client. Only
root and the service's user and group may ask commands that are not public.

A client must not disturb recording. So each has a thread of its own, there are at most 16 of them
(8 of other users), a question is at most 64 KiB, and the connection ends if it does not arrive
within 10 s, or if an answer is not read for a minute. The task itself only accepts.
"""

import contextlib
import json
import logging
import os
import select
import socket
import stat
import struct
import threading
from collections.abc import Callable, Container, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from telemetry_agent.clock import Clock
from telemetry_agent.daemon.client import IN_THE_WAY, Answers, address, service_socket, socket_path
from telemetry_agent.errors import JOIN, AgentError, UsageError
from telemetry_agent.snapshot import PROTOCOL
from telemetry_agent.tasks import Bell, Task, started
from telemetry_agent.trouble import Trouble

log = logging.getLogger(__name__)

_CLIENTS = 16
_STRANGERS = 8  # the others are for root and the service's user and group
_LISTEN_AGAIN_S = 60.0
_ACCEPT_AGAIN_S = 1.0
_STEP_S = 60.0  # the watchdog needs a sign of life
_QUESTION_S = 10.0
_QUESTION_BYTES = 64 * 1024
_SEND_S = 60.0

_SO_PEERGROUPS = 59  # asm-generic/socket.h
_PEER_GROUPS_BYTES = 1024  # the most that Python asks for: 256 groups
_NOBODY = 65534  # in a user namespace: every user whom it does not know


class GoneError(Exception):
    """The client has left, or the daemon stops."""


class Client(Bell):
    """One connection, for the thread of this client. Its wait raises GoneError if it leaves."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self.trusted = _is_trusted(sock)
        self._sock = sock

    def wait(
        self, timeout_s: float | None, watched: Iterable[tuple[int, int]] = ()
    ) -> dict[int, int]:
        """As ``Bell.wait``."""
        # 0: POLLHUP alone. A client that closes its own side only, as socat does, still reads.
        ready = super().wait(timeout_s, [*watched, (self._sock.fileno(), 0)])
        if self._sock.fileno() in ready:
            raise GoneError
        return ready

    def question(self) -> dict[str, Any]:
        """Wait for the question.

        Raises:
            UsageError: it is not a JSON object with ``ask``.
            GoneError: it does not come.
        """
        clock, line = Clock(), b""
        until_s = clock.monotonic_s() + _QUESTION_S  # of the whole: byte by byte it would last
        try:
            while b"\n" not in line and len(line) <= _QUESTION_BYTES:
                self._sock.settimeout(max(until_s - clock.monotonic_s(), 0.001))
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

    def send(self, answer: Mapping[str, Any]) -> None:
        """Send one answer; raises GoneError if the client does not read it."""
        try:
            line = json.dumps({"protocol": PROTOCOL, **answer})
            self._sock.sendall(line.encode() + b"\n")
        except OSError as error:
            raise GoneError from error

    def abort(self) -> None:
        """End the connection, and every wait for it. Any thread may call this."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


Command = Callable[[Mapping[str, Any], Bell], Answers]
"""Takes the question, and a bell whose wait raises when the client leaves."""
PUBLIC = {"status", "queue stats"}
"""What every user of the machine may ask; others than the service's own get ``for_strangers``."""


def for_strangers(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer without errors and reasons: they may quote the endpoint, a path or the config."""
    without = {
        name: for_strangers(value) if isinstance(value, dict) else value
        for name, value in answer.items()
        if name not in {"last_error", "backlog_error"}
    }
    if "dead_letters" in answer:
        total = sum(answer["dead_letters"].values())
        without["dead_letters"] = {"refused": total} if total else {}
    return without


class Control(Task):
    """The task that listens.

    Args:
        queue_path: the queue. This process holds its lock, so a socket that exists already was left
            by a daemon that was killed.
        commands: the commands by their names.
        later: the queues of later configs, which count from the next start on.
    """

    max_step_s = 2 * _STEP_S

    def __init__(
        self, queue_path: Path, commands: Mapping[str, Command], later: Container[str] = ()
    ) -> None:
        self.bell = Bell()
        self._queue_path = queue_path
        # The service's socket is where every user can reach it, and not on a read-only disk.
        is_service = "RUNTIME_DIRECTORY" in os.environ
        self._path = service_socket() if is_service else socket_path(queue_path)
        self._commands = commands
        self._later = later
        self._lock = threading.Lock()
        self._closed = False
        self._listener: socket.socket | None = None
        self._clients: set[Client] = set()
        self._trouble = Trouble(log, Clock())

    def listen(self) -> bool:
        """Listen. Returns whether that worked; if not, ``step`` tries again."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISSOCK(self._path.lstat().st_mode):
                    raise FileExistsError(0, f"another file has this name: {IN_THE_WAY}")
                self._path.unlink()
            with address(self._path) as name:
                listener.bind(name)
            self._path.chmod(0o666)  # each command decides by the user of the client
            listener.setblocking(False)
            listener.listen(_CLIENTS)
        except OSError as error:
            listener.close()
            self._trouble.failed(
                "the commands cannot reach this agent: cannot listen on "
                f"{self._path}: {error.strerror or error}"
            )
            return False
        self._trouble.over("the commands reach this agent again")
        self._listener = listener
        return True

    def step(self, now_s: float) -> float | None:  # noqa: ARG002 - the task's signature
        """Accept one client, or listen if it does not yet."""
        if self._closed:
            return None
        if self._listener is None:
            return 0 if self.listen() else _LISTEN_AGAIN_S
        if self.bell.wait(_STEP_S, [(self._listener.fileno(), select.POLLIN)]):
            try:
                self._accept(self._listener.accept()[0])
            except OSError:  # the client has left, or the process has no descriptor left for it
                return _ACCEPT_AGAIN_S
        elif not self._path.exists():  # somebody has deleted it
            self._listener.close()
            self._listener = None
        return 0

    def close(self) -> None:
        """Stop listening, and end every connection."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            clients = list(self._clients)
        for client in clients:
            client.abort()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._listener.close()

    def _accept(self, sock: socket.socket) -> None:
        client = Client(sock)
        with self._lock:
            room = _CLIENTS if client.trusted else _STRANGERS
            is_accepted = not self._closed and len(self._clients) < room
            if is_accepted:
                self._clients.add(client)
        why = "too many clients at once"
        if is_accepted:
            if started(partial(self._serve, client), "control client"):
                return
            why = "the system refuses the agent a thread"
        with contextlib.suppress(GoneError):
            client.send({"error": f"{why}: try again later", "exit_status": 1})
        self._forget(client)

    def _serve(self, client: Client) -> None:
        try:
            with contextlib.suppress(GoneError):
                client.send(self._answer(client))
        finally:
            self._forget(client)

    def _forget(self, client: Client) -> None:
        with self._lock:
            self._clients.discard(client)
        client.close()

    def _answer(self, client: Client) -> dict[str, Any]:
        """Send all answers but the last, and return that."""
        try:
            question = client.question()
            command = self._commands.get(question["ask"])
            if command is None:
                raise UsageError(f"{question['ask']!r} cannot be asked here")  # noqa: TRY301
            asked = str(question.pop("queue", self._queue_path))
            if asked != str(self._queue_path) and asked not in self._later:
                return {"error": "the service has another queue", "other_queue": True}
            if not client.trusted and question["ask"] not in PUBLIC:
                raise AgentError(  # noqa: TRY301 - sent to the client as any other
                    f"only root and the agent's user and group may ask for {question['ask']!r}",
                    JOIN,
                )
            with contextlib.closing(command(question, client)) as answers:
                for answer in answers:
                    client.send(answer if client.trusted else for_strangers(answer))
        except AgentError as error:
            return {
                "error": error.message,
                "remedy": error.remedy,
                "exit_status": error.exit_status,
            }
        except GoneError:
            raise
        except Exception:
            if self._closed:  # the queue was closed while the command ran
                raise GoneError from None
            log.exception("a command of the control socket failed")
            return {"error": "a fault of the agent: see its log", "exit_status": 1}
        return {"end": True}


def _is_trusted(sock: socket.socket) -> bool:
    """Whether the client belongs to root, or to the user or the group of this process."""
    _, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid in {0, os.geteuid()} - {_NOBODY}:
        return True
    try:
        # Not from /proc: a service often cannot see the processes of other users there.
        listed = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _PEER_GROUPS_BYTES)
    except OSError:
        listed = b""
    groups = {gid, *struct.unpack(f"{len(listed) // 4}I", listed)}
    return os.getegid() in groups - {_NOBODY}
