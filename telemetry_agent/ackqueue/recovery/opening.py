"""How a queue file is opened in any state: within a second, and without deleting anything.

A file that cannot be used is set aside under another name, and a new one takes its place. The rows
of what was set aside are away from then on; ``carry_over`` carries them over.
"""

import errno
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

from telemetry_agent.ackqueue.file.lock import UNKNOWN, QueueSummary
from telemetry_agent.ackqueue.file.rows import SEQ, STREAM, Row, decode
from telemetry_agent.ackqueue.file.schema import PAGE_BYTES, Connect, UnusableError, is_of_the_disk
from telemetry_agent.ackqueue.file.store import Changes, Store
from telemetry_agent.ackqueue.generations import border_up_to, is_border, next_border, spare_below
from telemetry_agent.ackqueue.ranges import Span, runs
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.recovery.damaged_file import DamagedFile, Tail, sample
from telemetry_agent.ackqueue.recovery.wal import read_log
from telemetry_agent.ackqueue.row_states import (
    DAMAGED,
    PURGED,
    UNCOUNTED,
    UNUSED,
    Loaded,
    RowState,
    State,
    StreamRun,
)
from telemetry_agent.ackqueue.streams import Streams
from telemetry_agent.errors import StorageError
from telemetry_agent.fields import rfc3339

log = logging.getLogger(__name__)


def open_queue(path: Path, connect: Connect, summary: QueueSummary) -> tuple[Store, Loaded]:
    """Open the queue file, made if it is not there.

    Args:
        path: Of the file. The caller holds its lock.
        connect: Opens the database.
        summary: Of the last holder of the lock.

    Raises:
        StorageError: The disk refuses. For that no file is set aside.
    """
    copy = set_aside_files.finish(path)
    if copy is not None:
        log.error("the queue was being written again: the copy %s waits to be carried over", copy)
    try:
        reason, tail, end_is_lost = _read_log(path, summary)
        end_is_lost = end_is_lost and not (copy is not None and _is_whole(copy))
    except OSError as error:
        raise StorageError(f"cannot read the log of the queue {path}: {error.strerror}") from error
    if reason is None:
        try:
            return _completed(path, connect, summary, tail, end_is_lost=end_is_lost)
        except UnusableError as error:  # also where only a write finds the damaged page
            reason = str(error)
    say_set_aside(reason, set_aside_files.move_away(path))
    return _completed(path, connect, summary, Tail(), end_is_lost=end_is_lost)


def _read_log(path: Path, summary: QueueSummary) -> tuple[str | None, Tail, bool]:
    """Look at the log before SQLite does, which drops its end from the first wrong frame.

    Returns:
        Why the queue cannot be used as it is; what SQLite does not see; and whether the end of what
        was recorded is lost.
    """
    none = Tail()
    log_path = set_aside_files.log_of(path)
    found = read_log(log_path, PAGE_BYTES)
    if not path.exists() or path.stat().st_size < PAGE_BYTES:
        # SQLite would delete the log.
        if found.frames:
            return f"the queue {path} is empty, but its log is not", none, found.end_is_lost
        # A queue that was opened once is not empty, unless the last one was just set aside: its
        # summary is there then, with rows of its own.
        was_set_aside = set_aside_files.waiting(path) and not is_border(summary.last)
        return None, none, not (summary.clean or was_set_aside)
    if not log_path.exists():
        return None, none, not summary.clean
    if found.damaged:
        return f"the log of the queue {path} is damaged", none, found.end_is_lost
    if found.taken == found.frames:
        return None, none, found.end_is_lost
    with closing(DamagedFile(path)) as damaged:
        return None, damaged.tail(found.taken), found.end_is_lost


def _is_whole(copy: Path) -> bool:
    """Whether it has as many pages as it says: the copying came to its end."""
    with copy.open("rb") as file:
        pages = int.from_bytes(file.read(32)[28:])
    return 0 < pages * PAGE_BYTES == copy.stat().st_size


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
    path: Path, connect: Connect, summary: QueueSummary, tail: Tail, *, end_is_lost: bool
) -> tuple[Store, Loaded]:
    """Open the file and enter what is not in it: the tail of its log, and what is lost."""
    store, loaded = _open(path, connect)
    try:
        waiting = set_aside_files.waiting(path)
        if waiting and not _is_carrying(loaded):
            loaded = _begin(store, loaded, summary, waiting)
        elif loaded.last == 0 and (summary.away or summary.oldest <= summary.last):
            loaded = _enter_loss(store, loaded, summary)
        if rows := [row for row in tail.rows if row[0] > loaded.last]:
            loaded = _append(store, loaded, rows, _left_behind(tail))
        if end_is_lost or 0 < loaded.last < summary.last:
            loaded = _enter_lost_end(store, loaded, summary)
    except BaseException:
        with suppress(StorageError):
            store.close()
        raise
    return store, loaded


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
        # A disk that is full, read-only, or fails as a whole may be right again at the next start.
        # Sectors that cannot be read will not.
        if not _is_readable(path):
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
        except Exception as error:  # SQLite returns what a damaged file holds, of any type
            raise UnusableError(f"the queue {path} is damaged: {error}") from error
        if loaded.damage is not None:
            raise UnusableError(loaded.damage)
        stack.pop_all()
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


def _is_carrying(loaded: Loaded) -> bool:
    return any(mark.state is State.AWAY for mark, _ in loaded.marks.totals())


