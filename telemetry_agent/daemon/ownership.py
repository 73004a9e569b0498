"""The queue's folder belongs to the service's user, and so does everything in it.

A file that root left there would keep the agent out of its own queue. So a command that root calls
becomes the owner of the folder before it opens a queue at rest.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LINKS_MAX = 40  # as the kernel


def become_owner(folder: Path, *, for_good: bool = True) -> None:
    """Where root calls: take the user and the group of the folder's owner.

    Args:
        folder: the queue's.
        for_good: there is no way back; else ``root_again`` is one.

    Raises:
        OSError: the folder cannot be looked at.
    """
    if os.geteuid() != 0:
        return
    owner = _owner(folder)
    if owner.st_uid == 0:
        return
    uid, gid = owner.st_uid, owner.st_gid
    os.setgroups([])
    os.setresgid(gid, gid, gid if for_good else 0)
    os.setresuid(uid, uid, uid if for_good else 0)


@contextmanager
def root_again() -> Iterator[None]:
    """In the block, and after ``become_owner(for_good=False)``: root, as before."""
    uid, gid = os.geteuid(), os.getegid()
    is_back = uid != 0 and os.getresuid()[2] == 0
    if is_back:
        os.seteuid(0)
        os.setegid(0)
    try:
        yield
    finally:
        if is_back:
            os.setegid(gid)
            os.seteuid(uid)


def _owner(folder: Path) -> os.stat_result:
    """The folder's owner. Whoever made a symlink chose where it leads: only root's is followed."""
    for _ in range(_LINKS_MAX):
        status = folder.lstat()
        if not stat.S_ISLNK(status.st_mode) or status.st_uid != 0:
            return status
        folder = folder.parent / folder.readlink()
    return folder.stat()  # raises: too many links
