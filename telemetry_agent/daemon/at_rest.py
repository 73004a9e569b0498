"""The queue of an agent that does not run: the one place where commands open it."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from telemetry_agent.ackqueue.file.lock import at_rest
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery.carry_over import carry_over
from telemetry_agent.ackqueue.recovery.verify import verify_at_rest
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import Settings
from telemetry_agent.daemon import client
from telemetry_agent.daemon.commands import queue_commands
from telemetry_agent.daemon.ownership import become_owner
from telemetry_agent.errors import AgentError, StorageError
from telemetry_agent.tasks import Bell


def answers(
    settings: Settings, question: Mapping[str, Any], *, come_back: bool = False
) -> client.Answers:
    """Answer a question that no agent answers.

    Raises:
        NoAgentError: only a running agent can answer.
        AgentError: there is no queue, this user may not open it, or the command failed.
    """
    path, command = settings.queue.path, question["ask"]
    if command == "queue verify":  # the only one that a queue does not have to be opened for
        _check(path, come_back=come_back)
        with at_rest(path):
            yield from verify_at_rest(path)
        return
    if command == "drain":
        from telemetry_agent.daemon.delivery import drain_at_rest  # noqa: PLC0415 - imports httpx

        _check(path, come_back=come_back)
        # The answers say it all; the log is for a daemon.
        logging.getLogger("telemetry_agent").addHandler(logging.NullHandler())
        yield from drain_at_rest(settings, Clock())
        return
    with look_at_queue(path, come_back=come_back) as queue:
        known = queue_commands(queue)
        if command not in known:
            raise client.NoAgentError(f"no agent runs that could answer {command!r}")
        yield from known[command].run(question, Bell())


@contextmanager
def look_at_queue(path: Path, *, come_back: bool = False) -> Iterator[AckQueue]:
    """Open the queue at rest. What a damaged file still holds is carried over first.

    Raises:
        AgentError: there is no queue, or this user may not open it.
    """
    _check(path, come_back=come_back)
    with AckQueue(path) as queue:
        carry_over(queue)
        yield queue


def _check(path: Path, *, come_back: bool) -> None:
    """Whether there is a queue that this user may open. Root becomes the owner of its folder."""
    try:
        path.stat()
    except PermissionError:
        pass
    except OSError:
        raise StorageError(f"there is no queue at {path}", "nothing was recorded yet") from None
    was_root = os.geteuid() == 0
    become_owner(path.parent, for_good=not come_back)
    if os.access(path, os.W_OK):
        return
    if was_root:
        raise AgentError(
            f"the owner of {path.parent} may not write {path}",
            f"`sudo chown --reference={path.parent} {path}*`",
        )
    raise AgentError(
        f"only the agent's user may open {path}, the queue of an agent at rest", "use sudo"
    )
