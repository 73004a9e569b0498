"""The service's user owns the queue's folder and all files in it.

The agent could not open a file that root had created there. So a command that root runs becomes the
owner of the folder before it opens a queue at rest.
"""

import os
import stat
from pathlib import Path

_LINKS_MAX = 40  # as the kernel


def become_owner(folder: Path) -> None:
    """If root runs the command, become the user and the group of the folder's owner, for good.

    Raises:
        OSError: the owner cannot be found.
    """
    if os.geteuid() != 0:
        return
    owner = _owner(folder)
    if owner.st_uid == 0:
        return
    uid, gid = owner.st_uid, owner.st_gid
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _owner(folder: Path) -> os.stat_result:
    """The owner of the folder. Only a symlink of root is followed: others could point anywhere."""
    for _ in range(_LINKS_MAX):
        status = folder.lstat()
        if not stat.S_ISLNK(status.st_mode) or status.st_uid != 0:
            return status
        folder = folder.parent / folder.readlink()
    return folder.stat()  # raises: too many links
