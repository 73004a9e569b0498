"""The queue file that is in use, its lock, and how another file takes its place.

For the holder of the disk lock.
"""

import logging
from contextlib import suppress
from pathlib import Path

from telemetry_agent.ackqueue.file.lock import QueueLock, lock_path
from telemetry_agent.ackqueue.file.schema import (
    Connect,
    UnusableError,
    index_of,
    log_of,
    make_directories,
)
from telemetry_agent.ackqueue.file.store import Store
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.recovery.opening import open_file, say_set_aside
from telemetry_agent.errors import StorageError

log = logging.getLogger(__name__)


class QueueFile:
    """The file at one path, whichever it is now."""

    def __init__(self, path: Path, connect: Connect) -> None:
        """Take the lock, and open the file; see ``AckQueue``."""
        self._path = path
        self._connect = connect
        self._is_aside = False
        make_directories(path)
        self.lock = QueueLock(path)
        try:
            self._disk = path.parent.stat().st_dev
            self.store, self.loaded = open_file(path, connect, self.lock.last_summary)
        except BaseException:
            self.lock.release()
            raise
        self.damage: StorageError | None = None
        """Why the file is to be set aside: the disk has refused that so far."""
        self._inodes = self._inodes_now

    @property
    def is_covered(self) -> bool:
        """Whether the folder is on another disk now: one was mounted over this one, or it is gone.

        Then this file can still be used, but all names beside it lead to files of another queue.
        """
        with suppress(OSError):
            return self._path.parent.stat().st_dev != self._disk
        return False

    def set_aside(self, why: UnusableError) -> None:
        """Rename the file, and open a new one.

        Raises:
            StorageError: The disk refuses a step: it is full, or read-only. What is done stays
                done, and the next call begins at the step that is missing.
        """
        self.damage = why
        if self.is_covered:
            raise StorageError(f"{why}, and another disk is mounted over it")
        with suppress(StorageError):
            self.store.close()
        if not self._is_aside:
            say_set_aside(str(why), set_aside_files.move_away(self._path))
            self._is_aside = True
        self._open()
        self.damage, self._is_aside = None, False

    def retake_lock(self) -> bool:
        """Take the lock again if its file was deleted, moved or replaced. Returns whether it was.

        Raises:
            QueueLockedError: Another process uses the queue meanwhile.
            StorageError: The disk refuses.
        """
        make_directories(self._path)
        if retaken := self.lock.retake():
            _say_moved(lock_path(self._path))
        return retaken

    @property
    def is_in_place(self) -> bool:
        """Whether the file, its log and its index are still where they were made."""
        now = self._inodes_now
        if self.damage is None and not self._inodes.items() <= now.items():
            return False
        self._inodes = now
        return True

    def copy_aside(self) -> UnusableError:
        """Copy what is still open to where it would be if it had been set aside.

        What is in its place now and not ours is renamed, not deleted.

        Returns:
            Why ``set_aside`` is to be called now.

        Raises:
            StorageError: The disk refuses. The open file stays in use.
        """
        now = self._inodes_now.items()
        if theirs := [file for file, inode in now if self._inodes.get(file) != inode]:
            foreign = set_aside_files.put_by(self._path, theirs)
            log.error("what was in the place of %s is %s now", theirs[-1], foreign)
        self.store.copy_to(set_aside_files.next_to_wait(self._path))
        self._is_aside = True
        with suppress(OSError):  # what it cannot delete is opened again: it has the same rows
            set_aside_files.delete_empty(self._path)
        _say_moved(self._path)
        return UnusableError(f"the queue {self._path} is not in its place")

    @property
    def _inodes_now(self) -> dict[Path, int]:
        """Of the file, its log and its index, as far as they are there."""
        path = self._path
        inodes: dict[Path, int] = {}
        for file in (log_of(path), index_of(path), path):
            with suppress(OSError):
                inodes[file] = file.stat().st_ino
        return inodes

    def _open(self) -> None:
        self.store = Store(self._path, self._connect)
        self._inodes = self._inodes_now


def _say_moved(file: Path) -> None:
    log.error(
        "%s was deleted, moved or replaced while it was in use: it is written again",
        file,
        extra={"fields": {"STATE": "moved"}},
    )
