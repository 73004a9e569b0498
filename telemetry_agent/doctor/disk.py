"""The disk under the queue: whether it forgets at a power cut, and whether there is room on it."""

import os
from pathlib import Path

from telemetry_agent.disks import ELSEWHERE, SURVIVES, mount_of, size, trouble
from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned

NAMES = ("file system", "disk space")
FREE_SPACE = "free space: `sudo du -xh / | sort -h | tail` shows what takes it"

_LITTLE_BYTES = 64 << 20
_NOTHING_BYTES = 4 << 20


def file_system(place: Path, root: Path) -> Finding:
    """Whether what is written at ``place``, a path without links, outlasts a power cut."""
    name = "file system"
    mount = mount_of(place, root)
    if mount is None:
        return skipped(name, "/proc does not tell")
    said = f"{place} is on {mount.kind} ({mount.point})"
    if (found := trouble(mount, root)) is not None:
        return failed(name, f"{said}, {found.message}", found.remedy)
    if mount.kind not in SURVIVES | {"overlay"}:
        return warned(name, f"{said}, which may not survive power cuts", ELSEWHERE)
    return passed(name, said)


def space(place: Path) -> Finding:
    """Whether there is room to record."""
    name = "disk space"
    try:
        disk = os.statvfs(place)
    except OSError as error:
        return failed(name, f"{place}: {error.strerror}", "see the check of the state directory")
    free = disk.f_bavail * disk.f_frsize
    said = f"{size(free)} of {size(disk.f_blocks * disk.f_frsize)} free"
    if free < _NOTHING_BYTES:
        return failed(name, f"{said}: nothing more can be recorded", FREE_SPACE)
    if disk.f_files and not disk.f_favail:
        return failed(name, f"{said}, but no file can be made (no inodes)", FREE_SPACE)
    if free < _LITTLE_BYTES:
        return warned(name, f"{said}: that is little", FREE_SPACE)
    return passed(name, said)
