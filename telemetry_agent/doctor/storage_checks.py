"""Where fixes are stored: the folder, the disk under it, and the queue in it."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from telemetry_agent.ackqueue.file.lock import check_at_rest, lock_path
from telemetry_agent.ackqueue.file.schema import index_of, journal_of, log_of, place_of
from telemetry_agent.ackqueue.reading import readable
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.recovery.verify import verify_at_rest
from telemetry_agent.config.files import QUEUE_PATH, STATE_DIRECTORY
from telemetry_agent.daemon import at_rest
from telemetry_agent.disks import ELSEWHERE, SURVIVES, mount_of, size, trouble
from telemetry_agent.doctor import agent_checks
from telemetry_agent.doctor.agent_checks import RESTART, AgentChecks
from telemetry_agent.doctor.findings import Finding, failed, guarded, passed, skipped, warned
from telemetry_agent.doctor.permissions import owner_of
from telemetry_agent.errors import AgentError, QueueLockedError, StorageError, counted, in_shell
from telemetry_agent.fields import fix_of
from telemetry_agent.model import Record

NAMES = ("state directory", "file system", "disk space", "queue")

_LITTLE_BYTES = 64 << 20
_NOTHING_BYTES = 4 << 20
_SLOW_WRITE_S = 0.5
_VERIFY_S = 4.0
_NEWEST = 100
_FAULTS = {"damaged": "damaged", "missing": "missing", "damaged_marks": "damaged among the marks"}


class StorageChecks:
    """The folder of the queue at ``path``, and the queue, which a running ``agent`` has."""

    def __init__(self, path: Path, agent: AgentChecks) -> None:
        self._path = place_of(path)
        self._agent = agent
        self._clock = agent.machine.clock

    def check(self) -> Iterator[Finding]:
        """What ``NAMES`` lists."""
        folder = guarded(self._folder)
        yield folder
        yield guarded(lambda: file_system(self._place(), self._agent.machine.root))
        yield guarded(lambda: disk_space(self._place()))
        is_fault = folder.verdict == "fail"
        yield skipped("needs state directory") if is_fault else guarded(self._queue)

    def _place(self) -> Path:
        return _existing(self._path.parent).resolve()

    def _folder(self) -> Finding:
        """``state directory``: may the agent write there, and how long does that take."""
        folder = self._path.parent
        if (hidden := self._agent.hides(folder)) is not None:
            said = f"the service does not see {folder} ({hidden} is hidden from it)"
            return failed(said, f"set queue.path below {STATE_DIRECTORY}")
        try:
            above = _existing(folder)
            if not above.is_dir():
                return failed(f"{above} is not a folder", "set queue.path to another place")
            if above != folder:
                return self._missing(folder, above)
            if os.statvfs(folder).f_flag & os.ST_RDONLY:
                return _refused(folder, OSError(errno.EROFS, os.strerror(errno.EROFS)))
            return self._forbidden(folder) or self._sandboxed(folder) or self._write(folder)
        except PermissionError:
            raise  # reported for every check in the same way
        except OSError as error:
            return _refused(folder, error)

    def _queue(self) -> Finding:  # noqa: PLR0911 - one for each state of the file
        """``queue``: are all positions as they were recorded."""
        if self._agent.status is not None:
            return agent_checks.queue(self._agent.status.queue)
        if left := set_aside_files.left_at_rest(self._path):
            said = f"{self._path} is missing, but {left[0].name} is there"
            return warned(said, "the agent carries over what can be read when it starts")
        if not self._path.exists():
            return passed(f"{self._path} does not exist yet: nothing was recorded")
        if not os.access(self._path, os.R_OK, effective_ids=True):
            return warned(f"no permission to open {self._path}", "use sudo")
        try:
            check_at_rest(self._path)
            with readable(self._path) as file:
                return self._read_all(file)
        except QueueLockedError as error:
            return skipped(str(error))
        except StorageError as error:
            said = f"{self._path} is damaged: {error.__cause__ or error.message}"
            remedy = "the agent sets it aside when it starts, and carries over what can be read"
            return failed(said, remedy)

    def newest(self) -> list[Record]:
        """The newest recorded fixes, the newest first; none if they cannot be read."""
        try:
            if self._agent.status is None:
                return list(
                    at_rest.look(self._path, str, lambda queue: iter(queue.newest(_NEWEST)))
                )
            answers = self._agent.answers({"ask": "queue newest", "limit": _NEWEST})
            return [Record(a["stream"], a["seq"], a["device"], fix_of(a)) for a in answers]
        except (AgentError, OSError, KeyError, TypeError, ValueError):
            return []  # an older agent does not know the question

    def _missing(self, folder: Path, above: Path) -> Finding:
        who = self._agent.account
        if folder == STATE_DIRECTORY:
            if self._agent.status is None:
                return passed(f"{folder} is created when the service starts")
            return failed(f"{folder} was deleted under the agent", self._agent.again(RESTART))
        if who.may_write(above):
            return passed(f"{folder} does not exist yet; {who.name} may create it")
        said = f"{folder} does not exist, and {who.name} may not create it"
        return failed(said, f"`sudo install -d -o {who.name} {in_shell(folder)}`")

    def _forbidden(self, folder: Path) -> Finding | None:
        """The fault if the agent may not write the folder or one of the queue's files."""
        who, path = self._agent.account, self._path
        files = [path, log_of(path), index_of(path), lock_path(path)]
        for target in (*files, journal_of(path)):
            if target.is_symlink() or (_exists(target) and not target.is_file()):
                said = f"{target} is not a regular file"
                if target == path:  # it may be a folder of the user's, or a disk
                    return failed(said, f"set queue.path to a file, such as {QUEUE_PATH}")
                return failed(said, f"`sudo rm -r {in_shell(target)}`")
        for target in (folder, *files):
            if not _exists(target) or who.may_write(target):
                continue
            said = f"{who.name} may not write {target} ({owner_of(target)})"
            ours = list(folder.glob(f"{path.stem}*"))
            if folder == STATE_DIRECTORY or set(folder.iterdir()) <= set(ours):
                remedy = f"`sudo chown -R {who.name}: {in_shell(folder)}`"
            elif target == folder:
                remedy = f"it holds other files too: set queue.path below {STATE_DIRECTORY}"
            else:
                remedy = f"`sudo chown {who.name}: {in_shell(*sorted(ours))}`"
            return failed(said, remedy)
        return None

    def _sandboxed(self, folder: Path) -> Finding | None:
        """The fault if the rights are fine, but the unit does not let the agent write."""
        status = self._agent.status
        is_in_runtime = status is not None and status.storage and status.storage.state == "runtime"
        if not is_in_runtime or folder.is_relative_to(STATE_DIRECTORY):
            return None
        remedy = (
            f"set queue.path below {STATE_DIRECTORY}; or `sudo systemctl edit telemetry-agent`, "
            f"add ReadWritePaths={folder} under [Service], then restart it"
        )
        said = f"the service's unit does not let the service write to {folder}"
        return failed(said, remedy)

    def _write(self, folder: Path) -> Finding:
        disk = os.statvfs(folder)
        if disk.f_blocks and not disk.f_bavail:  # root would write into its reserve
            return _refused(folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        began_s = self._clock.monotonic_s()
        # A file without a name: nothing in the folder changes.
        fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb", buffering=0) as probe:
            probe.write(bytes(4096))
            os.fsync(fd)
        took_s = self._clock.monotonic_s() - began_s
        said = f"{folder}: a write reaches the disk after {took_s * 1000:.0f} ms"
        if took_s < _SLOW_WRITE_S:
            return passed(said)
        return warned(said, "the disk may be worn out or busy: `sudo dmesg` shows errors")

    def _read_all(self, file: Path) -> Finding:
        until_s = self._clock.monotonic_s() + _VERIFY_S
        found: dict[str, Any] = {}
        for found in verify_at_rest(self._path, file, all_pages=False):
            if "sound" in found or self._clock.monotonic_s() >= until_s:
                break
        if found.get("structure", "ok") != "ok":
            raise StorageError(found["structure"])
        faults = [f"{found[name]} {words}" for name, words in _FAULTS.items() if found[name]]
        if faults:
            said = f"{counted(found['rows'], 'position')}, of these {', '.join(faults)}"
            remedy = (
                "the intact ones are sent, the others are counted as lost; the disk loses data: "
                "replace it"
            )
            return failed(said, remedy)
        if not found.get("sound", True):
            return warned(
                "a file that was set aside is still to be carried over",
                "the agent carries it over when it runs",
            )
        return passed(f"{counted(found['rows'], 'position')} checked, all intact")


def file_system(place: Path, root: Path) -> Finding:
    """``file system``: does what is written at ``place``, a path without links, survive.

    Args:
        place: a folder.
        root: where the machine's /proc is.
    """
    mount = mount_of(place, root)
    if mount is None:
        return skipped("/proc does not show which one it is")
    said = f"{place} is on {mount.kind} ({mount.point})"
    if (found := trouble(mount, root)) is not None:
        return failed(f"{said}, {found.message}", found.remedy)
    if mount.kind not in SURVIVES | {"overlay"}:
        return warned(f"{said}, which may not survive power cuts", ELSEWHERE)
    return passed(said)


def disk_space(place: Path) -> Finding:
    """``disk space``: is there room to record."""
    try:
        disk = os.statvfs(place)
    except OSError as error:
        return failed(f"{place}: {error.strerror}", "see the check of the state directory")
    free = disk.f_bavail * disk.f_frsize
    said = f"{size(free)} of {size(disk.f_blocks * disk.f_frsize)} free"
    if free < _NOTHING_BYTES:
        return failed(f"{said}: recording stops when it is used up", _make_room(place, "-xh"))
    if disk.f_files and not disk.f_favail:
        said += ", but no file can be created (no free inodes)"
        return failed(said, _make_room(place, "-x --inodes"))
    if free < _LITTLE_BYTES:
        return warned(f"{said}: the disk is almost full", _make_room(place, "-xh"))
    return passed(said)


def _make_room(place: Path, counts: str) -> str:
    # The user's shell finds the disk: the service sees other mounts than the user.
    du = f"`sudo du {counts} $(findmnt -no TARGET -T {in_shell(place)}) | sort -h | tail`"
    return f"delete files: {du} shows what takes the room"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(place for place in (folder, *folder.parents) if _exists(place))


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _refused(folder: Path, error: OSError) -> Finding:
    said = f"{folder} cannot be written: {error.strerror}"
    if error.errno == errno.ENOSPC:
        return skipped("no space to test a write: see disk space")
    if error.errno == errno.EDQUOT:
        return failed(said, "raise the quota of the service's user, or delete files of it")
    if error.errno in {errno.EOPNOTSUPP, errno.EISDIR}:
        return passed(f"{folder} is writable; this file system does not allow the test")
    if error.errno == errno.EROFS:
        return failed(said, "see the check of the file system")
    return failed(said, "the disk may be broken: `sudo dmesg` shows errors")
