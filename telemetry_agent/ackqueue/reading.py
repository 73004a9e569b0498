"""Reads the fixes of a queue in use, and a queue at rest without a change to any file.

SQLite makes an index beside a log even if it only reads, and changes the owner of what root opens.
So a file with a log is read in place only if it has an index already, and if root does not read a
file of another user. Otherwise, and if it is damaged, a private copy is read.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from telemetry_agent.ackqueue.file.lock import lock_path
from telemetry_agent.ackqueue.file.rows import TIME_MS, Row, decode, is_sound
from telemetry_agent.ackqueue.file.schema import index_of, log_of
from telemetry_agent.ackqueue.file.store import ROWS_PER_READ, Store
from telemetry_agent.ackqueue.ledger import Ledger
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.recovery.wal import read_log, without_end
from telemetry_agent.ackqueue.row_states import RowState, State
from telemetry_agent.ackqueue.stats import QueueStats, Stored, count, size_on_disk
from telemetry_agent.errors import StorageError
from telemetry_agent.model import Record

if TYPE_CHECKING:
    from telemetry_agent.ackqueue.shared_state import SharedState

QueueSource: TypeAlias = "SharedState | QueueReader"
"""A queue in use, or at rest."""
_BLOCK_BYTES = 1 << 20
_SECTORS_BYTES = 4096

V = TypeVar("V")


class QueueReader:
    """A queue at rest: the methods of ``AckQueue`` that change nothing.

    Args:
        path: of the queue, as ``readable`` names it.

    Raises:
        StorageError: it is damaged so that it cannot be opened, or the disk refuses.
        OSError: its log cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock: AbstractContextManager[object] = nullcontext()
        log = read_log(path)  # before the database is open
        self.store = Store(path, None)
        loaded = self.store.load()
        self.ledger = Ledger(loaded)
        self.committed = loaded.last
        self.damage = log.damage or loaded.damage
        if self.damage is None and log.end_is_lost:
            self.damage = without_end(path)

    def opened(self) -> AbstractContextManager[object]:
        """See ``SharedState.opened``; nobody else uses it."""
        return self.lock

    def ask(self, read: Callable[[Store], V]) -> V:
        """Read something from the file."""
        return read(self.store)

    def stats(self) -> QueueStats:
        """See ``AckQueue.stats``."""
        oldest, size = self.ledger.oldest_pending(), size_on_disk(self.path)
        rows = self.store.read([(oldest, oldest)]) if oldest is not None else ()
        oldest_ms = next((row[TIME_MS] for row in rows if is_sound(row)), None)
        return count(self.ledger, 0, 0, oldest_ms, size, full=False)

    def stored(self, state: State | None = None) -> Iterator[Stored]:
        """See ``AckQueue.stored``."""
        return stored(self, state)

    def newest(self, limit: int) -> list[Record]:
        """See ``AckQueue.newest``."""
        rows = self.store.read_back(self.committed, limit)
        return decoded(rows)

    def newest_ms(self) -> int | None:
        """See ``AckQueue.newest_ms``."""
        return newest_sure_ms(self.newest(ROWS_PER_READ))

    def close(self) -> None:
        """Close the file."""
        self.store.close()


def stored(source: QueueSource, state: State | None) -> Iterator[Stored]:
    """See ``AckQueue.stored``; also of a queue at rest."""
    with source.lock:
        row, last = 1, source.committed
        if state is State.READY:  # most have no mark: look at each row from the oldest pending on
            row = source.ledger.oldest_pending() or last + 1
    while row <= last:
        with source.opened():
            ranges = [(row, last)]
            if state is not None and state is not State.READY:
                with source.lock:
                    ranges = source.ledger.in_state(state, ROWS_PER_READ, row)
            rows = source.ask(partial(Store.read, ranges=ranges, limit=ROWS_PER_READ))
            row = ranges[-1][1] + 1 if ranges else last + 1
            if len(rows) == ROWS_PER_READ:  # these ranges have more
                row = rows[-1][0] + 1
            with source.lock:
                marks = [source.ledger.state_of(found[0]) for found in rows]
            found = source.ask(partial(_with_reasons, rows, marks, state))
        yield from found


def decoded(rows: Iterable[Row]) -> list[Record]:
    """The sound ones of these rows."""
    return [record for row in rows if (record := decode(row)) is not None]


def newest_sure_ms(newest_first: Iterable[Record]) -> int | None:
    """The time of the first fix whose time is not in doubt."""
    return next((r.fix.time_ms for r in newest_first if r.fix.time_is_sure), None)


def _with_reasons(
    rows: list[Row], marks: list[RowState], state: State | None, store: Store
) -> list[Stored]:
    found = []
    for row, mark in zip(rows, marks, strict=True):
        if mark.state > 0 and state in {None, mark.state} and (record := decode(row)) is not None:
            reason = mark.reason
            if mark.state is State.ACK_FAILED and reason is None:
                reason = store.reason(row[0])
            found.append(Stored(record, mark.state, reason))
    return found


@contextmanager
def readable(path: Path) -> Iterator[Path]:
    """The queue, or a private copy of it during the block; raises as ``copied``."""
    log, index = log_of(path), index_of(path)
    for file in (path, log, index):
        # The owner of the folder can put a pipe there, which would block this process.
        if file.exists() and not file.is_file():
            raise StorageError(f"{file} is not a regular file")
    is_others = os.geteuid() == 0 and path.exists() and path.stat().st_uid != 0
    if not log.exists() or (index.exists() and not is_others):
        yield path
        return
    with copied(path) as copy:
        yield copy


@contextmanager
def copied(path: Path) -> Iterator[Path]:
    """A private copy of the queue, and of what an agent would find beside it, during the block.

    Raises:
        StorageError: it cannot be read, or the disk has too little room for the copy.
    """
    databases = [path, *set_aside_files.waiting(path)]
    files = [*databases, *map(log_of, databases), lock_path(path)]
    with TemporaryDirectory(prefix="telemetry-agent-") as folder:
        for file in files:
            with suppress(FileNotFoundError):
                _copy(file, Path(folder, file.name))
        yield Path(folder, path.name)


def _copy(source: Path, target: Path) -> None:
    try:  # without O_NONBLOCK, to open a pipe would wait for its other end
        original = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"cannot read {source}: {error.strerror}") from error
    try:
        status = os.fstat(original)
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(f"{source} is not a regular file")
        with target.open("wb") as copy:
            for offset in range(0, status.st_size, _BLOCK_BYTES):
                copy.write(_block(original, offset, min(_BLOCK_BYTES, status.st_size - offset)))
    except OSError as error:
        raise StorageError(
            f"cannot make a copy of {source} in {target.parent} to look at: {error.strerror}",
            "make room there, or name another folder in TMPDIR",
        ) from error
    finally:
        os.close(original)


def _block(file: int, offset: int, size: int) -> bytes:
    try:
        return os.pread(file, size, offset)
    except OSError:  # only the sectors that cannot be read any more become zeros
        if size <= _SECTORS_BYTES:
            return bytes(size)
        starts = range(offset, offset + size, _SECTORS_BYTES)
        return b"".join(_block(file, o, min(_SECTORS_BYTES, offset + size - o)) for o in starts)
