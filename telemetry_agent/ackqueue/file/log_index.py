"""The index of the queue's log (``PATH-shm``) has room in all of it before SQLite uses it.

SQLite maps it into memory, where a write that finds no room ends the process (SIGBUS). SQLite makes
room by writing the last byte of each page. If the blocks of the disk are smaller than a page, the
rest of the page has none. On btrfs each write needs room, unless the file was made without
copy-on-write.

SQLite also cuts an index that no process uses, and then another program can take its room. So the
index is held here as if another process used it: by the lock that SQLite's ``os_unix.c`` calls the
dead man's switch.
"""

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path

from telemetry_agent.disks import allocate

_BYTES = 1 << 15  # for a log of 4,062 pages
_SET_FLAGS = 0x4000_6602 | struct.calcsize("l") << 16  # FS_IOC_SETFLAGS of linux/fs.h
_NO_COPY_ON_WRITE = 0x0080_0000
_DEAD_MANS_SWITCH = 128  # the place of its byte


def hold(index: Path, ballast: Path) -> int:
    """Make the index so that a full disk takes what is written to it.

    Args:
        index: Its path.
        ballast: A file to delete if the disk is full.

    Returns:
        A descriptor that holds it. ``let_go`` before SQLite closes the index, and close it
        afterwards: to close it earlier would drop the locks of SQLite on the file.

    Raises:
        OSError: The disk is full, or it refuses.
    """
    if not _is_readable(index):  # SQLite would map it, and the first look at it ends the process
        index.unlink(missing_ok=True)
    fd = os.open(index, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
    try:
        with suppress(OSError):  # its file system does not copy on write
            fcntl.ioctl(fd, _SET_FLAGS, struct.pack("i", _NO_COPY_ON_WRITE))
        if _take_lock(fd, fcntl.F_WRLCK):  # no other process uses it, so it is out of date
            os.ftruncate(fd, 0)
        try:
            allocate(fd, _BYTES)
        except OSError:
            ballast.unlink(missing_ok=True)  # kept for this: a start on a full disk
            allocate(fd, _BYTES)
        _take_lock(fd, fcntl.F_RDLCK)
    except BaseException:
        os.close(fd)
        raise
    return fd


def let_go(fd: int) -> None:
    """Give back the lock: SQLite 3.51 and newer leave the log where another process has it."""
    _take_lock(fd, fcntl.F_UNLCK)


def _take_lock(fd: int, kind: int) -> bool:
    """Change the lock, unless another process uses it or its file system has no such locks.

    The lock is one of the open file: SQLite does not see those of its own process.
    """
    place = struct.pack("hhqqi", kind, os.SEEK_SET, _DEAD_MANS_SWITCH, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, place)
    except OSError:
        return False
    return True


def _is_readable(file: Path) -> bool:
    """Whether the disk gives back all of ``file``, whose length may be anything."""
    try:
        if not file.is_file():  # a pipe would wait for its writer
            return True
        with file.open("rb", buffering=0) as opened:
            while opened.read(_BYTES):
                pass
    except OSError:
        return False
    return True