def _begin(store: Store, loaded: Loaded, summary: QueueSummary, waiting: list[Path]) -> Loaded:
    """Have the rows of the files that wait come below those of this one.

    This one is new. Or the end of carrying over was cut off, or it began in another version: then
    it is a new generation already, and to go through the files again changes nothing.
    """
    try:
        _, last = sample(waiting)
    except OSError as error:
        log.warning("cannot read %s: %s", error.filename, error.strerror)
        last = 0
    oldest = None
    before = 0
    if loaded.last == 0 and summary is not UNKNOWN:
        if not is_border(summary.last):  # that file had rows of its own
            last = max(last, summary.last)
        if summary.away:  # what it says of its own rows is not true of older ones
            before = border_up_to(summary.last)
        if not before or last > before:
            oldest = summary.oldest
    border = border_up_to(loaded.last)
    if border < max(last, 1):  # it began no generation above the rows of those files
        last = max(last, loaded.last)
        border = next_border(last)
    away = RowState(State.AWAY, oldest_pending=oldest)
    gaps = [*loaded.marks.gaps(last + 1, border - 1), (border, border)]
    spans = [Span(*gap, away) for gap in gaps]
    if before:
        spans.append(Span(before, before, RowState(State.AWAY)))
    return _write(store, loaded, spans, streams=_missing_run(loaded, summary))


def _enter_loss(store: Store, loaded: Loaded, summary: QueueSummary) -> Loaded:
    """The file was emptied or deleted, and fixes were in it."""
    spans = _missing(1, summary, DAMAGED)
    lost = sum(span.size for span in spans if span.value == DAMAGED)
    log.error(
        "the queue %s is empty: some %d fixes that waited in it%s are lost",
        store.path,
        lost,
        ", and an unknown number of older ones," if spans[-1].value == UNCOUNTED else "",
        extra={"fields": {"COUNT": lost}},
    )
    return _write(store, loaded, spans, streams=_missing_run(loaded, summary))


def _enter_lost_end(store: Store, loaded: Loaded, summary: QueueSummary) -> Loaded:
    """The end of the log is gone: up to the last row of the summary, or one fix at least."""
    first = loaded.last + 1
    if _is_carrying(loaded):  # after its last row there may be others that were not found yet
        spare = spare_below(border_up_to(loaded.last))
        spans = [Span(spare, spare, UNCOUNTED)]
    else:
        last = max(first, summary.last)
        summary = summary._replace(oldest=min(summary.oldest, last), last=last)
        spans = _missing(first, summary, UNCOUNTED)
    lost = sum(span.size for span in spans if span.value == UNCOUNTED)
    newest = store.read_back(loaded.last, 1)
    known = [record for row in newest if (record := decode(row)) is not None]
    log.error(
        "the end of the log of the queue %s is gone: what was recorded since %s may be lost, at "
        "least %d fixes",
        store.path,
        rfc3339(known[0].fix.time_ms) if known else "the last start",
        lost,
        extra={"fields": {"COUNT": lost}},
    )
    return _write(store, loaded, spans, streams=_missing_run(loaded, summary))


def _missing(since: int, summary: QueueSummary, lost: RowState) -> list[Span[RowState]]:
    """The marks of the rows from that one on, of which there is only a summary.

    Nothing shows where the rows of a generation ended before the last border. So it is not known
    how many are missing there; the last span says so.
    """
    border = border_up_to(summary.last)
    first = max(since, border + 1)
    pending = max(first, summary.oldest)
    spans = [Span(first, pending - 1, PURGED), Span(pending, summary.last, lost)]
    if since <= border:
        upto = max(since, 1 if summary.away else min(summary.oldest, border + 1)) - 1
        spans += [Span(since, upto, PURGED), Span(upto + 1, border, UNUSED)]
        if upto < border:
            spare = spare_below(border)
            spans.append(Span(spare, spare, UNCOUNTED))
    return [span for span in spans if span.size > 0]


def _left_behind(tail: Tail) -> list[Span[RowState]]:
    """The numbers that its rows had before, in a file that was set aside."""
    numbers = {
        run.lo + row[SEQ] - run.first_seq
        for row in tail.rows
        for run in tail.streams
        if run.stream == row[STREAM] and run.lo <= border_up_to(row[0])
    }
    known = (n for n in sorted(numbers) if any(span.lo <= n <= span.hi for span in tail.unused))
    return [Span(lo, hi, UNUSED) for lo, hi in runs(known)]


def _append(store: Store, loaded: Loaded, rows: list[Row], unused: list[Span[RowState]]) -> Loaded:
    """Fixes of a commit that the power cut, or of which a bit was flipped since."""
    log.warning(
        "the queue %s: recovered %d fixes from an interrupted commit", store.path, len(rows)
    )
    numbers = [loaded.last, *(row[0] for row in rows)]
    between = [Span(lo + 1, hi - 1, UNUSED) for lo, hi in pairwise(numbers) if hi > lo + 1]
    streams = Streams(loaded.streams, loaded.marks)
    for row in rows:
        streams.begin(row[0], row[STREAM], row[SEQ])
    return _write(store, loaded, [*unused, *between], rows, streams.take_changes())


def _missing_run(loaded: Loaded, summary: QueueSummary) -> dict[int, StreamRun | None]:
    """The stream that the summary names, where the file does not know of it."""
    run = summary.run
    if run is None or any(known.lo >= run.lo for known in loaded.streams):
        return {}
    return {run.lo: run}


def _write(
    store: Store,
    loaded: Loaded,
    spans: list[Span[RowState]],
    rows: Sequence[Row] = (),
    streams: Mapping[int, StreamRun | None] = MappingProxyType({}),
) -> Loaded:
    changed: set[int] = set()
    for span in spans:
        changed |= loaded.marks.paint(*span)
    marks = {lo: loaded.marks.starting_at(lo) for lo in changed}
    store.write(Changes(marks=marks, arrived=rows, streams=streams))
    return store.load()
