"""Check a queue against its checksums. Nothing is changed, not even what is damaged.

Each row and each mark is checked, at most 1,000 in a transaction, so that a running agent continues
to record. At rest SQLite checks the structure of the file as well.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from telemetry_agent.ackqueue.file.rows import Row, decode, is_sound, read_mark
from telemetry_agent.ackqueue.file.schema import NewerError
from telemetry_agent.ackqueue.file.store import ROWS_PER_READ
from telemetry_agent.ackqueue.ledger import SPANS_PER_HOLD
from telemetry_agent.ackqueue.ranges import ABOVE_ALL, Span
from telemetry_agent.ackqueue.reading import QueueReader, QueueSource
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.row_states import DAMAGED, RowState
from telemetry_agent.ackqueue.stats import size_on_disk
from telemetry_agent.errors import StorageError
from telemetry_agent.fields import rfc3339

_LOSSES_MAX = 20

Report = Generator[dict[str, Any], None, None]


Loss = dict[str, Any]
"""Some fixes that were lost to damage: their ``count``, and the fixes ``after`` and ``before``
which they were, with ``stream``, ``seq`` and ``time``, if they exist."""


def described(loss: Loss) -> str:
    """Say it in a sentence of the log."""
    after, before = (
        f"{fix['time']} ({fix['stream']}:{fix['seq']})" if fix else where_none_is
        for fix, where_none_is in ((loss["after"], "the beginning"), (loss["before"], "the end"))
    )
    return f"{loss['count']} between {after} and {before}"


def losses(source: QueueSource, limit: int) -> list[Loss]:
    """Find what was lost to damage, and where; the newest ``limit``. Hold the disk lock.

    Raises:
        StorageError: The file cannot be read.
    """
    spans = list(islice(_damaged(source), limit))
    with source.lock:
        last = source.committed
    return [
        {
            "count": span.size,
            "after": _named(source.store.read_back(span.lo - 1, 1)),
            "before": _named(source.store.read([(span.hi + 1, last)], 1)),
        }
        for span in reversed(spans)
    ]


def _damaged(source: QueueSource) -> Iterator[Span[RowState]]:
    """The newest first. The memory lock is held for some spans at a time."""
    row = ABOVE_ALL
    while row > 0:
        with source.lock:
            some = list(islice(source.ledger.marks.descending(row), SPANS_PER_HOLD))
        yield from (span for span in some if span.value == DAMAGED)
        row = some[-1].lo - 1 if some else 0


def verify_at_rest(path: Path, file: Path, *, all_pages: bool = True) -> Report:
    """Check a queue that no process uses; see ``verify``.

    Args:
        path: Of the queue.
        file: The file to read: the same one, or a copy of it with its log.
        all_pages: Let SQLite read the whole file first, to check its structure.

    Raises:
        OSError: The log cannot be read.
    """
    try:
        source = QueueReader(file)
    except StorageError as error:
        structure = str(error).replace(str(file), str(path))
        yield _report(path, structure=structure) | {"newer": isinstance(error, NewerError)}
        return
    with closing(source):
        structure = source.damage or (source.store.integrity() if all_pages else "ok")
        yield from verify(source, path, structure.replace(str(file), str(path)))


def verify(source: QueueSource, path: Path, structure: str = "ok") -> Report:
    """Check the queue at ``path``. Yields the counts after each portion, and a report at the end.

    The counts are ``rows``; ``damaged``: those of them whose checksum is wrong; ``missing``: rows
    that should be there; ``damaged_marks``: the rows of such a mark are sent again. The report adds
    ``structure`` of the file ("ok", or what is wrong); ``set_aside``: the files beside it, with
    ``file``, ``bytes`` and ``state`` ("waiting" to be carried over, "kept", or "foreign");
    ``lost``: each ``Loss`` so far; and ``sound``: nothing is damaged, and no file waits.
    """
    counts = dict.fromkeys(("rows", "damaged", "missing", "damaged_marks"), 0)
    lost: list[Loss] = []
    try:
        for _ in _check(source, counts):
            yield dict(counts)
        with source.opened():
            lost = losses(source, _LOSSES_MAX)
    except StorageError as error:
        structure = str(error)
    yield _report(path, counts, structure, lost)


def _check(source: QueueSource, counts: dict[str, int]) -> Iterator[None]:
    """Count. Yields after each portion."""
    row = 1
    while True:
        with source.opened():
            with source.lock:
                last = source.committed
            rows = source.store.read([(row, last)], ROWS_PER_READ)
            upto = rows[-1][0] if len(rows) == ROWS_PER_READ else last
            with source.lock:
                expected = source.ledger.on_disk(row, upto)
        counts["rows"] += len(rows)
        counts["missing"] += max(0, expected - len(rows))
        counts["damaged"] += sum(not is_sound(found) for found in rows)
        yield
        row = upto + 1
        if row > last:
            break
    mark = 0
    while True:
        with source.opened():
            marks = source.store.read_marks(mark)
        counts["damaged_marks"] += sum(read_mark(found) is None for found in marks)
        if not marks:
            return
        mark = marks[-1][0]
        yield


def _report(
    path: Path,
    counts: dict[str, int] | None = None,
    structure: str = "ok",
    lost: list[Loss] | None = None,
) -> dict[str, Any]:
    set_aside = [
        {
            "file": file.name,
            "bytes": size_on_disk(file),
            "state": "waiting" if kind == "damaged" else kind,
        }
        for kind in set_aside_files.KINDS
        for file in set_aside_files.of_kind(path, kind)
    ]
    counts = counts or {}
    faults = [count for name, count in counts.items() if name != "rows"]
    waiting = [file for file in set_aside if file["state"] == "waiting"]
    return {
        **counts,
        "structure": structure,
        "set_aside": set_aside,
        "lost": lost or [],
        "sound": structure == "ok" and not any(faults) and not waiting,
    }


def _named(rows: Iterable[Row]) -> dict[str, Any] | None:
    for record in filter(None, map(decode, rows)):
        return {"stream": record.stream, "seq": record.seq, "time": rfc3339(record.fix.time_ms)}
    return None
