"""What can still be read of queue files that were set aside: rows, and what became of them.

Every page is looked at: those of a file and those of its log, which holds newer versions of some.
First all of them are gone through to learn which row each begins with; then the rows come in the
order of their numbers. Both are done in portions, so a reader can stop, and continue at any row. A
row that the newest version of its page has lost is taken from an older one.
"""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain, islice
from pathlib import Path

from telemetry_agent.ackqueue.file.rows import (
    COLUMNS,
    MARK_COLUMNS,
    STREAM_COLUMNS,
    Row,
    is_sound,
    read_mark,
    read_stream,
)
from telemetry_agent.ackqueue.file.schema import PAGE_BYTES, is_newer, log_of
from telemetry_agent.ackqueue.generations import border_before, border_up_to, next_border
from telemetry_agent.ackqueue.ranges import RangeMap, Span, runs
from telemetry_agent.ackqueue.recovery.pages import leaf_records
from telemetry_agent.ackqueue.recovery.wal import content_of, page_of, read_log
from telemetry_agent.ackqueue.row_states import RowState, State, StreamRun, without_reason

_PAGES_PER_LOOK = 500
_ROWS_PER_PORTION = 500
_PROBE_PAGES = 128
_PROBE_FRAMES = 1000  # as a rule a log has 200

_PLACE_BITS, _FILE_BITS = 32, 8


