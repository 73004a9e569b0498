"""A copy of a queue in use, for another folder: its own is gone, and cannot be made again."""

from contextlib import closing
from pathlib import Path

from telemetry_agent.ackqueue.file.schema import FullError, connect
from telemetry_agent.ackqueue.file.store import ROWS_PER_READ, Changes, Store
from telemetry_agent.ackqueue.ranges import RangeMap
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.row_states import DROPPED, PURGED, RowState, State
from telemetry_agent.ackqueue.shared_state import SharedState

_MARKS_BYTES = 1 << 16


def copy_to(shared: SharedState, path: Path, max_bytes: int) -> None:
    """Copy what is on disk to ``path``, or to a queue of its own beside the one there.

    If that is more than ``max_bytes``: only what waits and the dead letters, the newest first.
    What does not fit counts as lost there, ``dropped``.

    Raises:
        StorageError: The disk refuses.
    """
    part = path.with_name(f"{path.name}.part")
    with shared.opened():
        set_aside_files.delete_empty(part)
        if shared.store.size().bytes <= max_bytes:
            shared.store.copy_to(part)
        else:
            _copy_waiting(shared, part, max_bytes)
    set_aside_files.give_name(part, path)


def _copy_waiting(shared: SharedState, path: Path, max_bytes: int) -> None:
    marks: RangeMap[RowState] = RangeMap()
    with shared.lock:
        streams = {run.lo: run for run in shared.ledger.streams.runs}
        last_row = shared.committed
        for lo, hi, mark in shared.ledger.marks.within(1, last_row):
            marks.paint(lo, hi, PURGED if mark.state is State.ACKED else mark)
    waiting = [*marks.gaps(1, last_row)]
    waiting += [span[:2] for span in marks.where(lambda mark: mark.state > State.GONE)]
    with closing(Store(path, connect)) as copy:
        spans = {span.lo: shared.store.with_reason(span) for span in marks}
        copy.write(Changes(marks=spans, streams=streams))
        copy.limit(max_bytes, max_bytes)
        dropped: set[int] = set()
        for lo, last in sorted(waiting, reverse=True):
            for hi in range(last, lo - 1, -ROWS_PER_READ):
                some = max(lo, hi - ROWS_PER_READ + 1), hi
                if not dropped:
                    try:
                        copy.write(Changes(arrived=shared.read(some)))
                        continue
                    except FullError:
                        copy.limit(max_bytes + _MARKS_BYTES, max_bytes)
                dropped |= marks.paint(*some, DROPPED)
        copy.write(Changes(marks={lo: marks.starting_at(lo) for lo in dropped}))
