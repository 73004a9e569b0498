"""The disk under the queue: whether it forgets at a power cut, and whether there is room on it."""

import os
from pathlib import Path
from typing import NamedTuple

from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned

NAMES = ("file system", "disk space")
FREE_SPACE = "free space: `sudo du -xh / | sort -h | tail` shows what takes it"

_LITTLE_BYTES = 64 << 20
_NOTHING_BYTES = 4 << 20
_LOSES_ALL = "a power cut loses everything"
_ELSEWHERE = "set queue.path to a folder on ext4, btrfs, xfs or f2fs"
_SURVIVES = {"ext3", "ext4", "btrfs", "xfs", "f2fs", "zfs", "jfs", "bcachefs", "ubifs", "jffs2"}
_TROUBLES = {
    **dict.fromkeys(("tmpfs", "ramfs"), f"which is memory: {_LOSES_ALL}"),
    **dict.fromkeys(
        ("vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "ext2"),
        f"which has no journal: {_LOSES_ALL}, with bad luck",
    ),
    **dict.fromkeys(
        ("nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "fuse.sshfs", "ceph", "glusterfs"),
        f"over a network, where no database is safe: {_LOSES_ALL}, with bad luck",
    ),
}


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo."""

    point: Path
    kind: str
    options: frozenset[str]


def file_system(place: Path, root: Path) -> Finding:
    """Whether what is written at ``place``, a path without links, outlasts a power cut."""
    name = "file system"
    mount = mount_of(place, root)
    if mount is None:
        return skipped(name, "/proc does not tell")
    said = f"{place} is on {mount.kind} ({mount.point})"
    if trouble := _trouble(mount, root):
        what, remedy = trouble
        return failed(name, f"{said}, {what}", remedy)
    if mount.kind not in _SURVIVES | {"overlay"}:
        return warned(name, f"{said}, which is not known to outlast power cuts", _ELSEWHERE)
    return passed(name, said)


def space(place: Path) -> Finding:
    """Whether there is room to record."""
    name = "disk space"
    try:
        disk = os.statvfs(place)
    except OSError as error:
        return failed(name, f"{place}: {error.strerror}", "see what is said of the state directory")
    free = disk.f_bavail * disk.f_frsize
    said = f"{_size(free)} of {_size(disk.f_blocks * disk.f_frsize)} free"
    if free < _NOTHING_BYTES:
        return failed(name, f"{said}: nothing more can be recorded", FREE_SPACE)
    if disk.f_files and not disk.f_favail:
        return failed(name, f"{said}, but no file can be made (no inodes)", FREE_SPACE)
    if free < _LITTLE_BYTES:
        return warned(name, f"{said}: that is little", FREE_SPACE)
    return passed(name, said)


def mount_of(place: Path, root: Path) -> Mount | None:
    """The mount that ``place`` lies on."""
    try:
        lines = (root / "proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    best: Mount | None = None
    for mount in filter(None, map(_mount, lines)):
        # Of two on the same point the later one lies on top.
        higher = best is None or len(mount.point.parts) >= len(best.point.parts)
        if higher and place.is_relative_to(mount.point):
            best = mount
    return best


def _trouble(mount: Mount, root: Path) -> tuple[str, str] | None:
    """What is wrong with it, and the remedy."""
    if "ro" in mount.options:
        return "read-only", (
            f"`sudo mount -o remount,rw {mount.point}`; if `dmesg` shows errors, replace the card"
        )
    if mount.kind == "overlay" and not _lasts(mount, root):
        return f"which is thrown away: {_LOSES_ALL}, or the end of the container does", (
            "set queue.path to a folder on a disk or volume (on a Raspberry Pi the overlay is "
            "switched off by `sudo raspi-config nonint do_overlayfs 1`)"
        )
    if mount.options & {"nobarrier", "barrier=0"}:
        return f"without barriers: {_LOSES_ALL}, with bad luck", "take nobarrier out of /etc/fstab"
    words = _TROUBLES.get(mount.kind)
    return (words, _ELSEWHERE) if words else None


def _lasts(overlay: Mount, root: Path) -> bool:
    """Whether what is written to it goes to a disk that we can see."""
    upper = next((o for o in overlay.options if o.startswith("upperdir=")), None)
    under = mount_of(Path(upper.removeprefix("upperdir=")), root) if upper else None
    return under is not None and under.kind in _SURVIVES


def _mount(line: str) -> Mount | None:
    before, _, after = line.partition(" - ")
    fields, rest = before.split(), after.split()
    if len(fields) < 6 or len(rest) < 3:
        return None
    point = fields[4].replace(r"\040", " ")
    return Mount(Path(point), rest[0], frozenset(fields[5].split(",") + rest[2].split(",")))


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
