"""Who runs the agent, and what that user may do.

The checks run as root most of the time, and root may do everything: so they judge by this user.
"""

import contextlib
import os
import pwd
import stat
import struct
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from telemetry_agent.config.files import DEFAULT_PATHS, queue_path
from telemetry_agent.errors import AgentError
from telemetry_agent.small_files import text_of

SERVICE_USER = "telemetry-agent"
HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108
"""What the unit's sandbox hides from the service (ProtectHome, PrivateTmp)."""
_USER, _OWN_GROUP, _GROUPS, _MASK = 2, 4, 12, 16  # linux/posix_acl.h


@dataclass(frozen=True)
class SystemUser:
    """A user with all groups."""

    name: str
    uid: int
    gids: frozenset[int]

    @classmethod
    def of(cls, uid: int) -> Self:
        """The account with this number."""
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return cls(f"uid {uid}", uid, frozenset())
        groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
        return cls(entry.pw_name, uid, frozenset(groups))

    @classmethod
    def running(cls, pid: int | None, otherwise: str) -> Self:
        """Who runs a process, or else the user of that name, or else of this process."""
        try:
            uid = (
                pwd.getpwnam(otherwise).pw_uid
                if pid is None
                else Path(f"/proc/{pid}").stat().st_uid
            )
        except (OSError, KeyError):
            uid = os.geteuid()
        account = cls.of(uid)
        # Its unit may give it groups that the user is not in (SupplementaryGroups=).
        _, _, shown = text_of(Path(f"/proc/{pid}/status")).partition("\nGroups:")
        return replace(account, gids=account.gids.union(map(int, shown.partition("\n")[0].split())))

    def may_write(self, path: Path) -> bool:
        """Whether it may read and write ``path`` (in a folder: make files).

        Raises:
            OSError: that cannot be found out.
        """
        return self.may(path, os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0))

    def blocked_at(self, path: Path) -> Path | None:
        """The folder above ``path``, or ``path``, that it may not read; ``None``: it may read all.

        Raises:
            OSError: that cannot be found out.
        """
        real = path.resolve()
        for folder in reversed(real.parents):
            if not self.may(folder, os.X_OK):
                return folder
        return None if self.may(real, os.R_OK) else path

    def may(self, path: Path, wanted: int) -> bool:
        """Whether it has all of these rights: any of ``os.R_OK | os.W_OK | os.X_OK``."""
        if self.uid == os.geteuid():
            return os.access(path, wanted, effective_ids=True)
        if self.uid == 0:
            return True
        status = path.stat()
        # As in the kernel, the first match decides: an owner gets no right of the group or others.
        if self.uid == status.st_uid:
            return status.st_mode >> 6 & wanted == wanted
        entries = _access_list(path, status)
        granted = [bits for tag, bits, uid in entries if tag == _USER and uid == self.uid]
        granted = granted or [
            bits for tag, bits, gid in entries if tag & _GROUPS and gid in self.gids
        ]
        if not granted:
            return status.st_mode & wanted == wanted
        mask = next((bits for tag, bits, _ in entries if tag == _MASK), 7)
        return any(bits & mask & wanted == wanted for bits in granted)


def _access_list(path: Path, status: os.stat_result) -> list[tuple[int, int, int]]:
    """The entries of ``setfacl``, or of the mode: tag, rights, and whose they are (man 5 acl)."""
    try:
        packed = os.getxattr(path, "system.posix_acl_access")
    except OSError:
        return [(_OWN_GROUP, status.st_mode >> 3 & 7, status.st_gid)]
    entries = struct.iter_unpack("<HHI", packed[4:])
    return [(tag, bits, status.st_gid if tag == _OWN_GROUP else who) for tag, bits, who in entries]


EVERYBODY = SystemUser("everybody", -1, frozenset())
"""A user that owns nothing."""


def become_service(config: Path | None) -> None:
    """If root runs the service's config by hand, become the service's user, for good.

    The service could not open the files that root would create beside its queue.
    """
    with contextlib.suppress(AgentError, OSError, KeyError):
        config = config or DEFAULT_PATHS[0]
        if config != DEFAULT_PATHS[0] or queue_path(config).parent.owner() != SERVICE_USER:
            return
        entry = pwd.getpwnam(SERVICE_USER)
        user = SystemUser.of(entry.pw_uid)
        if any(map(user.blocked_at, (Path(__file__), Path(sys.executable)))):
            return  # the program is in a home folder
        os.initgroups(SERVICE_USER, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        sys.stderr.write(f"running as {SERVICE_USER}, the owner of the queue\n")


def owner_of(path: Path) -> str:
    """Owner, group and mode, as ``ls -l`` shows them.

    Raises:
        OSError: it cannot be looked at.
    """
    status = path.stat()
    try:
        group = path.group()
    except KeyError:
        group = str(status.st_gid)
    return f"{SystemUser.of(status.st_uid).name}:{group}, {stat.filemode(status.st_mode)}"
