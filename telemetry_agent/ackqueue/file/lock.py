"""One process holds the queue: a lock file of its own beside the database.

Its own, because opening and closing the database file outside SQLite would drop the locks that
SQLite holds on it in this process. The kernel frees the lock when the holder dies, however it
dies, so the file is never removed and never stale.
"""

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from telemetry_agent.ackqueue.file.schema import place_of, storage_error
from telemetry_agent.ackqueue.row_states import StreamRun
from telemetry_agent.disks import mount_of
from telemetry_agent.errors import QueueLockedError


class QueueSummary(NamedTuple):
    """What is in a queue file, kept beside it for the case that the file is found empty."""

    clean: bool = True
    """The queue was closed."""
    oldest: int = 1
    """The oldest row that was to be delivered, or the one after the last."""
    last: int = 0
    """The last row."""
    away: bool = False
    """Older rows were in files that had been set aside; ``oldest`` does not speak of them."""
    run: StreamRun | None = None
    """The newest run of rows of one stream."""
    lost: int = 0
    """How many rows were dead letters, or had been lost to damage."""


UNKNOWN = QueueSummary()
"""The summary is missing or damaged."""


class QueueLock:
    """Holds ``PATH.lock`` from construction to ``release``; the file names the holder's pid."""

    def __init__(self, queue_path: Path) -> None:
        """Take the lock.

        Raises:
            QueueLockedError: Another process (or another queue in this one) holds it.
            StorageError: The lock file cannot be opened or locked.
        """
        self._queue_path = queue_path
        self._fd = _take(queue_path)
        self.last_summary = _read_summary(_lines(self._fd))
        """Of the last holder."""
        self.write_summary(self.last_summary)

    def write_summary(self, summary: QueueSummary) -> bool:
        """Write it below the pid. A power cut may undo that, unless it is ``clean``.

        Returns whether the disk accepted it.
        """
        text = f"{os.getpid()}\n"
        if summary is not UNKNOWN:
            line = json.dumps(summary)
            text += f"{crc32(line.encode())} {line}\n"
        with suppress(OSError):  # a full disk does not keep the agent from starting
            os.pwrite(self._fd, text.encode(), 0)
            os.ftruncate(self._fd, len(text))
            if summary.clean:
                os.fsync(self._fd)
            return True
        return False

    def retake(self) -> bool:
        """Take it again if the file was deleted, moved or replaced. Returns whether it was.

        Raises:
            QueueLockedError: Another process has taken it meanwhile.
            StorageError: The lock file cannot be opened or locked.
        """
        with suppress(OSError):  # to take it says why, where the disk refuses
            if os.path.samestat(lock_path(self._queue_path).stat(), os.fstat(self._fd)):
                return False
        fd = _take(self._queue_path)
        self.release()
        self._fd = fd
        return True

    def release(self) -> None:
        """Let the next process in."""
        with suppress(OSError):  # its disk is gone; it is closed all the same
            os.close(self._fd)


def check_at_rest(queue_path: Path) -> None:
    """Check that no process uses the queue. Takes no lock: it would keep an agent from starting.

    Raises:
        QueueLockedError: A process holds it.
    """
    path = lock_path(place_of(queue_path))
    try:
        place = b":%d" % path.stat().st_ino
        if (mount := mount_of(path.resolve())) is not None:  # unknown in a chroot
            major, minor = map(int, mount.device.split(":"))
            place = b"%02x:%02x%b" % (major, minor, place)
        locks = [line.split() for line in Path("/proc/locks").read_bytes().splitlines()]
        # N: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE …
        if not any(f[1] == b"FLOCK" and f[5].endswith(place) for f in locks if len(f) > 5):
            return
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        raise _in_use(
            queue_path, fd, "it may be an agent that starts or ends: try again in some seconds"
        )
    finally:
        os.close(fd)


def lock_path(queue_path: Path) -> Path:
    """Where the lock of a queue is."""
    return queue_path.with_name(queue_path.name + ".lock")


def _take(queue_path: Path) -> int:
    path = lock_path(queue_path)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise storage_error(f"cannot open the lock file {path}", error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        held = _in_use(queue_path, fd, "stop it first")
        os.close(fd)
        raise held from error
    except OSError as error:  # a network file system can be without locks
        os.close(fd)
        raise storage_error(f"cannot lock {path}", error) from error
    return fd


def _in_use(queue_path: Path, fd: int, remedy: str) -> QueueLockedError:
    pid = (_lines(fd) or ["unknown"])[0]
    return QueueLockedError(
        f"the queue {queue_path} is in use by the process with pid {pid}, "
        f"which holds {lock_path(queue_path)}",
        remedy,
    )


def _lines(fd: int) -> list[str]:
    try:
        return os.pread(fd, 200, 0).decode("ascii", "replace").splitlines()
    except OSError:
        return []


def _read_summary(lines: list[str]) -> QueueSummary:
    try:
        _, line = lines
        crc, _, text = line.partition(" ")
        if int(crc) != crc32(text.encode()):
            return UNKNOWN
        clean, oldest, last, away, run, lost = json.loads(text)
        return QueueSummary(clean, oldest, last, away, run and StreamRun(*run), lost)
    except (ValueError, TypeError):  # also that of another version
        return UNKNOWN
