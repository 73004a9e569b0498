"""One process holds the queue: a lock file of its own beside the database.

Its own, because opening and closing the database file outside SQLite would drop the locks that
SQLite holds on it in this process. The kernel frees the lock when the holder dies, however it
dies, so the file is never removed and never stale.
"""

import fcntl
import os
from pathlib import Path

from telemetry_agent.errors import QueueLockedError, StorageError


class QueueLock:
    """Holds ``PATH.lock`` from construction to ``release``; the file names the holder's pid."""

    def __init__(self, queue_path: Path) -> None:
        """Take the lock.

        Raises:
            QueueLockedError: Another process (or another queue in this one) holds it.
            StorageError: The lock file cannot be opened.
        """
        path = queue_path.with_name(queue_path.name + ".lock")
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StorageError(f"cannot open the lock file {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise QueueLockedError(
                f"the queue {queue_path} is in use by the process with pid {pid}, "
                f"which holds {path}: stop it first"
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._fd)
