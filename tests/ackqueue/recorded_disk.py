"""A disk that records every operation of SQLite, and can refuse any of them.

The files are real (preferably in a folder in memory). The log contains all changes in their order.
``power_cut.Platter`` derives from the log what a power cut may leave.
"""

# ruff: noqa: N802 - the methods have the names of SQLite's own interface

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast
from unittest import mock

import apsw
from ackqueue.apsw_connection import ApswConnection

from telemetry_agent.ackqueue.file import schema
from telemetry_agent.ackqueue.recovery import set_aside_files

OfFolder = Literal["create", "rename", "delete", "sync folder"]
OfFile = Literal["open", "read", "write", "truncate", "sync", "failed sync"]


class Op(NamedTuple):
    """One operation on the disk."""

    kind: OfFolder | OfFile
    file: str = ""
    offset: int = 0
    """The offset of a write, or the size after a truncation."""
    data: bytes = b""
    to: str = ""
    """The new name of a renamed file."""


class Refusal(Exception):  # noqa: N818 - the test decides it; SQLite gets its own error
    """Raised by ``refuse`` to make the operation fail."""

    def __init__(self, error: type[apsw.Error], *, written: float = 0.0) -> None:
        self.error = error
        self.written = written
        """The fraction of a write that is done anyway."""


_numbers = count(1)


class RecordedDisk:
    """A recording disk. Pass ``connect`` to a queue, and use the queue inside ``recorded``."""

    def __init__(self, refuse: Callable[[Op], None] = lambda op: None) -> None:
        self.log: list[Op] = []
        self.refuse = refuse
        """Called before each operation, including "read" and "open", which change nothing."""
        self.pragmas: tuple[str, ...] = ()
        """Run before each transaction."""
        self.commits_late = False
        """Whether a COMMIT is delayed to the start of the next transaction."""
        self._vfs = _Vfs(f"recorded-{next(_numbers)}", self)

    def connect(self, path: Path) -> sqlite3.Connection:
        return cast("sqlite3.Connection", Recorded(path, self._vfs.vfs_name, self))

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Also record the queue's own changes to the folder, which do not go through SQLite."""
        create, rename, unlink = schema.create_file, set_aside_files.rename, set_aside_files.unlink

        def recorded_create(path: Path) -> None:
            is_new = not path.exists()
            create(path)
            if is_new:
                self.log.append(Op("create", path.name))

        def recorded_rename(old: Path, new: Path) -> None:
            rename(old, new)
            self.log.append(Op("rename", old.name, to=new.name))

        def recorded_unlink(path: Path) -> None:
            unlink(path)
            self.log.append(Op("delete", path.name))

        with ExitStack() as stack:
            stack.callback(self._vfs.unregister)
            for module, name, recorded in (
                (schema, "create_file", recorded_create),
                (schema, "sync_directory", self._sync_folder),
                (set_aside_files, "create_file", recorded_create),
                (set_aside_files, "sync_directory", self._sync_folder),
                (set_aside_files, "rename", recorded_rename),
                (set_aside_files, "unlink", recorded_unlink),
            ):
                stack.enter_context(mock.patch.object(module, name, recorded))
            yield

    def ask(self, op: Op) -> None:
        try:
            self.refuse(op)
        except Refusal as refusal:
            if op.kind == "write" and refusal.written:
                part = op.data[: int(len(op.data) * refusal.written)]
                self.log.append(op._replace(data=part))
            elif op.kind == "sync":
                self.log.append(Op("failed sync", op.file))
            raise
        if op.kind not in {"read", "open"}:
            self.log.append(op)

    def _sync_folder(self, folder: Path) -> None:
        self.log.append(Op("sync folder"))


class Recorded(ApswConnection):
    def __init__(self, path: Path, vfs: str, disk: RecordedDisk) -> None:
        super().__init__(path, vfs)
        self.disk = disk

    def execute(self, sql: str, parameters: Any = ()) -> Any:
        if sql == "COMMIT" and self.disk.commits_late:
            return None
        if sql in {"BEGIN IMMEDIATE", "VACUUM"}:
            self._commit_at_last()
        if sql == "BEGIN IMMEDIATE":
            for pragma in self.disk.pragmas:
                super().execute(pragma).fetchall()
        return super().execute(sql, parameters)

    def close(self) -> None:
        self._commit_at_last()
        super().close()

    def _commit_at_last(self) -> None:
        if self.in_transaction:
            super().execute("COMMIT")


class _Vfs(apsw.VFS):
    def __init__(self, name: str, disk: RecordedDisk) -> None:
        super().__init__(name, "")
        self.vfs_name = name
        self._disk = disk

    def xOpen(self, name: Any, flags: list[int]) -> "_File":
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
        with _refusals():
            self._disk.ask(Op("open", path.name))
            if flags[0] & apsw.SQLITE_OPEN_CREATE and not path.exists():
                self._disk.ask(Op("create", path.name))
        return _File(name, flags, path.name, self._disk)

    def xDelete(self, name: str, sync_folder: bool) -> None:
        with _refusals():
            self._disk.ask(Op("delete", Path(name).name))
        super().xDelete(name, False)
        if sync_folder:
            self._disk.log.append(Op("sync folder"))


class _File(apsw.VFSFile):
    def __init__(self, name: Any, flags: list[int], file: str, disk: RecordedDisk) -> None:
        super().__init__("", name, flags)
        self._file = file
        self._disk = disk
        self._name_is_new = not file.endswith(".db")  # then SQLite also syncs the folder

    def xRead(self, amount: int, offset: int) -> bytes:
        with _refusals():
            self._disk.ask(Op("read", self._file, offset))
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        content = bytes(data)
        try:
            with _refusals():
                self._disk.ask(Op("write", self._file, offset, content))
        except apsw.Error as error:
            refusal = error.__cause__
            if isinstance(refusal, Refusal) and refusal.written:
                super().xWrite(content[: int(len(content) * refusal.written)], offset)
            raise
        super().xWrite(content, offset)

    def xTruncate(self, size: int) -> None:
        with _refusals():
            self._disk.ask(Op("truncate", self._file, size))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:
        """Only record the sync: the log alone says what is durable."""
        with _refusals():
            self._disk.ask(Op("sync", self._file))
        if self._name_is_new:
            self._disk.log.append(Op("sync folder"))
            self._name_is_new = False


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        raise refusal.error from refusal


def scratch_folder() -> Path | None:
    """A folder in memory, if there is one: a crash state exists for only a millisecond."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else None
