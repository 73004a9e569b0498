"""What became of each stream's fixes, so that an endpoint can check it. Pure.

The account of a stream is derived, not kept. Its fixes have row numbers next to each other, in the
order of seq, and the marks hold for ever what became of every row number, also where the row itself
is gone. So all that is stored beside the marks is where a run of one stream's rows begins
(``StreamRun``, in the transaction that writes its first row), and whether the endpoint has taken
the account of it. A name that was never committed has no row number that lasts, and is not counted.

``through`` ends before the first row that is neither delivered nor counted as not coming. Only
thinning gives a row another number: the rows that stay move up, past those that go, within their
run and in their order. So the row with the number n was the one with seq ``first_seq + n - lo``, or
was that many names earlier as rows were thinned out above it: then the seq is read from the row.

A stream has a second run where a file was set aside while fixes of it waited in memory. While files
are carried over, what is in them is not known, and their streams are left out. A run whose record
was lost with a damaged file is found again by the rows that arrive.

To retry, resend or discard fixes opens a stream whose account was taken: it is reported again.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

from telemetry_agent.ackqueue.file.rows import stream_from_int
from telemetry_agent.ackqueue.ranges import RangeMap
from telemetry_agent.ackqueue.row_states import (
    DAMAGED,
    REFUSED,
    THINNED,
    UNCOUNTED,
    RowState,
    State,
    StreamRun,
)
from telemetry_agent.model import StreamAccount

STREAMS_MAX = 20
"""In one report."""
_RUNS_MAX = 1000
"""A limit for the file, in case the server never accepts a report."""

_LO = attrgetter("lo")
NO_END = 1 << 62
"""Above all row numbers."""
_NO_ROW = {State.GONE, State.UNUSED}
_DONE = {*_NO_ROW, State.ACKED, State.ACK_FAILED}


class KnownSeqs(dict[int, int | None]):
    """The seqs of rows as they were read; ``None``: it cannot be."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: list[int] = []

    def __missing__(self, row: int) -> None:
        self.wanted.append(row)


class _Part(NamedTuple):
    """What is known of one run."""

    run: StreamRun
    hi: int
    pending: int | None
    """The first row that is still to be delivered."""
    pending_seq: int
    last_used: int

    def counted(self, through: int) -> tuple[int, int]:
        """Up to which row it is counted, and how many of these are names beyond ``through``."""
        if self.pending is not None and self.pending_seq == through + 1:
            return self.pending - 1, self.run.seq(self.pending) - self.pending_seq
        return min(self.hi, self.run.lo + through - self.run.first_seq), 0


