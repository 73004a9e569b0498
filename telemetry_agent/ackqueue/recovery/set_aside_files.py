"""Files that were set aside, beside the queue: their names, and how they come and go.

``PATH.damaged-N``, with its log ``PATH.damaged-N-wal``, waits to be carried over into the queue. It
is deleted when all of it is there. If something is missing it becomes ``PATH.kept-N``, for whoever
wants to look; only the last of these stays. A file in which nothing of ours was found becomes
``PATH.foreign-N``, and is nobody's to delete but the user's.

Each step can be the last one before a power cut, so ``finish`` comes before a queue is opened.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

from telemetry_agent.ackqueue.file.schema import create_file, sync_directory
from telemetry_agent.errors import StorageError

_WAITING, _KEPT, _FOREIGN = "damaged", "kept", "foreign"
End = Literal["delete", "kept", "foreign"]


def log_of(path: Path) -> Path:
    """The log that SQLite has beside a database."""
    return path.with_name(path.name + "-wal")


def index_of(path: Path) -> Path:
    """The index of that log."""
    return path.with_name(path.name + "-shm")


def waiting(path: Path) -> list[Path]:
    """Those that are to be carried over into the queue at ``path``, the oldest first."""
    return [file for _, file in _numbered(path, _WAITING)]


def kept(path: Path) -> list[Path]:
    """Those that were carried over as far as they can be read, the oldest first."""
    return [file for _, file in _numbered(path, _KEPT)]


def foreign(path: Path) -> list[Path]:
    """Those that are no queues."""
    return [file for _, file in _numbered(path, _FOREIGN)]


def move_away(path: Path) -> Path:
    """Move the queue file and its log out of the way; that is on disk when it returns.

    Nobody has it open: SQLite deletes a log by its name. Returns its new name.

    Raises:
        StorageError: It cannot be renamed.
    """
    kinds = (_WAITING, _KEPT, _FOREIGN)
    taken = [number for kind in kinds for number, _ in _numbered(path, kind)]
    aside = _named(path, _WAITING, max(taken, default=0) + 1)
    try:
        _move(path, aside)
    except OSError as error:
        raise StorageError(f"cannot rename the queue {path}: {error.strerror}") from error
    return aside


def put_by(path: Path) -> Path:
    """Rename what somebody put in the place of the queue. Returns its new name.

    Raises:
        StorageError: It cannot be renamed.
    """
    taken = [number for number, _ in _numbered(path, _FOREIGN)]
    foreign_path = _named(path, _FOREIGN, max(taken, default=0) + 1)
    try:
        rename(path, foreign_path)
    except OSError as error:
        raise StorageError(f"cannot rename the file {path}: {error.strerror}") from error
    return foreign_path


def put_in_place(copy: Path, path: Path) -> None:
    """Make the copy of a queue the queue; that is on disk when it returns.

    Raises:
        StorageError: It cannot be renamed.
    """
    try:
        for old in (log_of(path), index_of(path)):  # of the file that was here
            old.unlink(missing_ok=True)
        rename(copy, path)
        sync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"cannot rename the queue {copy}: {error.strerror}") from error


def finish(path: Path) -> None:
    """Go on with a ``move_away`` that was cut off.

    Raises:
        StorageError: It cannot be renamed.
    """
    files = waiting(path)
    if not files:
        return
    here = path.exists(), log_of(path).exists()
    there = files[-1].exists(), log_of(files[-1]).exists()
    # Of the queue and its log one has moved, and the other has not.
    if there == (False, True) or (there == (True, False) and here == (False, True)):
        try:
            _move(path, files[-1])
        except OSError as error:
            raise StorageError(f"cannot rename the queue {path}: {error.strerror}") from error


def retire(path: Path, file: Path, end: End) -> None:
    """It has been carried over, as far as it can be read: delete it, or give it another name."""
    number = file.name.rpartition("-")[2]
    index_of(file).unlink(missing_ok=True)
    for suffix in ("-wal", ""):
        old = file.with_name(file.name + suffix)
        with suppress(FileNotFoundError):
            if end == "delete":
                unlink(old)
            else:
                rename(old, path.with_name(f"{path.name}.{end}-{number}{suffix}"))
    sync_directory(path.parent)


def delete_kept(path: Path, *, but_for: int = 0) -> bool:
    """Give back the room of those that were kept. Returns whether there were any."""
    files = kept(path)
    files = files[: len(files) - but_for]
    for file in files:
        for name in (log_of(file), file):
            with suppress(FileNotFoundError):
                unlink(name)
    return bool(files)


def _move(path: Path, aside: Path) -> None:
    with suppress(FileNotFoundError):
        rename(log_of(path), log_of(aside))
    try:
        rename(path, aside)
    except FileNotFoundError:
        create_file(aside)  # so that the log does not look like one whose file is still to come
    with suppress(FileNotFoundError):  # it tells which frames of the log count
        index_of(path).rename(index_of(aside))
    sync_directory(path.parent)


def _named(path: Path, kind: str, number: int) -> Path:
    return path.with_name(f"{path.name}.{kind}-{number}")


def _numbered(path: Path, kind: str) -> list[tuple[int, Path]]:
    prefix = f"{path.name}.{kind}-"
    names = {
        entry.name.removeprefix(prefix).removesuffix("-wal").removesuffix("-shm")
        for entry in os.scandir(path.parent)
        if entry.name.startswith(prefix)
    }
    numbers = sorted(int(name) for name in names if name.isdecimal())
    return [(number, _named(path, kind, number)) for number in numbers]


def rename(old: Path, new: Path) -> None:
    """``os.rename``; a seam for the power-loss proof."""
    old.rename(new)


def unlink(path: Path) -> None:
    """``os.unlink``; a seam for the power-loss proof."""
    path.unlink()
