"""The commands' side of the control socket; ``control`` describes its protocol."""

import contextlib
import json
import os
import socket
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from telemetry_agent.errors import JOIN, AgentError, StorageError, UnavailableError, UsageError
from telemetry_agent.snapshot import PROTOCOL, other_protocol

_ANSWER_S = 60.0
_SUN_PATH_BYTES = 107
AGE_MAX_S = 50 * 365.25 * 86400
"""The oldest fix that a question may mean by its age: more is a number of another kind, such as a
UNIX time."""

Answers = Generator[dict[str, Any], None, None]
"""The answers of a command, ready for JSON."""

Note = Callable[[str], object]
"""Takes a sentence for the user."""


IN_THE_WAY = "remove it; an agent that runs makes its socket there within a minute"
"""The remedy for another file with the name of the socket."""
_MAY_BE_EMPTY = {"queue list", "queue newest", "export", "tap"}

answered: set[str] = set()
"""What an agent, perhaps of another version, has answered to this process."""


class NoAgentError(AgentError):
    """No agent listens on the control socket."""


def socket_path(queue_path: Path) -> Path:
    """The socket of an agent without a runtime directory."""
    return queue_path.with_name(queue_path.name + ".sock")


def service_socket() -> Path:
    """The socket of the service; every user can reach it."""
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(runtime or "/run/telemetry-agent", "control.sock")


@contextlib.contextmanager
def address(path: Path) -> Iterator[str]:
    """A name for ``bind`` and ``connect``; ``path`` may be too long for them."""
    if len(os.fsencode(path)) <= _SUN_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def ask(
    queue_path: Path | None,
    question: Mapping[str, Any],
    note: Note = lambda _text: None,
) -> Answers:
    """Ask the running agent.

    Args:
        queue_path: the queue that the config names; ``None``: ask the service, whatever its queue.
        question: as the control socket takes it.
        note: takes a sentence for the user if the agent speaks another version of the protocol.

    Raises:
        NoAgentError: none runs; nothing was asked.
        AgentError: the agent's error, with its exit status.
    """
    named = {} if queue_path is None else {"queue": str(queue_path)}
    try:
        yield from _ask(service_socket(), {**question, **named}, note)
    except NoAgentError:
        if queue_path is None:
            raise
        yield from _ask(socket_path(queue_path), question, note)


def _ask(path: Path, question: Mapping[str, Any], note: Note) -> Answers:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_ANSWER_S)
        _connect(sock, path)
        try:
            with contextlib.suppress(BrokenPipeError):  # it refused already: read its answer
                sock.sendall(json.dumps(question).encode() + b"\n")
            with sock.makefile("rb") as lines:
                for number, line in enumerate(lines):
                    sock.settimeout(None)
                    answer = dict(json.loads(line))
                    if question["ask"] != "status":  # a field of the snapshot, read with it
                        text = other_protocol(answer.pop("protocol", PROTOCOL))
                        if number == 0 and text is not None:
                            note(text)
                    if "end" in answer and (number or question["ask"] in _MAY_BE_EMPTY):
                        return
                    if "error" in answer:
                        raise _error(answer)
                    answered.add(question["ask"])
                    yield answer
        except TimeoutError as error:
            raise AgentError(f"the agent at {path} does not answer") from error
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise AgentError(f"the agent at {path} broke the connection: {error}") from error
    raise AgentError(f"the agent at {path} ended before the end of its answer")


def _connect(sock: socket.socket, path: Path) -> None:
    try:
        with address(path) as name:
            sock.connect(name)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        if path.is_symlink() or (path.exists() and not path.is_socket()):
            raise AgentError(
                f"{path} is not a socket: no agent can answer there", IN_THE_WAY
            ) from None
        raise NoAgentError(f"no agent listens on {path}") from error
    except OSError as error:
        remedy = JOIN if isinstance(error, PermissionError) else ""
        raise AgentError(f"cannot ask the agent at {path}: {error.strerror}", remedy) from error


def _error(answer: Mapping[str, Any]) -> AgentError:
    kinds: dict[object, type[AgentError]] = {
        kind.exit_status: kind for kind in (UsageError, UnavailableError, StorageError)
    }
    kind = kinds.get(answer.get("exit_status"), AgentError)
    if answer.get("other_queue"):
        kind = NoAgentError
    return kind(str(answer["error"]), str(answer.get("remedy", "")))