class Streams:
    """The runs of a queue, ascending; whoever changes one has it written with the marks."""

    def __init__(self, runs: Sequence[StreamRun], marks: RangeMap[RowState]) -> None:
        self._runs = list(runs)
        self._marks = marks
        self._changed: set[int] = set()
        self._seen = 0, 0  # the last row that arrived, and its stream
        self._border = 0  # the last one before it that is of another stream

    # The disk

    def take_changes(self) -> dict[int, StreamRun | None]:
        """Take the runs that the disk does not know, by first row. ``None``: there is none."""
        changed, self._changed = self._changed, set()
        runs = {run.lo: run for run in self._runs} if changed else {}
        return {lo: runs.get(lo) for lo in changed}

    def give_back_changes(self, runs: Iterable[int]) -> None:
        """Take note that these did not reach the disk."""
        self._changed.update(runs)

    @property
    def has_changes(self) -> bool:
        """Whether any wait for the disk."""
        return bool(self._changed)

    def all_changed(self) -> None:
        """A new file knows none of them."""
        self._changed.update(run.lo for run in self._runs)

    # Which rows are whose

    @property
    def last(self) -> StreamRun | None:
        """The newest run."""
        return self._runs[-1] if self._runs else None

    def begin(self, row: int, stream: int, seq: int) -> None:
        """From this row, the highest so far, on: a stream, or what goes on with one."""
        while self._runs and self._runs[-1].lo >= row:  # nothing of it was committed
            self._changed.add(self._runs.pop().lo)
        last = self.last
        if last is None or (last.stream, last.seq(row)) != (stream, seq):
            self._runs.append(StreamRun(row, stream, seq))
            self._changed.add(row)
            self._forget()

    def bounds(self, row: int) -> tuple[int, int]:
        """The first row of the run that this one is in, and the one after its last."""
        at = self._at(row)
        return self._runs[at].lo if at >= 0 else 1, self._end(at)

    def rows_of(self, stream: int, first: int, last: int) -> list[tuple[int, int]]:
        """Between which rows its fixes with these seqs are; all rows, where it is not known."""
        ranges = []
        for at, run in enumerate(self._runs):
            if run.stream == stream:
                hi = self._end(at) - 1
                spans = self._marks.within(run.lo, hi)
                moved = sum(span.size for span in spans if span.value == THINNED)
                offset = run.lo - run.first_seq
                ranges.append((max(run.lo, first + offset), min(hi, last + offset + moved)))
        return ranges or [(1, NO_END)]

    def adopt(self, runs: Iterable[StreamRun]) -> None:
        """Take over those of a file that was set aside, as far as none is known there."""
        known = {run.lo for run in self._runs}
        for run in runs:
            if run.lo not in known:
                self._insert(run)

    def witness(self, row: int, stream: int, seq: int) -> None:
        """A row arrived from a file that was set aside; they come in their order."""
        before, its_stream = self._seen
        if row < before:  # they come once more
            self._border = 0
        elif its_stream != stream:
            self._border = before
        self._seen = row, stream
        at = self._at(row)
        if at < 0 or self._runs[at].stream != stream:
            lo = max(self._border, row - seq) + 1
            self._insert(StreamRun(lo, stream, seq - (row - lo)))

    def reopen(self, lo: int, hi: int) -> None:
        """Something else became of these rows: the account that was taken holds no more."""
        for at in range(max(0, self._at(lo)), len(self._runs)):
            run = self._runs[at]
            if run.lo > hi:
                return
            if run.reported:
                self._runs[at] = run._replace(reported=0)
                self._changed.add(run.lo)

    # The accounts

    def accounts(self, first: int, last: int, current: int, seqs: KnownSeqs) -> list[StreamAccount]:
        """Of each stream whose account is not settled, the oldest first, at most ``STREAMS_MAX``.

        Args:
            first: the first row number about which all is known.
            last: the last one in use.
            current: the stream that goes on.
            seqs: of rows that thinning may have moved; what is ``wanted`` afterwards is to be read
                first.
        """
        places: dict[int, list[int]] = {}
        unsettled: dict[int, bool] = {}
        for at, run in enumerate(self._runs):
            if run.lo <= last:
                places.setdefault(run.stream, []).append(at)
                unsettled[run.stream] = unsettled.get(run.stream, False) or not run.reported
        found = []
        for stream in (stream for stream, is_unsettled in unsettled.items() if is_unsettled):
            if self._runs[places[stream][0]].lo < first:
                continue
            parts = [self._part(at, last, seqs) for at in places[stream]]
            account = self._account([part for part in parts if part.last_used], stream == current)
            if account is not None:
                found.append(account)
                if len(found) == STREAMS_MAX:
                    break
        return found

    def settle(self, accounts: Iterable[StreamAccount]) -> None:
        """The endpoint has these accounts, which still hold: what is finished needs no other."""
        finished = {account.stream for account in accounts if account.finished}
        for at, run in enumerate(self._runs):
            if stream_from_int(run.stream) in finished and not run.reported:
                self._runs[at] = run._replace(reported=1)
                self._changed.add(run.lo)
        self._forget()

    def _part(self, at: int, last: int, seqs: KnownSeqs) -> _Part:
        run, hi = self._runs[at], min(last, self._end(at) - 1)
        next_row, last_used, thinned = run.lo, 0, False
        for span in self._marks.within(run.lo, hi):
            if span.lo > next_row or span.value.state not in _DONE:
                break
            next_row = span.hi + 1
            thinned |= span.value == THINNED
            # What nobody can count has no name, where it does not follow one.
            is_name = span.value.state is not State.UNUSED
            if is_name and (span.value != UNCOUNTED or last_used == span.lo - 1):
                last_used = span.hi
        if next_row > hi:
            return _Part(run, hi, None, 0, last_used)
        seq = (seqs[next_row] if thinned else None) or run.seq(next_row)
        return _Part(run, hi, next_row, seq, next_row)

    def _account(self, parts: Sequence[_Part], is_current: bool) -> StreamAccount | None:
        if not parts:
            return None
        pending = [part.pending_seq for part in parts if part.pending is not None]
        through = min(pending, default=0) - 1
        if not pending:
            through = max(part.run.seq(part.last_used) for part in parts)
        recorded = 0
        not_coming: Counter[str] = Counter()
        damaged: list[int] = []
        for part in parts:
            last, beyond = part.counted(through)
            recorded -= beyond
            not_coming["thinned"] -= beyond
            moved = 0  # so far at most did thinning move a row
            for lo, hi, mark in self._marks.within(part.run.lo, last):
                if mark.state is State.UNUSED or (mark == UNCOUNTED and hi > part.last_used):
                    continue
                recorded += hi - lo + 1
                moved += hi - lo + 1 if mark == THINNED else 0
                if mark == DAMAGED:
                    damaged += [part.run.seq(lo) - moved, part.run.seq(hi)]
                if (reason := _reason(mark)) is not None:
                    not_coming[reason] += hi - lo + 1
        return StreamAccount(
            stream_from_int(parts[0].run.stream),
            through,
            recorded,
            dict(+not_coming),
            damaged_in=(max(1, min(damaged)), min(through, max(damaged))) if damaged else None,
            finished=not pending and not is_current,
        )

    def _forget(self) -> None:
        """The oldest runs, of which no row is left that could be sent once more."""
        while len(self._runs) > 1:
            run = self._runs[0]
            if not run.reported and len(self._runs) <= _RUNS_MAX:
                return
            spans = self._marks.within(run.lo, self._end(0) - 1)
            gone = sum(span.size for span in spans if span.value.state in _NO_ROW)
            if gone != self._end(0) - run.lo:
                return
            self._changed.add(self._runs.pop(0).lo)

    def _insert(self, run: StreamRun) -> None:
        at = self._at(run.lo)
        if at >= 0 and self._runs[at].lo == run.lo:
            self._runs[at] = run
        else:
            self._runs.insert(at + 1, run)
        self._changed.add(run.lo)

    def _at(self, row: int) -> int:
        return bisect_right(self._runs, row, key=_LO) - 1

    def _end(self, at: int) -> int:
        return self._runs[at + 1].lo if at + 1 < len(self._runs) else NO_END


def _reason(mark: RowState) -> str | None:
    return REFUSED.reason if mark.state is State.ACK_FAILED else mark.reason
