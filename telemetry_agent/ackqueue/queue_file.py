"""The queue file that is in use, its lock, and how another file takes its place.

For the holder of the disk lock.
"""

import logging
from contextlib import suppress
from pathlib import Path

from telemetry_agent.ackqueue.file.lock import QueueLock, lock_path
from telemetry_agent.ackqueue.file.schema import Connect, UnusableError, make_directories
from telemetry_agent.ackqueue.file.store import Store
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.recovery.opening import open_queue, say_set_aside
from telemetry_agent.errors import StorageError

log = logging.getLogger(__name__)


class QueueFile:
    """The file at one path, whichever it is now."""

    def __init__(self, path: Path, connect: Connect) -> None:
        """Take the lock, and open the file; see ``AckQueue``."""
        self._path = path
        self._connect = connect
        self._is_aside = self._is_written_again = False
        self._limits: tuple[int, int] | None = None
        self._inodes: dict[Path, int] = {}
        self._copy_inode: int | None = None
        make_directories(path)
        self.lock = QueueLock(path)
        try:
            self.store, self.loaded = open_queue(path, connect, self.lock.last_summary)
        except BaseException:
            self.lock.release()
            raise
        self.damage: StorageError | None = None
        """Why the file is to be set aside: the disk has refused that so far."""
        self._is_in_place()

    def limit(self, size: int, log_size: int) -> None:
        """Limit the file, and each that takes its place; see ``Store.limit``."""
        if self._limits != (size, log_size):
            self.store.limit(size, log_size)
            self._limits = size, log_size

    def set_aside(self, why: UnusableError) -> None:
        """Rename the file, and open a new one.

        Raises:
            StorageError: The disk refuses a step: it is full, or read-only. What is done stays
                done, and the next call begins at the step that is missing.
        """
        self.damage = why
        with suppress(StorageError):
            self.store.close()
        if not self._is_aside:
            say_set_aside(str(why), set_aside_files.move_away(self._path))
            self._is_aside = True
        self._open()
        self.damage, self._is_aside = None, False

    def stay_in_place(self) -> bool:
        """Make again what somebody deleted, moved or replaced. Returns whether the lock was.

        Raises:
            QueueLockedError: Another process uses the queue meanwhile.
            StorageError: The disk refuses. The open files stay in use.
        """
        make_directories(self._path)
        if retaken := self.lock.retake():
            _say_moved(lock_path(self._path))
        if self.damage is None and not self._is_in_place():
            self._move_in()
            _say_moved(self._path)
        return retaken

    @property
    def _inodes_now(self) -> dict[Path, int]:
        """Of the file, its log and its index, as far as they are there."""
        path = self._path
        inodes: dict[Path, int] = {}
        for file in (set_aside_files.log_of(path), set_aside_files.index_of(path), path):
            if (inode := _inode(file)) is not None:
                inodes[file] = inode
        return inodes

    def _is_in_place(self) -> bool:
        """Whether the file, its log and its index are still where they were made."""
        now = self._inodes_now
        if not self._inodes.items() <= now.items():
            return False
        self._inodes = now
        return True

    def _move_in(self) -> None:
        """Make the file again from what is still open.

        What is at its place now is not ours: it is renamed, not deleted.
        """
        if not self._is_written_again:
            ours = self._copy_inode  # its rename was refused; it can be in either place
            # Before there is a copy: after a kill it is carried over into the file that is here.
            now = self._inodes_now.items()
            self._put_by([file for file, i in now if i not in {self._inodes.get(file), ours}])
            copy = set_aside_files.copy_of(self._path)
            if _inode(copy) not in {None, ours}:
                self._put_by([copy])
            self.store.copy_to(copy)
            self._copy_inode = _inode(copy)
            set_aside_files.put_in_place(self._path)
            self._copy_inode = None
            self._is_written_again = True
        # What is closed cannot be copied again. So it stays open until the copy is in its place,
        # and if that cannot be opened, only this is tried again.
        with suppress(StorageError):
            self.store.close()
        self._open()
        self._is_written_again = False

    def _put_by(self, others: list[Path]) -> None:
        if others:
            foreign = set_aside_files.put_by(self._path, others)
            log.error("what was in the place of %s is %s now", others[-1], foreign)

    def _open(self) -> None:
        self.store = Store(self._path, self._connect)
        if self._limits is not None:
            self.store.limit(*self._limits)
        self._inodes.clear()
        self._is_in_place()


def _inode(file: Path) -> int | None:
    with suppress(OSError):
        return file.stat().st_ino
    return None


def _say_moved(file: Path) -> None:
    log.error(
        "%s was deleted, moved or replaced while it was in use: it is written again",
        file,
        extra={"fields": {"STATE": "moved"}},
    )
