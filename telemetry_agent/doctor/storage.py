"""Where fixes are stored: the folder, the disk under it, and the queue in it."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from telemetry_agent.ackqueue.file.lock import check_at_rest, lock_path
from telemetry_agent.ackqueue.reading import QueueReader, readable
from telemetry_agent.ackqueue.recovery.verify import verify
from telemetry_agent.disks import ELSEWHERE, SURVIVES, mount_of, size, trouble
from telemetry_agent.doctor import agent_checks
from telemetry_agent.doctor.agent_checks import AgentChecks
from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.doctor.permissions import STATE_DIRECTORY, owner_of
from telemetry_agent.errors import AgentError, QueueLockedError, StorageError, in_shell
from telemetry_agent.fields import fix_of
from telemetry_agent.model import Record

_FREE_SPACE = "free space: `sudo du -xh / | sort -h | tail` shows what takes it"

_LITTLE_BYTES = 64 << 20
_NOTHING_BYTES = 4 << 20
_SLOW_WRITE_S = 0.5
_VERIFY_S = 4.0
_NEWEST = 100
_SEE_FOLDER = "see the check of the state directory"
_FAULTS = {"damaged": "damaged", "missing": "missing", "damaged_marks": "damaged marks"}


class StorageChecks:
    """The folder of the queue at ``path``, and the queue, which a running ``agent`` has."""

    def __init__(self, path: Path, agent: AgentChecks) -> None:
        self._path = path
        self._agent = agent
        self._clock = agent.machine.clock

    def folder(self) -> Iterator[Finding]:
        """``state directory``: may the agent write there, and how long does that take."""
        name, folder = "state directory", self._path.parent
        if (hidden := self._agent.hides(folder)) is not None:
            said = f"the service does not see {folder} ({hidden} is hidden from it)"
            yield failed(name, said, f"set queue.path below {STATE_DIRECTORY}")
            return
        try:
            above = _existing(folder)
            if not above.is_dir():
                yield failed(name, f"{above} is not a folder", "set queue.path to another place")
            elif above != folder:
                yield self._missing(folder, above)
            else:
                yield self._forbidden(folder) or self._write(folder)
        except PermissionError:
            raise  # reported for every check in the same way
        except OSError as error:
            yield _refused(folder, error)

    def disk(self) -> Iterator[Finding]:
        """``file system``, ``disk space``: does it survive power cuts, and how much is free."""
        try:
            place = _existing(self._path.parent).resolve()
        except PermissionError:
            raise
        except OSError as error:
            yield skipped("file system", f"{self._path.parent}: {error.strerror}")
            return
        yield file_system(place, self._agent.machine.root)
        yield disk_space(place)

    def queue(self) -> Iterator[Finding]:
        """``queue``: are all positions as they were recorded."""
        if self._agent.status is not None:
            yield agent_checks.queue(self._agent.status.queue)
        elif not self._path.exists():
            yield passed("queue", f"{self._path} does not exist yet: nothing was recorded")
        elif not self._path.is_file():
            yield failed("queue", f"{self._path} is not a regular file", _SEE_FOLDER)
        elif not os.access(self._path, os.R_OK, effective_ids=True):
            yield warned("queue", f"no permission to open {self._path}", "use sudo")
        else:
            yield self._verify()

    def newest(self) -> list[Record]:
        """The newest recorded fixes, the newest first; none if they cannot be read."""
        try:
            if self._agent.status is None:
                check_at_rest(self._path)
                with (
                    readable(self._path) as file,
                    contextlib.closing(QueueReader(file)) as reader,
                ):
                    return reader.newest(_NEWEST)
            answers = self._agent.answers({"ask": "queue newest", "limit": _NEWEST})
            return [Record(a["stream"], a["seq"], a["device"], fix_of(a)) for a in answers]
        except (AgentError, OSError, KeyError, TypeError, ValueError):
            return []  # an older agent does not know the question

    def _missing(self, folder: Path, above: Path) -> Finding:
        name, who = "state directory", self._agent.account
        if folder == STATE_DIRECTORY:
            return passed(name, f"{folder} is created when the service starts")
        if who.may_write(above):
            return passed(name, f"{folder} does not exist yet; {who.name} may create it")
        said = f"{folder} does not exist, and {who.name} may not create it"
        return failed(name, said, f"`sudo install -d -o {who.name} {in_shell(folder)}`")

    def _forbidden(self, folder: Path) -> Finding | None:
        """The fault if the agent may not write the folder or one of the queue's files."""
        who, path = self._agent.account, self._path
        logs = (path.with_name(path.name + end) for end in ("-wal", "-shm"))
        files = [path, *logs, lock_path(path)]
        for target in (folder, *files):
            if not _exists(target):
                continue
            if target != folder and not target.is_file():
                said = f"{target} is not a regular file"
                return failed("state directory", said, f"`sudo rm -r {in_shell(target)}`")
            if who.may_write(target):
                continue
            said = f"{who.name} may not write {target} ({owner_of(target)})"
            ours = list(folder.glob(f"{path.stem}*"))
            if folder == STATE_DIRECTORY or set(folder.iterdir()) <= set(ours):
                remedy = f"`sudo chown -R {who.name}: {in_shell(folder)}`"
            elif target == folder:
                remedy = f"it holds other files too: set queue.path below {STATE_DIRECTORY}"
            else:
                remedy = f"`sudo chown {who.name}: {in_shell(*sorted(ours))}`"
            return failed("state directory", said, remedy)
        return self._sandboxed(folder)

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
        return failed("state directory", said, remedy)

    def _write(self, folder: Path) -> Finding:
        began_s = self._clock.monotonic_s()
        # A file without a name: nothing in the folder changes.
        probe = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.write(probe, bytes(4096))
            os.fsync(probe)
        finally:
            os.close(probe)
        took_s = self._clock.monotonic_s() - began_s
        said = f"{folder}: a write reaches the disk after {took_s * 1000:.0f} ms"
        if took_s < _SLOW_WRITE_S:
            return passed("state directory", said)
        remedy = "the disk may be worn out or busy: `sudo dmesg` shows errors"
        return warned("state directory", said, remedy)

    def _verify(self) -> Finding:
        try:
            check_at_rest(self._path)
            with readable(self._path) as file:
                return self._read_all(file)
        except QueueLockedError as error:
            return skipped("queue", str(error))
        except StorageError as error:
            said = f"{self._path} is damaged: {error.__cause__ or error.message}"
            remedy = "the agent sets it aside when it starts, and carries over what can be read"
            return failed("queue", said, remedy)

    def _read_all(self, file: Path) -> Finding:
        until_s = self._clock.monotonic_s() + _VERIFY_S
        source = QueueReader(file)
        with contextlib.closing(source):
            answers = verify(source, source.damage or "ok")
            found = next(answers)
            while "sound" not in found and self._clock.monotonic_s() < until_s:
                found = next(answers)
        structure = found.get("structure", source.damage or "ok")
        if structure != "ok":
            raise StorageError(structure.replace(str(file), str(self._path)))
        faults = [f"{found[name]} {words}" for name, words in _FAULTS.items() if found[name]]
        if faults:
            said = f"{found['rows']} positions, of these {', '.join(faults)}"
            remedy = (
                "the intact ones are sent, the others are counted as lost; the disk loses data: "
                "replace it"
            )
            return failed("queue", said, remedy)
        if not found.get("sound", True):
            said = "a file that was set aside is still to be carried over"
            return warned("queue", said, "the agent carries it over when it runs")
        return passed("queue", f"{found['rows']} positions checked, all intact")


