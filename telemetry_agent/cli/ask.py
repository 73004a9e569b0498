"""How a command gets its answers: from the running agent, or from the queue where none runs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from telemetry_agent.cli.ownership import become_owner
from telemetry_agent.daemon import client
from telemetry_agent.errors import AgentError, StorageError
from telemetry_agent.tasks import Bell


def ask(queue_path: Path, question: Mapping[str, Any], *, for_good: bool = True) -> client.Answers:
    """Ask the running agent about its queue; where none runs, open the queue and look.

    ``for_good``: see ``become_owner``.

    Raises:
        AgentError: see ``client.ask`` and ``check_queue``.
    """
    try:
        yield from client.ask(queue_path, question)
    except client.NoAgentError:
        # SQLite and all that is not needed where an agent answers.
        from telemetry_agent.ackqueue.queue import AckQueue  # noqa: PLC0415
        from telemetry_agent.ackqueue.recovery.carry_over import carry_over  # noqa: PLC0415
        from telemetry_agent.daemon.commands import queue_commands  # noqa: PLC0415

        check_queue(queue_path, for_good=for_good)
        with AckQueue(queue_path) as queue:
            carry_over(queue)
            yield from queue_commands(queue)[question["ask"]].run(question, Bell())


def ask_to_verify(queue_path: Path) -> client.Answers:
    """The same for ``queue verify``. A queue at rest is only looked at: to open it may change it.

    Raises:
        AgentError: see ``client.ask`` and ``check_queue``.
    """
    try:
        yield from client.ask(queue_path, {"ask": "queue verify"})
    except client.NoAgentError:
        from telemetry_agent.ackqueue.file.lock import at_rest  # noqa: PLC0415 - as above
        from telemetry_agent.ackqueue.recovery.verify import verify_at_rest  # noqa: PLC0415 - as above

        check_queue(queue_path)
        with at_rest(queue_path):
            yield from verify_at_rest(queue_path)


def check_queue(path: Path, *, for_good: bool = True) -> None:
    """Whether there is a queue that this user may open. Root becomes the owner of its folder.

    Call it before the queue is opened.

    Raises:
        StorageError: there is none; opening would make one.
        AgentError: no permission.
    """
    try:
        path.stat()
    except PermissionError:
        pass
    except OSError:
        raise StorageError(f"there is no queue at {path}: nothing was recorded yet") from None
    was_root = os.geteuid() == 0
    become_owner(path.parent, for_good=for_good)
    if os.access(path, os.W_OK):
        return
    if was_root:
        raise AgentError(
            f"the owner of {path.parent} may not write {path}: "
            f"`sudo chown --reference={path.parent} {path}*`"
        )
    raise AgentError(
        f"only the agent's user may open {path}, the queue of an agent at rest: use sudo"
    )
