"""How a queue file is opened in any state: within a second, and without deleting anything.

A file that cannot be used is set aside under another name, and a new one takes its place. The rows
of what was set aside are away from then on; ``carry_over`` carries them over.
"""

import errno
import logging
from contextlib import ExitStack, suppress
from pathlib import Path

from telemetry_agent.ackqueue.file.lock import UNKNOWN, QueueSummary
from telemetry_agent.ackqueue.file.rows import Row
from telemetry_agent.ackqueue.file.schema import (
    PAGE_BYTES,
    Connect,
    UnusableError,
    is_of_the_disk,
    log_of,
)
from telemetry_agent.ackqueue.file.store import Changes, Store
from telemetry_agent.ackqueue.generations import border_up_to, is_border, next_border, spare_below
from telemetry_agent.ackqueue.ranges import Span
from telemetry_agent.ackqueue.reading import decoded
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.recovery.damaged_file import sample
from telemetry_agent.ackqueue.recovery.wal import Log, read_log, without_end
from telemetry_agent.ackqueue.row_states import UNCOUNTED, Loaded, RowState, State
from telemetry_agent.errors import StorageError
from telemetry_agent.fields import rfc3339

log = logging.getLogger(__name__)


def open_file(path: Path, connect: Connect, summary: QueueSummary) -> tuple[Store, Loaded]:
    """Open the queue file, made if it is not there.

    Args:
        path: Of the file. The caller holds its lock.
        connect: Opens the database.
        summary: Of the last holder of the lock.

    Raises:
        StorageError: The disk refuses. For that no file is set aside.
    """
    set_aside_files.finish(path)
    try:
        log_of_it = read_log(path)
        end_is_lost = _lacks_its_end(path, log_of_it, summary)
        is_torn = end_is_lost and not _is_empty(path)
    except OSError as error:
        raise StorageError(f"cannot read the log of the queue {path}: {error.strerror}") from error
    reason = log_of_it.damage  # before SQLite drops its end from the first wrong frame
    if reason is None and is_torn:
        reason = without_end(path)
    if reason is None:
        try:
            return _completed(path, connect, summary, end_is_lost=end_is_lost)
        except UnusableError as error:  # also where only a write finds the damaged page
            reason = str(error)
    say_set_aside(reason, set_aside_files.move_away(path))
    return _completed(path, connect, summary, end_is_lost=end_is_lost)


def _lacks_its_end(path: Path, found: Log, summary: QueueSummary) -> bool:
    """Whether the end of what was recorded is gone with the log, or a part of it."""
    is_empty = _is_empty(path)
    if found.frames or (log_of(path).exists() and not is_empty):
        return found.end_is_lost
    # A queue that was not closed has a file and a log, unless the last one was just set aside: its
    # summary is there then, with rows of its own.
    waiting = set_aside_files.waiting(path)
    was_set_aside = is_empty and waiting and not is_border(summary.last)
    # Or all of it was copied when somebody deleted one of its files (``QueueFile.copy_aside``).
    return not (summary.clean or was_set_aside or 0 < summary.last <= _ends_of(waiting)[1])


def _is_empty(path: Path) -> bool:
    return not path.exists() or path.stat().st_size < PAGE_BYTES


def say_set_aside(reason: str, name: Path) -> None:
    """Log what happened to the file."""
    log.error(
        "%s. It is set aside as %s. Recording continues in a new queue, and what can be read is "
        "carried over",
        reason,
        name,
        extra={"fields": {"STATE": "set aside"}},
    )


def _completed(
    path: Path, connect: Connect, summary: QueueSummary, *, end_is_lost: bool
) -> tuple[Store, Loaded]:
    """Open the file and enter what is not in it: that others wait, and what is lost."""
    store, loaded = _open(path, connect, summary.last)
    try:
        waiting = set_aside_files.waiting(path)
        had_ready = summary.away or summary.oldest <= summary.last
        is_emptied = loaded.last == 0 and (had_ready or summary.lost > 0)
        if is_emptied and had_ready and not waiting:
            log.error("the queue %s is empty: the fixes that waited in it are lost", path)
        is_carrying = any(mark.state is State.AWAY for mark, _ in loaded.marks.totals())
        if (waiting or is_emptied or end_is_lost) and not is_carrying:
            newest, last = _ends_of(waiting)
            loaded = _begin(store, loaded, summary, last, end_is_lost=end_is_lost)
            if end_is_lost:
                _say_end_is_lost(path, newest)
    except BaseException:
        with suppress(StorageError):
            store.close()
        raise
    return store, loaded


