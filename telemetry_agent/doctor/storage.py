"""Where fixes wait: the folder, the disk under it, and the queue in it."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from telemetry_agent.ackqueue.file.lock import check_at_rest, lock_path
from telemetry_agent.ackqueue.reading import QueueReader, readable
from telemetry_agent.ackqueue.recovery.verify import verify
from telemetry_agent.clock import Clock
from telemetry_agent.doctor import disk, now
from telemetry_agent.doctor.agent_checks import AgentChecks
from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.doctor.permissions import owner_of
from telemetry_agent.errors import AgentError, QueueLockedError, StorageError
from telemetry_agent.fields import fix_of
from telemetry_agent.model import Record

_SLOW_WRITE_S = 0.5
_VERIFY_S = 4.0
_NEWEST = 100
_OF_THE_SERVICE = Path("/var/lib/telemetry-agent")  # StateDirectory of the unit
_FAULTS = {"damaged": "are damaged", "missing": "are missing", "damaged_marks": "marks are damaged"}


class StorageChecks:
    """The folder of the queue.

    Args:
        path: the queue.
        agent: has the queue, where one runs.
        clock: measures how long a write takes.
        root: where the machine's /proc is.
    """

    def __init__(self, path: Path, agent: AgentChecks, *, clock: Clock, root: Path) -> None:
        self._path = path
        self._agent = agent
        self._clock = clock
        self._root = root

    def folder(self) -> Iterator[Finding]:
        """May the agent write there, and how long does that take: ``state directory``."""
        name, folder = "state directory", self._path.parent
        if (hidden := self._agent.hides(folder)) is not None:
            said = f"the service does not see {folder} ({hidden} is hidden from it)"
            yield failed(name, said, f"set queue.path below {_OF_THE_SERVICE}")
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
            said = f"no permission to look into {folder} and to try a write"
            yield warned(name, said, "use sudo")
        except OSError as error:
            yield _refused(folder, error)

    def disk(self) -> Iterator[Finding]:
        """What disk it is, and how much of it is free: ``file system``, ``disk space``."""
        try:
            place = _existing(self._path.parent).resolve()
        except PermissionError:
            yield from (warned(name, "no permission to look", "use sudo") for name in disk.NAMES)
            return
        except OSError as error:
            yield skipped(disk.NAMES[0], f"{self._path.parent}: {error.strerror}")
            return
        yield disk.file_system(place, self._root)
        yield disk.space(place)

    def queue(self) -> Iterator[Finding]:
        """Is what was recorded still as it was: ``queue``."""
        if self._agent.status is not None:
            yield now.queue(self._agent.status.queue)
            return
        try:
            if not self._path.exists():
                yield passed("queue", f"{self._path} is not there yet: nothing was recorded")
            elif not self._path.is_file():
                yield failed("queue", f"{self._path} is not a regular file", "see above")
            elif not os.access(self._path, os.R_OK, effective_ids=True):
                yield warned("queue", f"no permission to open {self._path}", "use sudo")
            else:
                yield self._verify()
        except PermissionError:
            yield warned("queue", f"no permission to look for {self._path}", "use sudo")

    def newest(self) -> list[Record]:
        """The newest recorded fixes, the newest first; none where they cannot be read."""
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
        if folder == _OF_THE_SERVICE:
            return passed(name, f"{folder} is made when the service starts")
        if who.may_write(above):
            return passed(name, f"{folder} is not there yet, {who.name} may make it")
        said = f"{folder} is not there, and {who.name} may not make it"
        return failed(name, said, f"`sudo install -d -o {who.name} {folder}`")

    def _forbidden(self, folder: Path) -> Finding | None:
        """What the agent may not write, if there is such a thing."""
        who, path = self._agent.account, self._path
        logs = (path.with_name(path.name + end) for end in ("-wal", "-shm"))
        files = [path, *logs, lock_path(path)]
        for target in (folder, *files):
            if not _is_there(target):
                continue
            if target != folder and not target.is_file():
                said = f"{target} is not a regular file"
                return failed("state directory", said, f"`sudo rm -r {target}`")
            if who.may_write(target):
                continue
            said = f"{who.name} may not write {target} ({owner_of(target)})"
            ours = list(folder.glob(f"{path.stem}*"))
            if folder == _OF_THE_SERVICE or set(folder.iterdir()) <= set(ours):
                remedy = f"`sudo chown -R {who.name}: {folder}`"
            elif target == folder:
                remedy = f"it holds other things too: set queue.path below {_OF_THE_SERVICE}"
            else:
                remedy = f"`sudo chown {who.name}: {' '.join(map(str, sorted(ours)))}`"
            return failed("state directory", said, remedy)
        return self._sandboxed(folder)

    def _sandboxed(self, folder: Path) -> Finding | None:
        """Whether only the unit keeps the running agent from writing."""
        status = self._agent.status
        is_away = status is not None and status.storage and status.storage.state == "runtime"
        if not is_away or folder.is_relative_to(_OF_THE_SERVICE):
            return None
        remedy = (
            f"set queue.path below {_OF_THE_SERVICE}; or `sudo systemctl edit telemetry-agent`, "
            f"add ReadWritePaths={folder} under [Service], then restart it"
        )
        return failed("state directory", f"the service's unit keeps it from {folder}", remedy)

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
        said = f"{folder}: a write is safe on the disk after {took_s * 1000:.0f} ms"
        if took_s < _SLOW_WRITE_S:
            return passed("state directory", said)
        remedy = "the card may be worn out or busy: `sudo dmesg` shows errors"
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
            remedy = "the intact ones are sent, the others counted; the disk loses data: replace it"
            return failed("queue", f"of {found['rows']} positions {', '.join(faults)}", remedy)
        if not found.get("sound", True):
            said = "a file that was set aside is still to be carried over"
            return warned("queue", said, "the agent carries it over when it runs")
        return passed("queue", f"{found['rows']} positions, all intact")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(place for place in (folder, *folder.parents) if _is_there(place))


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _refused(folder: Path, error: OSError) -> Finding:
    name, said = "state directory", f"{folder} cannot be written: {error.strerror}"
    if error.errno == errno.ENOSPC:
        return skipped(name, "no room to try: see disk space")
    if error.errno in {errno.EOPNOTSUPP, errno.EISDIR}:
        return passed(name, f"{folder} may be written; this file system does not allow a trial")
    if error.errno == errno.EROFS:
        return failed(name, said, "see the check of the file system")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return warned(name, f"{said} by the user who asks", "use sudo")
    return failed(name, said, "the disk may be broken: `sudo dmesg` shows errors")
