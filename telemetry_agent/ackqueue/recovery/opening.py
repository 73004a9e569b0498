"""How a queue file is opened, whatever state it is in: within a second, and nothing is deleted.

A file that cannot be used is set aside under another name, and a new one takes its place. The rows
of what was set aside are away from then on; ``carry_over`` carries them over.
"""

import logging
import os
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

from telemetry_agent.ackqueue.file.lock import Note
from telemetry_agent.ackqueue.file.rows import Row
from telemetry_agent.ackqueue.file.schema import PAGE_BYTES, Connect, UnusableError, is_of_the_disk
from telemetry_agent.ackqueue.file.store import Changes, Store
from telemetry_agent.ackqueue.ledger import generation_after
from telemetry_agent.ackqueue.ranges import Span
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.recovery.damaged_file import DamagedFile, sample
from telemetry_agent.ackqueue.recovery.wal import read_log
from telemetry_agent.ackqueue.row_states import DAMAGED, PURGED, Away, Loaded, RowState
from telemetry_agent.errors import StorageError

log = logging.getLogger(__name__)


def open_queue(path: Path, connect: Connect, noted: Note | None) -> tuple[Store, Loaded]:
    """Open the queue file, made if it is not there.

    Args:
        path: Of the file. The caller holds its lock.
        connect: Opens the database.
        noted: What the last holder of the lock wrote down.

    Raises:
        StorageError: The disk refuses; nothing was renamed for that.
    """
    set_aside_files.finish(path)
    try:
        reason, tail = _read_log(path)
    except OSError as error:
        raise StorageError(f"cannot read the log of the queue {path}: {error.strerror}") from error
    if reason is None:
        _note_missing_log(path, noted)
        try:
            store, loaded = _open(path, connect)
        except UnusableError as error:
            reason = str(error)
    if reason is not None:
        say_set_aside(reason, set_aside_files.move_away(path))
        store, loaded = _open(path, connect)
    try:
        return store, _complete(store, loaded, noted, tail)
    except BaseException:
        store.close()
        raise


def say_set_aside(reason: str, name: Path) -> None:
    """Tell what happened to the file."""
    log.error(
        "%s. It is set aside as %s. Recording goes on in a new queue, and what can be read is "
        "carried over",
        reason,
        name,
        extra={"fields": {"STATE": "set aside"}},
    )


def _read_log(path: Path) -> tuple[str | None, list[Row]]:
    """Why the queue cannot be used as it is; and the rows of an end of the log that is torn."""
    found = read_log(set_aside_files.log_of(path), PAGE_BYTES)
    if not found.frames:
        return None, []
    if not path.exists() or path.stat().st_size == 0:
        return f"the queue {path} is empty, but its log is not", []  # SQLite would delete that
    if found.damaged:
        return f"the log of the queue {path} is damaged", []
    if found.taken == len(found.frames):
        return None, []
    with closing(DamagedFile(path)) as wreck:
        return None, list(wreck.rows_of_log(found.taken))


def _note_missing_log(path: Path, noted: Note | None) -> None:
    if noted is None or noted.clean or not path.exists() or set_aside_files.log_of(path).exists():
        return
    log.warning(
        "the log of the queue %s is gone: of what was recorded just before the agent ended, "
        "something may be lost",
        path,
    )


def _open(path: Path, connect: Connect, attempts: int = 2) -> tuple[Store, Loaded]:
    try:
        return _load(path, connect)
    except UnusableError:
        raise
    except StorageError as error:
        if not is_of_the_disk(error):
            raise
        if attempts > 1:
            return _open(path, connect, attempts - 1)
        if _can_write(path.parent):  # so it is the file
            raise UnusableError(str(error)) from error
        raise


def _load(path: Path, connect: Connect) -> tuple[Store, Loaded]:
    with ExitStack() as stack:
        try:
            store = Store(path, connect)
            stack.callback(store.close)
            loaded = store.load()
        except StorageError:
            raise
        except Exception as error:  # SQLite hands on what a damaged file holds, whatever it is
            raise UnusableError(f"the queue {path} is damaged: {error}") from error
        if loaded.damage is not None:
            raise UnusableError(loaded.damage)
        stack.pop_all()
    return store, loaded


def _can_write(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PAGE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    return True


def _complete(store: Store, loaded: Loaded, noted: Note | None, tail: list[Row]) -> Loaded:
    """Add to a file what is not in it."""
    waiting = set_aside_files.waiting(store.path)
    if loaded.last == 0 and loaded.away is None:
        if waiting:
            store.write(Changes(away=_away(waiting, noted)))
        elif noted is not None and noted.oldest <= noted.last:
            _confess(store, noted)
        else:
            return loaded
        return store.load()
    if waiting and loaded.away is None:
        for file in waiting:  # they were carried over; the end of it was cut off
            set_aside_files.retire(store.path, file, "kept")
    tail = sorted(row for row in tail if row[0] > loaded.last)
    if tail:
        _append(store, loaded.last, tail)
        return store.load()
    return loaded


def _away(waiting: list[Path], noted: Note | None) -> Away:
    try:
        _, last = sample(waiting)
    except OSError as error:
        log.warning("cannot read %s: %s", error.filename, error.strerror)
        last = 0
    oldest = 0
    if noted is not None:
        oldest, last = noted.oldest, max(last, noted.last)
    return Away(1, generation_after(last), oldest, last, marked=0)


def _confess(store: Store, noted: Note) -> None:
    """The file was emptied or deleted, and fixes were in it."""
    lost = noted.last - noted.oldest + 1
    log.error(
        "the queue %s is empty: some %d fixes that waited in it are lost",
        store.path,
        lost,
        extra={"fields": {"COUNT": lost}},
    )
    marks: dict[int, Span[RowState] | None] = {
        noted.oldest: Span(noted.oldest, noted.last, DAMAGED)
    }
    if noted.oldest > 1:
        marks[1] = Span(1, noted.oldest - 1, PURGED)
    store.write(Changes(marks=marks))


def _append(store: Store, last: int, tail: list[Row]) -> None:
    """Fixes of a commit that the power cut, or of which a bit was flipped since."""
    log.warning("the queue %s: %d fixes of a torn commit are whole", store.path, len(tail))
    marks: dict[int, Span[RowState] | None] = {}
    for row in tail:
        if row[0] > last + 1:
            marks[last + 1] = Span(last + 1, row[0] - 1, PURGED)
        last = row[0]
    store.write(Changes(marks=marks, arrived=tail))
