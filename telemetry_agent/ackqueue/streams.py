"""What became of each stream's fixes, so that an endpoint can check it. Pure.

The account of a stream is derived, not stored. Its fixes have row numbers next to each other, in
the order of seq, and the marks say what became of every row number, even after the row itself was
deleted. So only two things are stored beside the marks: where a run of one stream's rows
begins (``StreamRun``, in the transaction that writes its first row), and whether the endpoint has
accepted the account of it. A name that was never committed has no row number, and is not counted.

``through`` ends before the first row that is neither delivered nor counted as not coming. Only
thinning gives a row another number: the rows that stay move up, past those that go, within their
run and in their order. So the row with the number n was the one with seq ``first_seq + n - lo``, or
was that many names earlier as rows were thinned out above it: then the seq is read from the row.

A stream has a second run if a file was set aside while fixes of it waited in memory. A run whose
record was lost with a damaged file is derived from the rows that arrive.

For the endpoint, an account says that everything older is complete. So there is none while older
fixes are to be delivered that no account has: those in a file that is carried over, and those that
a file held before there were accounts (schema version 5).

To retry, resend or discard fixes opens a stream whose account was accepted: it is reported again.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from telemetry_agent.ackqueue.file.rows import stream_from_int
from telemetry_agent.ackqueue.ranges import ABOVE_ALL, RangeMap, Span
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
"""Streams in one report."""
_SPANS_MAX = 500
"""Spans that are counted under one hold of the lock, which takes a millisecond or two."""
_RUNS_MAX = 1000
"""Runs in the file, for an endpoint that never accepts a report."""

_LO = attrgetter("lo")
_NO_ROW = {State.GONE, State.UNUSED}
_UNCOUNTED = str(UNCOUNTED.reason)
_DONE = {*_NO_ROW, State.ACKED, State.ACK_FAILED}


class _Prefix:
    """The rows of a run before the first that is to be delivered, counted span by span.

    It is kept between reports: a report that counted from the start would visit every mark.
    """

    def __init__(self, run: StreamRun) -> None:
        self.run = run
        self.next_row = run.lo
        """The first row that is not counted."""
        self.last_used = 0
        self.recorded = 0
        self.not_coming: Counter[str] = Counter()
        self.damaged_in: list[int] = []
        self.uncertain = 0
        """UNCOUNTED numbers that are of this run if a later fix of it follows, or if it is the
        last of its stream."""

    def count(self, span: Span[RowState]) -> None:
        """Count a span that begins at ``next_row``."""
        self.next_row = span.hi + 1
        if span.value.state is State.UNUSED:
            return
        # Not behind a used number, UNCOUNTED is a place-holder that no fix had (``AwayRows``).
        if span.value == UNCOUNTED and self.last_used != span.lo - 1:
            self.uncertain += span.size
            return
        self.last_used = span.hi
        self.recorded += span.size + self.uncertain
        self.not_coming[_UNCOUNTED] += self.uncertain
        self.uncertain = 0
        if (reason := _reason(span.value)) is not None:
            self.not_coming[reason] += span.size
        if span.value == DAMAGED:
            # If thinning moved these rows up, their seqs are lower than their numbers say.
            thinned = self.not_coming["thinned"]
            seqs = self.run.seq(span.lo) - thinned, self.run.seq(span.hi), *self.damaged_in
            self.damaged_in = [min(seqs), max(seqs)]


class Streams:
    """The runs of a queue, ascending. Changed runs are written with the marks."""

    def __init__(self, runs: Sequence[StreamRun], marks: RangeMap[RowState]) -> None:
        self.runs = list(runs)
        self._marks = marks
        self._changed: set[int] = set()
        self._prefixes: dict[int, _Prefix] = {}  # by first row
        self._seen = 0, 0  # the last row that arrived, and its stream
        self._border = 0  # the last one before it that is of another stream

    # The disk

    def take_changes(self) -> dict[int, StreamRun | None]:
        """Take the runs that are not on disk yet, by first row. ``None``: there is none."""
        changed, self._changed = self._changed, set()
        runs = {run.lo: run for run in self.runs}
        return {lo: runs.get(lo) for lo in changed}

    def give_back_changes(self, runs: Iterable[int]) -> None:
        """Note that these did not reach the disk: they are taken again."""
        self._changed.update(runs)

    def all_changed(self) -> None:
        """Note that the queue has a new file, which has none of them yet."""
        self._prefixes.clear()
        self._changed.update(run.lo for run in self.runs)

    # Which rows are whose

    @property
    def last(self) -> StreamRun | None:
        """The newest run."""
        return self.runs[-1] if self.runs else None

    def begin(self, row: int, stream: int, seq: int) -> None:
        """From this row on, the highest so far, rows are of this stream and begin with this seq."""
        while self.runs and self.runs[-1].lo >= row:  # none of its rows was committed
            self._drop(-1)
        last = self.last
        if last is None or (last.stream, last.seq(row)) != (stream, seq):
            self.runs.append(StreamRun(row, stream, seq))
            self._changed.add(row)
            self._forget()

    @property
    def first_row(self) -> int:
        """The first row that is in an account."""
        return self.runs[0].lo if self.runs else ABOVE_ALL

    def bounds(self, row: int) -> tuple[int, int]:
        """The first row of the run that this one is in, and the one after its last."""
        at = self._at(row)
        return self.runs[at].lo if at >= 0 else 1, self._end(at)

    def rows_of(self, stream: int, first: int, last: int) -> list[tuple[int, int]]:
        """Where its fixes with these seqs can be; if it is unknown, the rows of no known run."""
        ranges = []
        any_moved = THINNED in dict(self._marks.totals())
        for at, run in enumerate(self.runs):
            if run.stream == stream:
                hi = self._end(at) - 1
                spans = self._marks.within(run.lo, hi) if any_moved else ()
                # A row that thinning moved is at most as far up as numbers came free.
                moved = sum(span.size for span in spans if span.value == THINNED)
                offset = run.lo - run.first_seq
                ranges.append((max(run.lo, first + offset), min(hi, last + offset + moved)))
        return ranges or [(1, self.first_row - 1)]

    def adopt(self, runs: Iterable[StreamRun]) -> None:
        """Take over those of a file that was set aside, except where a known one begins."""
        known = {run.lo for run in self.runs}
        for run in runs:
            if run.lo not in known:
                self._insert(run)

    def learn_from_row(self, row: int, stream: int, seq: int) -> None:
        """Find the run of a row that arrived from a file that was set aside; they come in order."""
        before, its_stream = self._seen
        if row < before:  # they are read again from the first
            self._border = 0
        elif its_stream != stream:
            self._border = before
        self._seen = row, stream
        at = self._at(row)
        if at < 0 or self.runs[at].stream != stream:
            # The run begins behind the last row of another stream, or with seq 1.
            lo = max(self._border, row - seq) + 1
            # A stream that took numbers of this one, in a file without its newest rows.
            while at >= 0 and self.runs[at].lo >= lo:
                self._drop(at)
                at -= 1
            if at < 0 or self.runs[at].stream != stream:
                self._insert(StreamRun(lo, stream, seq - (row - lo)))

    def reopen(self, lo: int, hi: int) -> None:
        """What became of these rows changed: an account that was accepted is out of date."""
        for at in range(max(0, self._at(lo)), len(self.runs)):
            run = self.runs[at]
            if run.lo > hi:
                return
            if run.lo in self._prefixes and lo < self._prefixes[run.lo].next_row:
                del self._prefixes[run.lo]
            if run.reported:
                self.runs[at] = run._replace(reported=0)
                self._changed.add(run.lo)

    # The accounts

    def accounts(
        self, last: int, current: int, seqs: Mapping[int, int | None]
    ) -> list[StreamAccount] | int | None:
        """Of each stream whose account is not settled, the oldest first, at most ``STREAMS_MAX``.

        This runs under the memory lock, which no read of the file may hold up.

        Args:
            last: the last row number in use.
            current: the stream that is recorded now.
            seqs: by row, as they were read from the file; ``None``: the row is not there.

        Returns:
            A number: ask again with the seq of this row, which thinning may have moved. ``None``:
            ask again, there is more to count than one hold of the lock allows.
        """
        found: list[StreamAccount] = []
        budget = _SPANS_MAX
        for stream, places in self._unsettled(last):
            prefixes = []
            pending: int | None = None
            for at in places:
                hi = min(last, self._end(at) - 1)
                prefix, budget = self._count(at, hi, budget)
                if not budget:
                    return None
                if prefix.next_row <= hi:
                    pending = prefix.next_row
                    if prefix.not_coming["thinned"] and pending not in seqs:
                        return pending
                if prefix.last_used or pending is not None:
                    prefixes.append(prefix)
                if pending is not None:
                    break
            if prefixes:
                seq = None if pending is None else seqs.get(pending)
                found.append(_account(prefixes, pending, seq, is_current=stream == current))
            if len(found) == STREAMS_MAX:
                break
        return found

    def settle(self, accounts: Iterable[StreamAccount]) -> None:
        """Note that the endpoint has these accounts: a finished stream needs no other."""
        finished = {account.stream for account in accounts if account.finished}
        for at, run in enumerate(self.runs):
            if stream_from_int(run.stream) in finished and not run.reported:
                self.runs[at] = run._replace(reported=1)
                self._changed.add(run.lo)
        self._forget()

    def _unsettled(self, last: int) -> list[tuple[int, list[int]]]:
        """The streams up to that row whose account is not settled, with their runs."""
        places: dict[int, list[int]] = {}
        for at, run in enumerate(self.runs):
            if run.lo <= last:
                places.setdefault(run.stream, []).append(at)
        return [
            (stream, runs)
            for stream, runs in places.items()
            if not all(self.runs[at].reported for at in runs)
        ]

    def _count(self, at: int, hi: int, budget: int) -> tuple[_Prefix, int]:
        """Bring the prefix of a run up to date. Returns what is left of the budget."""
        run = self.runs[at]
        prefix = self._prefixes.setdefault(run.lo, _Prefix(run))
        for span in self._marks.within(prefix.next_row, hi) if prefix.next_row <= hi else ():
            if not budget or span.lo > prefix.next_row or span.value.state not in _DONE:
                break
            prefix.count(span)
            budget -= 1
        return prefix, budget

    def _forget(self) -> None:
        """Drop the oldest runs while none of their rows is left that could be sent again."""
        while len(self.runs) > 1:
            run = self.runs[0]
            if not run.reported and len(self.runs) <= _RUNS_MAX:
                return
            # A quick look first: the newest row of a run is usually deleted last.
            newest = self._marks.value_at(self._end(0) - 1)
            if newest is None or newest.state not in _NO_ROW:
                return
            spans = self._marks.within(run.lo, self._end(0) - 1)
            gone = sum(span.size for span in spans if span.value.state in _NO_ROW)
            if gone != self._end(0) - run.lo:
                return
            self._drop(0)

    def _drop(self, at: int) -> None:
        run = self.runs.pop(at)
        self._prefixes.pop(run.lo, None)
        self._changed.add(run.lo)

    def _insert(self, run: StreamRun) -> None:
        self._prefixes.clear()
        self.runs.insert(self._at(run.lo) + 1, run)
        self._changed.add(run.lo)

    def _at(self, row: int) -> int:
        return bisect_right(self.runs, row, key=_LO) - 1

    def _end(self, at: int) -> int:
        return self.runs[at + 1].lo if at + 1 < len(self.runs) else ABOVE_ALL


def _account(
    prefixes: Sequence[_Prefix], pending: int | None, seq: int | None, *, is_current: bool
) -> StreamAccount:
    """Of one stream, by its runs up to the first row that is ``pending``, and its seq if read."""
    last = prefixes[-1]
    not_coming = sum((prefix.not_coming for prefix in prefixes), Counter())
    recorded = sum(prefix.recorded for prefix in prefixes)
    if pending is None:
        through = max(prefix.run.seq(prefix.last_used) for prefix in prefixes) + last.uncertain
        beyond = 0
    else:
        through = (seq or last.run.seq(pending)) - 1
        # If thinning moved the pending row up, some numbers below it belong to thinned fixes with a
        # later seq. Those are not in this account.
        beyond = last.run.seq(pending) - 1 - through
    not_coming += Counter({"thinned": -beyond, _UNCOUNTED: last.uncertain})
    recorded += last.uncertain - beyond
    damaged = [seq for prefix in prefixes for seq in prefix.damaged_in]
    return StreamAccount(
        stream_from_int(last.run.stream),
        through,
        recorded,
        dict(+not_coming),
        damaged_in=(max(1, min(damaged)), min(through, max(damaged))) if damaged else None,
        finished=pending is None and not is_current,
    )


def _reason(mark: RowState) -> str | None:
    return REFUSED.reason if mark.state is State.ACK_FAILED else mark.reason