def file_system(place: Path, root: Path) -> Finding:
    """``file system``: does what is written at ``place``, a path without links, survive.

    Args:
        place: a folder.
        root: where the machine's /proc is.
    """
    name = "file system"
    mount = mount_of(place, root)
    if mount is None:
        return skipped(name, "/proc does not show which one it is")
    said = f"{place} is on {mount.kind} ({mount.point})"
    if (found := trouble(mount, root)) is not None:
        return failed(name, f"{said}, {found.message}", found.remedy)
    if mount.kind not in SURVIVES | {"overlay"}:
        return warned(name, f"{said}, which may not survive power cuts", ELSEWHERE)
    return passed(name, said)


def disk_space(place: Path) -> Finding:
    """``disk space``: is there room to record."""
    name = "disk space"
    try:
        disk = os.statvfs(place)
    except OSError as error:
        return failed(name, f"{place}: {error.strerror}", "see the check of the state directory")
    free = disk.f_bavail * disk.f_frsize
    said = f"{size(free)} of {size(disk.f_blocks * disk.f_frsize)} free"
    if free < _NOTHING_BYTES:
        return failed(name, f"{said}: recording stops when it is used up", _FREE_SPACE)
    if disk.f_files and not disk.f_favail:
        return failed(name, f"{said}, but no file can be created (no free inodes)", _FREE_SPACE)
    if free < _LITTLE_BYTES:
        return warned(name, f"{said}: the disk is almost full", _FREE_SPACE)
    return passed(name, said)


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
    name, said = "state directory", f"{folder} cannot be written: {error.strerror}"
    if error.errno == errno.ENOSPC:
        return skipped(name, "no space to test a write: see disk space")
    if error.errno in {errno.EOPNOTSUPP, errno.EISDIR}:
        return passed(name, f"{folder} is writable; this file system does not allow the test")
    if error.errno == errno.EROFS:
        return failed(name, said, "see the check of the file system")
    return failed(name, said, "the disk may be broken: `sudo dmesg` shows errors")
