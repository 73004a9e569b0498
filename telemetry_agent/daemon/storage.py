"""Where the queue is: in the state directory, or in the runtime directory while that refuses.

A worn card turns read-only, and a state directory on a mount may come late. The service records
into its runtime directory then, which is memory, and goes back as soon as the state directory takes
files again. What was left in the runtime directory is delivered beside the queue.
"""

import errno
import os
from dataclasses import replace
from pathlib import Path

from telemetry_agent.ackqueue.file.schema import make_directories
from telemetry_agent.config.settings import QueueSettings
from telemetry_agent.disks import mount_of, trouble
from telemetry_agent.errors import StorageError
from telemetry_agent.snapshot import StorageView

_RUNTIME_BYTES = 16 << 20
_REFUSALS = {*(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO), *(errno.ENOENT, errno.ENOTDIR)}


def refusal(folder: Path) -> str | None:
    """Why no file can be made in that folder; ``None``: it can, or is only full."""
    try:
        # A file without a name. The flags of the mount do not tell of every read-only file system.
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if error.errno in _REFUSALS:
            return (error.strerror or "it cannot be used").lower()
    return None


def runtime_queue() -> Path | None:
    """The queue in the runtime directory; ``None`` without a service manager."""
    folder = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(folder, "queue.db") if folder else None


def place(queue: QueueSettings) -> tuple[QueueSettings, StorageView | None]:
    """The settings of the queue to be opened, and what is wrong with where it is."""
    folder, elsewhere = queue.path.parent, runtime_queue()
    if elsewhere is not None:
        try:
            make_directories(queue.path)
            refused = refusal(folder)
        except StorageError as error:
            refused = error.message
        if refused is not None:
            moved = replace(queue, path=elsewhere, max_size_bytes=_RUNTIME_BYTES, min_free_bytes=0)
            return moved, StorageView(
                "runtime",
                f"{folder}: {refused}; recording into {elsewhere.parent}, at most 16 MiB, and a "
                "power cut loses everything",
                f"check the disk (`dmesg`), `sudo mount -o remount,rw {folder}`",
            )
    mount = mount_of(folder.resolve()) if folder.exists() else None
    found = None if mount is None else trouble(mount)
    if mount is None or found is None:
        return queue, None
    said = f"{folder} is on {mount.kind} ({mount.point}), {found.message}"
    return queue, StorageView("forgets", said, found.remedy)
