"""The queue of an agent that does not run: the one place where commands open it.

Looking changes nothing: no file is made, renamed or written, and no lock is taken that would keep
an agent from starting. A damaged queue is looked at in a private copy, which is treated as the
agent will treat the original when it starts.
"""

import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from telemetry_agent.ackqueue.file.lock import check_at_rest
from telemetry_agent.ackqueue.file.schema import PAGE_BYTES
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.reading import QueueReader, copied, readable
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.recovery.carry_over import carry_over
from telemetry_agent.ackqueue.recovery.verify import verify_at_rest
from telemetry_agent.ackqueue.recovery.wal import read_log
from telemetry_agent.ackqueue.row_states import State
from telemetry_agent.ackqueue.stats import QueueStats, Stored
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import Settings
from telemetry_agent.daemon import client
from telemetry_agent.daemon.commands import looking_commands, queue_commands
from telemetry_agent.daemon.ownership import become_owner
from telemetry_agent.errors import JOIN, AgentError, StorageError
from telemetry_agent.tasks import Bell

_LOOKING = {"queue stats", "queue list", "queue verify", "export"}

V = TypeVar("V")
Note = Callable[[str], object]
"""Takes a sentence about the queue, for the user."""


def answers(
    settings: Settings, question: Mapping[str, Any], note: Note, *, come_back: bool = False
) -> client.Answers:
    """Answer a question that no agent answers.

    Raises:
        NoAgentError: only a running agent can answer.
        AgentError: there is no queue, this user may not open it, or the command failed.
    """
    path, command = settings.queue.path, question["ask"]
    if command in _LOOKING:
        check(path, os.R_OK, come_back=come_back)
        if command == "queue verify":
            yield from _verify(path)
            return
        with closing(RestingQueue(path, note)) as queue:
            yield from looking_commands(queue)[command].run(question, Bell())
        return
    check(path, os.W_OK)
    # The answers say it all; the log is for a daemon.
    logging.getLogger("telemetry_agent").addHandler(logging.NullHandler())
    if command == "drain":
        from telemetry_agent.daemon.delivery import drain_at_rest  # noqa: PLC0415 - imports httpx

        yield from drain_at_rest(settings, Clock())
        return
    with AckQueue(path) as opened:
        carry_over(opened)
        known = queue_commands(opened)
        if command not in known:
            raise client.NoAgentError(f"no agent runs that could answer {command!r}")
        yield from known[command].run(question, Bell())


class RestingQueue:
    """What can be read of a queue at rest, whatever state it is in.

    Args:
        path: of the queue.
        note: called where the file is damaged.

    Raises:
        QueueLockedError: a process holds it: an agent that starts or stops.
        StorageError: not even a copy can be read.
    """

    def __init__(self, path: Path, note: Note) -> None:
        self._path = path
        self._note = note
        self._opened = ExitStack()
        self._reader: QueueReader | AckQueue
        check_at_rest(path)
        try:
            self._reader = self._read()
        except StorageError as error:
            self._reader = self._recover(error)

    def stats(self) -> QueueStats:
        """See ``AckQueue.stats``."""
        return self._asked(lambda reader: reader.stats())

    def newest_ms(self) -> int | None:
        """See ``AckQueue.newest_ms``."""
        return self._asked(lambda reader: reader.newest_ms())

    def stored(self, state: State | None = None) -> Iterator[Stored]:
        """See ``AckQueue.stored``. If a page is found damaged, the rest comes from a copy."""
        shown = 0
        try:
            for stored in self._reader.stored(state):
                shown += 1
                yield stored
        except StorageError as error:
            self._reader = self._recover(error)
            yield from islice(self._reader.stored(state), shown, None)

    def close(self) -> None:
        """Close what is read, and delete the copy."""
        self._opened.close()

    def _asked(self, question: Callable[[QueueReader | AckQueue], V]) -> V:
        try:
            return question(self._reader)
        except StorageError as error:
            self._reader = self._recover(error)
            return question(self._reader)

    def _read(self) -> QueueReader:
        path = self._path
        if waiting := set_aside_files.waiting_at_rest(path):
            raise StorageError(f"{waiting[0]} is still to be carried over")
        file = self._opened.enter_context(readable(path))
        try:
            log = read_log(set_aside_files.log_of(file), PAGE_BYTES)
            # Of such a log SQLite drops the end, or all; the agent takes what is whole in it.
            if log.frames and (log.taken < log.frames or file.stat().st_size < PAGE_BYTES):
                raise StorageError(f"the log of the queue {path} is damaged")
        except OSError as error:
            raise StorageError(f"cannot read the queue {path}: {error.strerror}") from error
        reader = self._opened.enter_context(closing(QueueReader(file)))
        if reader.damage is not None:
            raise StorageError(reader.damage.replace(str(file), str(path)))
        return reader

    def _recover(self, error: StorageError) -> AckQueue:
        """The queue as the agent will have it after its start."""
        if isinstance(getattr(self, "_reader", None), AckQueue):
            raise error
        self._opened.close()
        check_at_rest(self._path)  # an agent that has just started may have been read half-way
        path = self._opened.enter_context(copied(self._path))
        said = error.message.replace(str(path.parent), str(self._path.parent))
        self._note(
            f"{said}. What follows is what the agent recovers when it starts; nothing was changed"
        )
        logging.getLogger("telemetry_agent").addHandler(logging.NullHandler())
        queue = self._opened.enter_context(AckQueue(path))
        carry_over(queue)
        return queue


def _verify(path: Path) -> client.Answers:
    check_at_rest(path)
    with readable(path) as file:
        yield from verify_at_rest(path, file)


def check(path: Path, wanted: int, *, come_back: bool = False) -> None:
    """Whether there is a queue that this user may open. Root becomes the owner of its folder.

    Args:
        path: of the queue.
        wanted: ``os.R_OK`` or ``os.W_OK``.
        come_back: root needs to be root again; see ``ownership.root_again``.

    Raises:
        AgentError: there is none, or this user may not open it.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise StorageError(f"{path} is not a regular file")
    except PermissionError:
        pass
    except OSError:
        if not _was_set_aside(path):
            raise StorageError(f"there is no queue at {path}", "nothing was recorded yet") from None
    was_root = os.geteuid() == 0
    become_owner(path.parent, for_good=not come_back)
    if os.access(path, wanted) or (wanted == os.R_OK and _was_set_aside(path)):
        return
    if was_root:
        verb = "read" if wanted == os.R_OK else "write"
        files = " ".join(map(str, sorted(path.parent.glob(f"{path.name}*"))))
        raise AgentError(
            f"the owner of {path.parent} may not {verb} {path}",
            f"`sudo chown --reference={path.parent} {files}`",
        )
    raise AgentError(f"no permission to open {path}, the queue of an agent at rest", JOIN)


def _was_set_aside(path: Path) -> bool:
    """Whether the agent ended before there was a new file in the place of a damaged one."""
    with suppress(OSError, StorageError):
        return not path.exists() and bool(set_aside_files.waiting_at_rest(path))
    return False