class DamagedFile:
    """One file with its log. A page has a place for each version of it, the newest last.

    No database is open at this path meanwhile: see ``wal.read_log``.
    """

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            OSError: It cannot be read.
        """
        self.path = path
        self.has_rows = False
        """Whether a row or a mark of ours was found so far."""
        self.refused = 0
        """How often the disk refused to read a page."""
        with ExitStack() as stack:
            # Somebody can have deleted the file and left its log.
            place = path if path.exists() else Path(os.devnull)
            self._file = stack.enter_context(place.open("rb"))
            self._log = read_log(path)
            if self._log.frames:
                self._log_file = stack.enter_context(log_of(path).open("rb"))
            self._close = stack.pop_all().close
        self._pages = -(-os.fstat(self._file.fileno()).st_size // PAGE_BYTES)
        self.places = self._pages + self._log.frames
        # A log without its header can be older than the file: its pages overrule none of those.
        newer = range(0) if self._log.headless else range(self._pages, self.places)
        self._newest = {self._page(place): place for place in newer}
        self.is_newer = is_newer(self._content(0)) if self._pages else False
        """A newer version has written it."""

    def close(self) -> None:
        """Close it."""
        self._close()

    def rows(self, place: int) -> Iterator[Row]:
        """The sound rows of the page at this place."""
        for number, values in self._records(place):
            if number > 0 and 0 < len(values) <= len(COLUMNS):
                # A row that was stored before the table got its last columns does not have them.
                row = (number, *values[1:], *[None] * (len(COLUMNS) - len(values)))
                if is_sound(row):
                    self.has_rows = True
                    yield row

    def marks(self, place: int) -> Iterator[Span[RowState]]:
        """The sound marks of the page at this place, if it is the newest version."""
        for row in self._newest_rows(place, MARK_COLUMNS):
            if (mark := read_mark(row)) is not None:
                self.has_rows = True
                yield mark

    def streams(self, place: int) -> Iterator[StreamRun]:
        """Which rows are whose, as the page at this place says; as ``marks``."""
        runs = map(read_stream, self._newest_rows(place, STREAM_COLUMNS))
        return (run for run in runs if run is not None)

    def _newest_rows(self, place: int, columns: Sequence[str]) -> Iterator[Row]:
        page = self._page(place)
        newest = self._newest.get(page, page - 1 if self._log.headless else place)
        if newest == place:
            for number, values in self._records(place):
                if len(values) == len(columns):
                    yield number, *values[1:]

    def age(self, place: int) -> int:
        """The higher, the newer the version of a page is that this place holds."""
        return -1 if self._log.headless and place >= self._pages else place

    def ends(self) -> Iterator[int]:
        """The places at the ends of the file, and of its log: a sample."""
        yield from range(min(_PROBE_PAGES, self.places))
        yield from range(max(_PROBE_PAGES, self._pages - _PROBE_PAGES), self._pages)
        yield from range(max(self._pages, self.places - _PROBE_FRAMES), self.places)

    def _records(self, place: int) -> Iterator[tuple[int, list[object]]]:
        return leaf_records(self._content(place), self._newest_version)

    def _newest_version(self, page: int) -> bytes | None:
        place = self._newest.get(page, page - 1)
        return self._content(place) if 0 <= place < self.places else None

    def _page(self, place: int) -> int:
        if place < self._pages:
            return place + 1
        try:
            return page_of(self._log_file, place - self._pages)
        except OSError:
            self.refused += 1
            return 0

    def _content(self, place: int) -> bytes:
        try:
            if place < self._pages:
                return os.pread(self._file.fileno(), PAGE_BYTES, place * PAGE_BYTES)
            return content_of(self._log_file, place - self._pages)
        except OSError:
            self.refused += 1
            return b""


def sample(paths: Sequence[Path]) -> tuple[list[Row], int]:
    """Some rows of these files, the highest last; and the highest number that is used in them.

    Raises:
        OSError: One cannot be read.
    """
    rows: dict[int, Row] = {}
    highest = 0
    for path in paths:
        with closing(DamagedFile(path)) as file:
            for place in file.ends():
                rows |= {row[0]: row for row in file.rows(place)}
                highest = max([highest, *(mark.hi for mark in file.marks(place))])
    found = [rows[number] for number in sorted(rows)]
    return found, max(highest, found[-1][0] if found else 0)


class FoundRows:
    """All that can be read of several files, the oldest first."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open them.

        Raises:
            OSError: One cannot be read.
        """
        self.paths = list(paths)
        self._dead: list[list[int]] = [[] for _ in paths]  # row, place: of the marks with reasons
        self._known: list[RangeMap[RowState]] = [RangeMap() for _ in paths]
        self.streams: dict[int, StreamRun] = {}
        """Once all was seen: which rows are whose, by first row; a newer file knows better."""
        self._file_of: dict[int, int] = {}  # of the rows of the last portion
        self._pages: list[int] = []  # first row, file, place: as one number, to be small
        self._next = 0
        self._found: dict[int, tuple[tuple[int, int], Row]] = {}  # row -> version, content
        with ExitStack() as stack:
            self.files = [stack.enter_context(closing(DamagedFile(path))) for path in paths]
            self.close = stack.pop_all().close
        self._unseen = chain.from_iterable(
            ((number, place) for place in range(file.places))
            for number, file in enumerate(self.files)
        )

    def look(self) -> bool:
        """Go through some more of the pages. Returns whether there are more."""
        some = list(islice(self._unseen, _PAGES_PER_LOOK))
        for number, place in some:
            file = self.files[number]
            first = next(file.rows(place), None)
            if first is not None:
                self._pages.append((first[0] << _FILE_BITS | number) << _PLACE_BITS | place)
                continue
            self.streams |= {run.lo: run for run in file.streams(place)}
            known = self._known[number]
            for lo, hi, mark in file.marks(place):
                if mark.state is State.ACK_FAILED:  # no reasons in memory
                    self._dead[number].append(lo << _PLACE_BITS | place)
                    mark = without_reason(known.value_at(lo - 1), known.value_at(hi + 1))  # noqa: PLW2901
                known.paint(lo, hi, mark)
        if not some:
            for pages in (self._pages, *self._dead):
                pages.sort()
        return bool(some)

    def portion(self) -> tuple[int, list[Row]] | None:
        """Once all was seen: the next rows, after the number up to which they are all of them."""
        while self._next < len(self._pages):
            self._read(self._pages[self._next])
            self._next += 1
            if self._next < len(self._pages) and len(self._found) >= _ROWS_PER_PORTION:
                upto = self._row_of(self._pages[self._next]) - 1
                return upto, self._take(upto)
        if not self._found:
            return None
        upto = max(self._found)
        return upto, self._take(upto)

    def marks(self, lo: int, hi: int) -> list[Span[RowState]]:
        """Once all was seen: what became of the rows of this range, which the last portion covers.

        A newer file knows better, also where it holds a row without a mark: that is ready.
        """
        merged: RangeMap[RowState] = RangeMap()
        for number, known in enumerate(self._known):
            for first, last in runs(row for row, file in self._file_of.items() if file == number):
                merged.paint(first, last, None)
            for first, last, mark in known.within(lo, hi):
                parts = [(first, last)]
                if mark.state is State.AWAY:  # these numbers belong to older files
                    parts = list(merged.gaps(first, last))
                elif mark.state is State.ACK_FAILED:
                    mark = self._with_reason(number, first)  # noqa: PLW2901
                for part in parts:
                    merged.paint(*part, mark)
        return list(merged)

    def _with_reason(self, number: int, row: int) -> RowState:
        dead = self._dead[number]
        place = dead[bisect_right(dead, row + 1 << _PLACE_BITS) - 1] & (1 << _PLACE_BITS) - 1
        marks = (
            span.value for span in self.files[number].marks(place) if span.lo <= row <= span.hi
        )
        return next((m for m in marks if m.state is State.ACK_FAILED), RowState(State.ACK_FAILED))

    def first_without_marks(self, row: int) -> int | None:
        """Once all was seen: the first row found of the generation that has this number.

        Returns:
            ``None``: the file that began it has marks. Its first number if no row was found.
        """
        before = border_before(row)
        for known in self._known:
            if any(border_up_to(last.hi) == before for last in islice(known.descending(), 1)):
                return None
        at = bisect_left(self._pages, before + 1, key=self._row_of)
        first = self._row_of(self._pages[at]) if at < len(self._pages) else before + 1
        return first if border_before(first) == before else before + 1

    def oldest_pending(self, row: int) -> int | None:
        """Once all was seen: the oldest row of its generation that was pending, if known."""
        border = next_border(row)
        marks = (known.value_at(border) for known in reversed(self._known))
        return next((mark.oldest_pending for mark in marks if mark and mark.oldest_pending), None)

    def _read(self, page: int) -> None:
        number = page >> _PLACE_BITS & (1 << _FILE_BITS) - 1
        place = page & (1 << _PLACE_BITS) - 1
        file = self.files[number]
        version = number, file.age(place)
        for row in file.rows(place):
            if row[0] not in self._found or self._found[row[0]][0] < version:
                self._found[row[0]] = version, row

    def _take(self, upto: int) -> list[Row]:
        numbers = sorted(row for row in self._found if row <= upto)
        self._file_of = {row: self._found[row][0][0] for row in numbers}
        return [self._found.pop(row)[1] for row in numbers]

    @staticmethod
    def _row_of(page: int) -> int:
        return page >> _FILE_BITS + _PLACE_BITS
