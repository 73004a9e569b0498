"""File systems: which of them lose data at a power cut, and how much space is free."""

import errno
import os
from pathlib import Path
from typing import NamedTuple

from telemetry_agent.errors import Advice, StorageError

_LOSES_ALL = "a power cut loses everything"
ELSEWHERE = "set queue.path to a folder on ext4, btrfs, xfs or f2fs"
SURVIVES = {"ext3", "ext4", "btrfs", "xfs", "f2fs", "zfs", "jfs", "bcachefs", "ubifs", "jffs2"}
_TROUBLES = {
    **dict.fromkeys(("tmpfs", "ramfs"), f"which is memory: {_LOSES_ALL}"),
    **dict.fromkeys(
        ("vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "ext2"),
        f"which has no journal: {_LOSES_ALL}, in the worst case",
    ),
    **dict.fromkeys(
        ("nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "fuse.sshfs", "ceph", "glusterfs"),
        f"over a network, where no database is safe: {_LOSES_ALL}, in the worst case",
    ),
}


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo."""

    device: str
    """``MAJOR:MINOR``. That of ``stat`` is another one on btrfs and some overlays."""
    point: Path
    kind: str
    options: frozenset[str]


def mount_of(place: Path, root: Path = Path("/")) -> Mount | None:
    """The mount that ``place`` is on."""
    try:
        text = (root / "proc/self/mountinfo").read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    # A folder's name may contain any white space: only "\n" ends a line, and only " " a field.
    # Of two mounts on the same point the later one lies on top.
    mounts = filter(None, map(_mount, reversed(text.split("\n"))))
    around = (mount for mount in mounts if place.is_relative_to(mount.point))
    return max(around, key=lambda mount: len(mount.point.parts), default=None)


def trouble(mount: Mount, root: Path = Path("/")) -> Advice | None:
    """Why data that is written to this mount may be lost, and what to do."""
    if "ro" in mount.options:
        return Advice(
            "read-only",
            f"`sudo mount -o remount,rw $(findmnt -no TARGET -T {mount.point})`, then "
            "`sudo systemctl restart telemetry-agent`; replace the card if `sudo dmesg` shows "
            "errors",
        )
    if mount.kind == "overlay" and not _lasts(mount, root):
        return Advice(
            f"which is thrown away: {_LOSES_ALL}, and so does the end of a container",
            "set queue.path to a folder on a disk or volume (on a Raspberry Pi switch the overlay "
            "off: `sudo raspi-config nonint do_overlayfs 1`, then reboot)",
        )
    words = _TROUBLES.get(mount.kind)
    return Advice(words, ELSEWHERE) if words else None


def _lasts(overlay: Mount, root: Path) -> bool:
    """Whether its upper layer is on a disk that this process can see."""
    upper = next((o for o in overlay.options if o.startswith("upperdir=")), None)
    under = mount_of(Path(upper.removeprefix("upperdir=")), root) if upper else None
    return under is not None and under.kind in SURVIVES


def _mount(line: str) -> Mount | None:
    before, _, after = line.partition(" - ")
    fields, rest = before.split(" "), after.split(" ", 2)
    if len(fields) < 6 or len(rest) < 3:
        return None  # the end of the list
    kind, _, options = rest  # the source, between them, may be empty
    point = fields[4].replace(r"\040", " ")
    return Mount(
        fields[2], Path(point), kind, frozenset([*fields[5].split(","), *options.split(",")])
    )


def free_bytes(folder: Path) -> int:
    """The bytes that may still be written to the disk of this folder.

    Raises:
        StorageError: the folder does not exist, or the disk refuses.
    """
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        raise StorageError(f"cannot look at the disk of {folder}: {error.strerror}") from error
    return disk.f_bavail * disk.f_frsize


def has_room(folder: Path, size: int) -> bool:
    """Whether this user may write so much there: a quota can forbid what ``free_bytes`` counts.

    True also where the file system does not show it.
    """
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            allocate(fd, size)
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno not in {errno.ENOSPC, errno.EDQUOT}
    return True


def allocate(fd: int, size: int) -> None:
    """Take room on the disk for the first ``size`` bytes of a file, and make it as long.

    Raises:
        OSError: there is not enough.
    """
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        # musl leaves it at that where the file system cannot do it; glibc writes instead.
        if error.errno != errno.EOPNOTSUPP:
            raise
        place = os.fstat(fd).st_size
        while place < size:
            place += os.pwrite(fd, bytes(min(size - place, 1 << 20)), place)


def size(count: float) -> str:
    """``512 B``, ``1.4 MB``."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def sync_directory(folder: Path) -> None:
    """Have the names in it, as they are now, outlast a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
