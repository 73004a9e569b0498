"""The queue of an agent that does not run: the one place where commands open it.

A command that only looks does not create, rename or write a file, and takes no lock that would
keep an agent from starting. If the queue is damaged, the command reads a private copy, which is
recovered in the same way as the agent will recover the original when it starts.

The service's user owns the queue's folder and all files in it, and could not open a file that root
had created there. So a command that root runs becomes the owner of the folder.
"""

import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from telemetry_agent.ackqueue.file.lock import check_at_rest
from telemetry_agent.ackqueue.file.schema import UnusableError, place_of
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.reading import QueueReader, copied, readable
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.recovery.carry_over import carry_over
from telemetry_agent.ackqueue.recovery.verify import verify_at_rest
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import Settings
from telemetry_agent.daemon import client
from telemetry_agent.daemon.commands import Readable, TrackRules, looking, queue_commands
from telemetry_agent.errors import JOIN, AgentError, StorageError, in_shell
from telemetry_agent.tasks import Bell

_LINKS_MAX = 40  # as the kernel

V = TypeVar("V")


def answers(settings: Settings, question: Mapping[str, Any], note: client.Note) -> client.Answers:
    """Answer a question about the queue that no agent answers.

    Raises:
        AgentError: the queue does not exist, this user may not open it, or the command failed.
    """
    path, command = settings.queue.path, question["ask"]
    looks = looking(lambda: TrackRules.of(settings.sampling))
    if command in looks or command == "queue verify":
        check(path, os.R_OK, as_owner=command != "export")  # its file is the caller's
        if command == "queue verify":
            check_at_rest(path := place_of(path))
            with readable(path) as file:
                yield from verify_at_rest(path, file)
            return
        yield from look(path, note, lambda queue: looks[command](queue, question))
        return
    check(path, os.W_OK)
    _silence_log()
    if command == "drain":
        from telemetry_agent.daemon.delivery import drain_at_rest  # noqa: PLC0415 - imports httpx

        yield from drain_at_rest(settings, Clock())
        return
    with AckQueue(path) as opened:
        carry_over(opened)
        yield from queue_commands(opened)[command](question, Bell())


def look(path: Path, note: client.Note, answer: Callable[[Readable], Iterator[V]]) -> Iterator[V]:
    """What ``answer`` yields for the queue at rest.

    If the file turns out to be damaged, ``note`` is called, and ``answer`` is called again with a
    copy that was recovered, and continues after what it has already yielded.

    Raises:
        QueueLockedError: a process holds it: an agent that starts or stops.
        StorageError: not even a copy can be read.
    """
    check_at_rest(path := place_of(path))
    count = 0
    try:
        with _in_place(path) as reader:
            for found in answer(reader):
                count += 1
                yield found
    except StorageError as error:
        damage = error.message
    else:
        return
    check_at_rest(path)  # an agent that has just started may have been read half-way
    note(f"{damage}. What follows is what the agent recovers when it starts; nothing was changed")
    _silence_log()
    with copied(path) as copy, AckQueue(copy) as queue:
        for is_last in (False, True):
            carry_over(queue)
            try:
                for found in islice(answer(queue), count, None):
                    count += 1
                    yield found
            except UnusableError:  # only now it met the damage, and set the file aside
                if is_last:
                    raise
            else:
                return


@contextmanager
def _in_place(path: Path) -> Iterator[QueueReader]:
    """A reader of the queue; raises StorageError if the file is damaged."""
    if waiting := set_aside_files.waiting(path):
        raise StorageError(f"{waiting[0]} is still to be carried over")
    with readable(path) as file:
        try:
            with closing(QueueReader(file)) as reader:
                if reader.damage is not None:
                    raise StorageError(reader.damage)  # noqa: TRY301 - named below
                yield reader
        except StorageError as error:
            raise StorageError(error.message.replace(str(file), str(path))) from error
        except OSError as error:
            raise StorageError(f"cannot read the queue {path}: {error.strerror}") from error


def _silence_log() -> None:
    """Keep the log from standard error: the answers say it all."""
    logging.getLogger("telemetry_agent").addHandler(logging.NullHandler())


def check(path: Path, wanted: int, *, as_owner: bool = True) -> None:
    """Check that there is a queue, and that this user may open it: ``os.R_OK`` or ``os.W_OK``.

    Raises AgentError. ``as_owner``: see ``become_owner``.
    """
    with suppress(OSError):  # the working directory may be gone
        path = path.absolute()
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise StorageError(f"{path} is not a regular file")
    except PermissionError:
        pass
    except OSError as error:
        if not set_aside_files.left_at_rest(path):
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise StorageError(f"cannot open the queue {path}: {error.strerror}") from error
            raise AgentError(
                f"the queue {path} does not exist", "nothing was recorded yet"
            ) from None
    was_root = os.geteuid() == 0
    if as_owner:
        become_owner(path.parent)
    if all(os.access(file, wanted) for file in set_aside_files.left_at_rest(path) or [path]):
        return
    if wanted == os.W_OK and os.statvfs(path.parent).f_flag & os.ST_RDONLY:
        raise StorageError(
            f"the file system of {path} is read-only", "`sudo telemetry-agent doctor` shows why"
        )
    if was_root:
        verb = "read" if wanted == os.R_OK else "write"
        files = in_shell(*sorted(path.parent.glob(f"{path.name}*")))
        raise AgentError(
            f"the owner of {path.parent} may not {verb} {path}",
            f"`sudo chown --reference={in_shell(path.parent)} {files}`",
        )
    raise AgentError(f"no permission to open {path}, the queue of an agent at rest", JOIN)


def become_owner(folder: Path) -> None:
    """If root runs the command, become the user and the group of the folder's owner, for good.

    Raises:
        OSError: the owner cannot be found.
    """
    if os.geteuid() == 0 and (owner := _owner(folder)).st_uid != 0:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)


def _owner(folder: Path) -> os.stat_result:
    """The owner of the folder. Only a symlink of root is followed: others could point anywhere."""
    for _ in range(_LINKS_MAX):
        status = folder.lstat()
        if not stat.S_ISLNK(status.st_mode) or status.st_uid != 0:
            return status
        folder = folder.parent / folder.readlink()
    return folder.stat()  # raises: too many links