def _open(path: Path, connect: Connect, last: int, attempts: int = 2) -> tuple[Store, Loaded]:
    """Open it; ``last``: a file with rows has at least this many."""
    try:
        with ExitStack() as stack:
            store = Store(path, connect)
            stack.callback(store.close)
            loaded = store.load()
            stack.pop_all()
    except StorageError as error:
        if not is_of_the_disk(error):
            raise
        if attempts > 1:
            return _open(path, connect, last, attempts - 1)
        # A disk that is full, read-only, or fails as a whole may be right again at the next start.
        # Sectors that cannot be read will not.
        if not _is_readable(path):
            raise UnusableError(str(error)) from error
        raise
    except MemoryError:
        raise
    except Exception as error:  # SQLite returns what a damaged file holds, of any type
        raise UnusableError(f"the queue {path} is damaged: {error}") from error
    damage = loaded.damage
    if damage is None and 0 < loaded.last < last:  # an older copy, or its newest are in no tree
        damage = f"the newest fixes of the queue {path} are missing"
    if damage is not None:
        store.close()
        raise UnusableError(damage)
    return store, loaded


def _is_readable(path: Path) -> bool:
    """Read all of it. No connection has it open."""
    try:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    except OSError as error:
        return error.errno != errno.EIO
    return True


def _ends_of(waiting: list[Path]) -> tuple[list[Row], int]:
    """Look at the ends of these files; see ``sample``."""
    try:
        return sample(waiting)
    except OSError as error:
        log.warning("cannot read %s: %s", waiting[-1], error.strerror)
        return [], 0


def _say_end_is_lost(path: Path, newest: list[Row]) -> None:
    known = decoded(newest[-1:])
    log.error(
        "the end of the log of the queue %s is gone: what was recorded since %s may be lost, "
        "at least 1 fix",
        path,
        rfc3339(known[0].fix.time_ms) if known else "the last start",
        extra={"fields": {"COUNT": 1}},
    )


def _begin(
    store: Store, loaded: Loaded, summary: QueueSummary, last: int, *, end_is_lost: bool
) -> Loaded:
    """Have the rows of the files that wait, or of one that was emptied, come below those of this.

    This one is new. Or the end of carrying over was cut off, or it began in another version: then
    it is a new generation already, and to go through the files again changes nothing.

    Args:
        store: The file.
        loaded: What is in it.
        summary: Of the last holder of the lock.
        last: The highest number that is known of the files that wait.
        end_is_lost: The end of the log is gone: nobody knows how many rows it held.
    """
    oldest = None
    before = 0
    uncounted = int(end_is_lost)
    if loaded.last == 0 and summary is not UNKNOWN:
        if last < max(border_up_to(summary.last), 1):  # no mark of that file is in those that wait
            uncounted += summary.lost
        if not is_border(summary.last):  # that file had rows of its own
            last = max(last, summary.last)
        if summary.away:  # what it says of its own rows is not true of older ones
            before = border_up_to(summary.last)
        if not before or last > before:
            oldest = summary.oldest
        last = last or summary.last  # a border: all its rows were carried over from older files
    border = border_up_to(loaded.last)
    # Those that are here already have no mark.
    last = max([last, *(row[0] for row in store.read_back(border, 1))])
    if border < max(last, 1):  # it began no generation above the rows of those files
        last = max(last, loaded.last)
        border = next_border(last)
    away = RowState(State.AWAY, oldest_pending=oldest)
    gaps = [*loaded.marks.gaps(last + 1, border - 1), (border, border)]
    spans = [Span(*gap, away) for gap in gaps]
    if before:
        spans.append(Span(before, before, RowState(State.AWAY)))
    spare = spare_below(border)
    spans.append(Span(spare - uncounted + 1, spare, UNCOUNTED))
    changed: set[int] = set()
    for span in spans:
        if span.size > 0:
            changed |= loaded.marks.paint(*span)
    marks = {lo: loaded.marks.starting_at(lo) for lo in changed}
    run = summary.run  # of a stream that the file may not know of
    is_missing = run is not None and all(other.lo < run.lo for other in loaded.streams)
    store.write(Changes(marks=marks, streams={run.lo: run} if run and is_missing else {}))
    return store.load()
