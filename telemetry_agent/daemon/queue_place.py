"""The place of the queue: the state directory, or the runtime directory while that cannot be used.

A worn card turns read-only, and a state directory on a mount may come late. The service then
records into its runtime directory, which is memory, and returns as soon as the state directory
accepts files again. The fixes that are left in the runtime directory are delivered as well.
"""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from telemetry_agent.ackqueue.file.lock import lock_path
from telemetry_agent.ackqueue.file.schema import (
    index_of,
    journal_of,
    log_of,
    make_directories,
    place_of,
)
from telemetry_agent.ackqueue.limits.bounds import Limits
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.recovery.damaged_file import sample
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import QueueSettings
from telemetry_agent.disks import has_room, mount_of, trouble
from telemetry_agent.errors import Advice, AgentError, StorageError, counted
from telemetry_agent.snapshot import StorageView

log = logging.getLogger(__name__)

RUNTIME_BYTES = 16 << 20
_NEW_QUEUE_BYTES = 1 << 20
_AT_ONCE_S = 0.05  # longer than it takes to record the fixes of one read
_ELSEWHERE = "name another queue.path"
_AS_OWNER = f"run it as a user who may write there, or {_ELSEWHERE}"
_REFUSALS = {
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG),
}


def open_queue(queue: QueueSettings, clock: Clock) -> AckQueue:
    """Open the queue for this process.

    Raises:
        QueueLockedError: another process holds it.
        StorageError: it cannot be opened.
    """
    return AckQueue(
        queue.path,
        # The thread that reads never commits. With "0s" the committer does so at once: the fixes of
        # one read are one commit, and reading continues while the disk writes them.
        commit_every_s=queue.commit_every_s or _AT_ONCE_S,
        keep_delivered_s=queue.keep_delivered_s,
        limits=Limits(
            max_size_bytes=queue.max_size_bytes,
            min_free_bytes=queue.min_free_bytes,
            max_age_s=queue.max_age_s,
            when_full=queue.when_full,
        ),
        clock=clock,
    )


def why_unusable(queue_path: Path, *, needs_room: bool = False) -> Advice | None:
    """Why the queue cannot be used; ``None``: it can, or its disk is only full.

    ``needs_room``: a full disk is a reason too.
    """
    queue_path = place_of(queue_path)
    with suppress(OSError):  # the working directory may be gone
        queue_path = queue_path.absolute()
    try:
        # It creates a file without a name: a file system may be read-only without the mount's flag.
        os.close(os.open(queue_path.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if error.errno in _REFUSALS:
            remedy = _AS_OWNER if isinstance(error, PermissionError) else _ELSEWHERE
            return Advice(_said(error), remedy)
    try:
        # The files are not opened: closing one would drop the locks that SQLite has on it.
        files = (queue_path, log_of(queue_path), lock_path(queue_path))
        for file in (*files, index_of(queue_path), journal_of(queue_path)):
            # Through a symlink the agent would cut and write whatever file that leads to.
            if file.is_symlink() or (file.exists() and not file.is_file()):
                return Advice(f"{file}: not a regular file", f"move it away, or {_ELSEWHERE}")
        for file in files:
            if file.exists() and not os.access(file, os.R_OK | os.W_OK, effective_ids=True):
                return Advice(f"{file}: permission denied", _AS_OWNER)
        needs_room = needs_room or not queue_path.exists()
        if needs_room and not has_room(queue_path.parent, _NEW_QUEUE_BYTES):
            said = f"{queue_path.parent}: no space left for a new queue"
            return Advice(said, f"free 1 MiB there, or {_ELSEWHERE}")
    except OSError as error:  # the file system is damaged
        return Advice(_said(error), f"check the file system, or {_ELSEWHERE}")
    return None


def _said(error: OSError) -> str:
    return f"{error.filename}: {(error.strerror or 'it cannot be used').lower()}"


def runtime_queue() -> Path | None:
    """The queue in the runtime directory; ``None`` without a service manager."""
    folder = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(folder, "queue.db") if folder else None


def open_others(path: Path) -> Iterator[AckQueue]:
    """Open what is to be delivered beside the queue at ``path``.

    That is the queue in the runtime directory, and those that were put in the place of this one.
    """
    elsewhere = runtime_queue()
    files = [elsewhere] if elsewhere and elsewhere != path and elsewhere.exists() else []
    with suppress(StorageError):
        for file in set_aside_files.of_kind(path, "foreign"):
            with suppress(OSError):
                files += [file] if sample([file])[0] else []  # it has fixes
    for file in files:
        try:
            yield AckQueue(file)
        except AgentError as error:
            log.warning("%s", error)


def keep_in_runtime(queue: AckQueue) -> None:
    """Put what its disk refuses into the runtime directory, where the next start finds it."""
    elsewhere, refused = runtime_queue(), queue.disk_error()
    if elsewhere is None or elsewhere == queue.path or refused is None:
        return
    if not queue.stats().uncommitted:
        return
    try:
        with AckQueue(elsewhere, limits=Limits(max_size_bytes=RUNTIME_BYTES)) as kept:
            rows = queue.hand_over()
            kept.adopt(rows)
    except AgentError as error:  # it says what is lost, or the end of the other queue does
        log.warning("%s", error)
        return
    waiting = counted(len(rows), "fix is", "fixes are")
    said = "%s; %s kept in %s, where a shutdown or a power cut loses them"
    log.warning(said, refused, waiting, elsewhere)


def place(queue: QueueSettings) -> tuple[QueueSettings, StorageView | None]:
    """The settings of the queue to be opened, and what is wrong with its place.

    Raises:
        StorageError: it cannot be used, and there is no runtime directory.
    """
    queue = replace(queue, path=place_of(queue.path))
    try:
        make_directories(queue.path)
        refused = why_unusable(queue.path)
    except StorageError as error:
        refused = Advice(error.message)
    if refused is not None:
        return in_runtime(queue, refused)
    folder = queue.path.parent.resolve()
    mount = mount_of(folder)
    if mount is None or (found := trouble(mount)) is None:
        return queue, None
    message = f"{folder} is on {mount.kind} ({mount.point}), {found.message}"
    return queue, StorageView("forgets", message, found.remedy)


def in_runtime(queue: QueueSettings, refused: Advice) -> tuple[QueueSettings, StorageView]:
    """The same for the runtime directory; ``refused``: why the state directory cannot be used.

    Raises:
        StorageError: there is no runtime directory.
    """
    elsewhere = runtime_queue()
    if elsewhere is None:
        raise StorageError(f"cannot use the queue: {refused.message}", refused.remedy)
    message = (
        f"{refused.message}; recording into {elsewhere.parent}, at most 16 MiB, and a power cut "
        "loses everything"
    )
    remedy = "`sudo telemetry-agent doctor` shows what to do"
    moved = replace(queue, path=elsewhere, max_size_bytes=RUNTIME_BYTES, min_free_bytes=0)
    return moved, StorageView("runtime", message, remedy)
