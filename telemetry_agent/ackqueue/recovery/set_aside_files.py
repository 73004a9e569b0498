"""The files that were set aside beside the queue: their names, and how they come and go.

``PATH.damaged-N``, with its log ``PATH.damaged-N-wal``, waits to be carried over into the queue.
When all of its rows are there it is deleted. If rows are missing it is renamed to ``PATH.kept-N``,
for a person to look at; only the last of these is kept. A file in which no row of ours was found
is renamed to ``PATH.foreign-N``, which only the user deletes.

A power cut can come after each step, so ``finish`` is called before a queue is opened. What cannot
be renamed or listed is a StorageError, and what was renamed is synced.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from telemetry_agent.ackqueue.file.schema import ballast_of, create_file, index_of, log_of
from telemetry_agent.disks import sync_directory
from telemetry_agent.errors import StorageError

Kind = Literal["damaged", "kept", "foreign"]
KINDS: tuple[Kind, ...] = ("damaged", "kept", "foreign")

rename, unlink = Path.rename, Path.unlink  # by these names the power-loss proof records them


def waiting(path: Path) -> list[Path]:
    """The files to be carried over into the queue at ``path``, the oldest first."""
    return of_kind(path, "damaged")


def left_at_rest(path: Path) -> list[Path]:
    """What can be seen of a queue whose file is missing: its log, and the files that wait."""
    with suppress(OSError, StorageError):
        left = [log_of(path), *waiting(path)]
        return [] if path.exists() else [file for file in left if file.exists()]
    return []


def of_kind(path: Path, kind: Kind) -> list[Path]:
    """The files of one kind beside the queue at ``path``, the oldest first."""
    return [_named(path, kind, number) for number in _numbers(path, kind)]


def next_to_wait(path: Path) -> Path:
    """The name for the next file to be carried over."""
    return _next(path, "damaged")


def move_away(path: Path) -> Path:
    """Rename the queue file and its log. Returns the new name.

    No connection may have it open: SQLite deletes a log by its name.
    """
    aside = next_to_wait(path)
    _move(path, aside)
    return aside


def put_by(path: Path, files: Sequence[Path]) -> Path:
    """Rename what somebody put in the place of a file of the queue. Returns the new name.

    Args:
        path: Of the queue.
        files: What is theirs of its log, its index, and the file itself, in this order.
    """
    foreign = _next(path, "foreign")
    for file in files:
        # Each by itself: their log without their file would be taken for that of the queue.
        with _renaming(path):
            rename(file, foreign.with_name(foreign.name + file.name.removeprefix(path.name)))
    return foreign


def finish(path: Path) -> None:
    """Complete what a power cut or a kill interrupted."""
    if files := waiting(path):
        names = _names(path.parent)  # of a file with a damaged inode no more can be known
        here, there = (
            (file.name in names, log_of(file).name in names) for file in (path, files[-1])
        )
        # One of the two was renamed and the other was not. (If there is one of the same kind here,
        # both were, and somebody deleted the other.)
        if there[0] != there[1] and not here[there.index(True)]:
            _move(path, files[-1])


def retire(path: Path, file: Path, kind: Kind | None) -> None:
    """Rename a file that was carried over as far as it can be read; ``None``: delete it."""
    number = file.name.rpartition("-")[2]
    with _renaming(path):
        index_of(file).unlink(missing_ok=True)
        for old in (log_of(file), file):
            with suppress(FileNotFoundError):
                if kind is None:
                    unlink(old)
                else:
                    suffix = old.name.removeprefix(file.name)
                    rename(old, path.with_name(f"{path.name}.{kind}-{number}{suffix}"))


def give_name(file: Path, path: Path) -> None:
    """Name a copy of another queue ``path``, or if there is a queue already, as ``put_by``."""
    with _renaming(path):
        try:
            path.hardlink_to(file)  # it replaces none
            unlink(file)
        except FileExistsError:
            rename(file, _next(path, "foreign"))


def delete_empty(path: Path) -> None:
    """Delete the files of a queue of which nothing is needed. Its lock file stays."""
    for file in (ballast_of(path), log_of(path), index_of(path), path):
        file.unlink(missing_ok=True)


def delete_kept(path: Path, *, keep: int = 0) -> bool:
    """Delete the kept files, except the last ``keep``. Returns whether it did any."""
    files = of_kind(path, "kept")
    deleted = False
    for file in files[: len(files) - keep]:
        for name in (log_of(file), file):
            with suppress(OSError):
                unlink(name)
                deleted = True
    return deleted


def _move(path: Path, aside: Path) -> None:
    with _renaming(path):
        with suppress(FileNotFoundError):
            rename(log_of(path), log_of(aside))
        try:
            rename(path, aside)
        except FileNotFoundError:
            # Otherwise ``finish`` would take the log for that of a file still to be renamed.
            create_file(aside)
        with suppress(FileNotFoundError):  # it shows which frames of the log are valid
            index_of(path).rename(index_of(aside))


@contextmanager
def _renaming(path: Path) -> Iterator[None]:
    try:
        yield
        sync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"cannot rename the queue {path}: {error.strerror}") from error


def _next(path: Path, kind: Kind) -> Path:
    """A name that is free; the numbers of all kinds ascend with time."""
    taken = [number for any_kind in KINDS for number in _numbers(path, any_kind)]
    return _named(path, kind, max(taken, default=0) + 1)


def _named(path: Path, kind: Kind, number: int) -> Path:
    return path.with_name(f"{path.name}.{kind}-{number}")


def _numbers(path: Path, kind: Kind) -> list[int]:
    prefix = f"{path.name}.{kind}-"
    numbers = {
        name.removeprefix(prefix).removesuffix("-wal")
        for name in _names(path.parent)
        if name.startswith(prefix)
    }
    return sorted(int(number) for number in numbers if number.isdecimal())


def _names(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise StorageError(f"cannot read the folder {folder}: {error.strerror}") from error
