"""The contents of the queue: counts, places, accounts, and what people do by hand.

Where the rows are is reported in runs of row numbers, for the picture of a track: a run costs the
same whether it has one fix or a million.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, Literal

from telemetry_agent.ackqueue.file.rows import (
    SEQ,
    STREAM,
    TIME_MS,
    Row,
    decode,
    is_sound,
    stream_to_int,
)
from telemetry_agent.ackqueue.file.schema import UnusableError
from telemetry_agent.ackqueue.file.store import ROWS_PER_READ
from telemetry_agent.ackqueue.ledger import SPANS_PER_HOLD, Ledger
from telemetry_agent.ackqueue.limits.bounds import Bounds
from telemetry_agent.ackqueue.ranges import ABOVE_ALL, RangeMap, Span, runs
from telemetry_agent.ackqueue.reading import decoded, newest_sure_ms, stored
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.recovery.damaged_file import sample
from telemetry_agent.ackqueue.row_states import DISCARDED, State
from telemetry_agent.ackqueue.shared_state import SharedState
from telemetry_agent.ackqueue.stats import QueueStats, Stored, count, size_on_disk
from telemetry_agent.ackqueue.streams import STREAMS_MAX
from telemetry_agent.errors import StorageError
from telemetry_agent.model import Record, StreamAccount
from telemetry_agent.tasks import give_way

Place = Literal["stored", "in-flight", "delivered", "dead-letter", "gone"]
"""``stored``: only on this disk, as far as is known. ``gone``: not even there."""

_PLACES: dict[State, Place] = {
    State.AWAY: "gone",
    State.GONE: "gone",
    State.UNUSED: "gone",
    State.READY: "stored",
    State.UNACK: "stored",
    State.ACKED: "delivered",
    State.ACK_FAILED: "dead-letter",
}
_RANGES_PER_HOLD = 50


class Contents:
    """The methods of ``AckQueue`` that neither put a fix nor hand one out.

    Those that read the file raise StorageError if it cannot be read.
    """

    def __init__(self, shared: SharedState, bounds: Bounds) -> None:
        self.shared = shared
        self._bounds = bounds

    def stats(self) -> QueueStats:
        """Count everything. Never waits for a commit."""
        shared = self.shared
        file_bytes = size_on_disk(shared.path)
        with shared.lock:
            return count(
                shared.ledger,
                shared.writer.uncommitted,
                shared.writer.placed,
                shared.oldest_ms,
                file_bytes,
                full=self._bounds.full,
                disk_error=shared.writer.disk_error,
            )

    def takes_more(self, ring: Callable[[], None]) -> bool:
        """Whether a source that can wait should put more now; no fix of it is lost then.

        If not, what waits is committed at once, and ``ring`` is called when there may be room,
        once and from any thread. It must return at once and not call the queue.
        """
        shared = self.shared
        with shared.lock:
            if shared.writer.has_room and not self._bounds.stopped:
                return True
            shared.wait_for_room(ring)
        shared.ring()
        return False

    def last_row(self) -> int:
        """The place of the newest fix, for ``pending``."""
        with self.shared.lock:
            return self.shared.last

    def numbering(self) -> str:
        """Names how the rows are numbered now. Never waits for the disk.

        Another text: a row that others may have seen has another number, or rows came or come
        before it. What a caller keeps by row number must be read again.
        """
        with self.shared.lock:
            ledger = self.shared.ledger
            return f"{ledger.moves}-carrying" if ledger.away.any else f"{ledger.moves}"

    def pending(self, last_row: int) -> int:
        """How many fixes up to that place are to be delivered. Never waits for the disk."""
        shared = self.shared
        with shared.lock:
            return shared.ledger.pending(last_row) + shared.writer.pending(last_row)

    def disk_error(self, last_row: int = 0) -> StorageError | None:
        """Why the disk refuses to write, if all pending fixes up to that place are in memory.

        Without a place: in any case. ``None``: it does not refuse.
        """
        shared = self.shared
        with shared.lock:
            return None if shared.ledger.pending(last_row) else shared.writer.disk_error

    def newest(self, limit: int) -> list[Record]:
        """The newest fixes on disk, whatever became of them, the newest first.

        Fewer than ``limit`` where some were deleted or are damaged.
        """
        shared = self.shared
        with shared.opened():
            rows: list[Row] = []
            try:
                rows = shared.ask(lambda store: store.read_back(shared.last, limit))
            except UnusableError:
                if shared.file.damage is not None:
                    raise
            # A file that has just taken the place of a damaged one is empty.
            if not rows and shared.ledger.away.any:
                with suppress(OSError):
                    rows = sample(set_aside_files.waiting(shared.path))[0][: -limit - 1 : -1]
        return decoded(rows)

    def newest_ms(self) -> int | None:
        """GNSS time of the newest fix whose time is not in doubt; ``None`` if none is known."""
        if self.shared.latest_ms is not None:
            return self.shared.latest_ms
        return newest_sure_ms(self.newest(ROWS_PER_READ))

    def places(self, first: int) -> Iterator[Span[Place]]:
        """Where the fixes from that row on are. Never waits for the disk.

        An endpoint can refuse every other fix, so there can be as many runs as fixes. The queue may
        be used meanwhile: each part is as it was when it was looked at, and what lies across the
        end of a part comes as two runs.
        """
        while first < ABOVE_ALL:
            with self.shared.lock:
                seen, last = _look(self.shared.ledger, first)
            yield from seen
            first = last + 1

    def after(self, row: int) -> tuple[int, list[tuple[int, Record]]]:
        """The next fixes on disk after that row, at most 1,000, with their rows.

        Returns:
            The last row that it read (``row`` if no more follow), and the fixes that it found.
        """
        shared = self.shared
        with shared.opened():
            with shared.lock:
                last = max(row, shared.committed)
            rows = shared.read((row + 1, last), limit=ROWS_PER_READ)
        if len(rows) == ROWS_PER_READ:
            last = rows[-1][0]
        found = ((stored[0], decode(stored)) for stored in rows)
        return last, [(row, record) for row, record in found if record is not None]

    def stored(self, state: State | None = None) -> Iterator[Stored]:
        """The sound fixes on disk in the order of recording: all, or those in one state.

        The queue may be used meanwhile; each fix has the state that it had when it was read. If the
        queue is thinned meanwhile, a fix may come twice.
        """
        return stored(self.shared, None if state is None else State(state))

    def retry(
        self, names: Collection[tuple[str, int]] | None = None, *, reason: str | None = None
    ) -> int:
        """Make dead letters ready.

        Args:
            names: The (stream, seq) of each; ``None``: all of them.
            reason: Those whose reason has this text in it, instead of ``names``.

        Returns:
            How many fixes.
        """
        ready = self.shared.ledger.make_ready
        if reason is not None:
            return self._end_state(State.ACK_FAILED, partial(self._has_reason, reason), ready)
        return self._end_dead_letters(names, ready)

    def discard(self, names: Collection[tuple[str, int]] | None = None) -> int:
        """Delete dead letters; they count as lost, ``discarded``. As ``retry``."""
        return self._end_dead_letters(names, partial(self.shared.ledger.lose, mark=DISCARDED))

    def resend(self, since_ms: int, until_ms: int) -> int:
        """Make delivered fixes ready again, under their own names. Returns as ``retry``.

        Args:
            since_ms: Their GNSS time is this or later.
            until_ms: And before this.
        """
        return self._resend(
            [(1, ABOVE_ALL)], lambda row: is_sound(row) and since_ms <= row[TIME_MS] < until_ms
        )

    def resend_names(self, stream: str, first: int, last: int) -> int:
        """Make the delivered fixes of a stream with these seqs ready again; as ``resend``."""
        number = stream_to_int(stream)
        with self.shared.lock:
            ranges = self.shared.ledger.streams.rows_of(number, first, last)

        def is_meant(row: Row) -> bool:
            return row[STREAM] == number and first <= row[SEQ] <= last and is_sound(row)

        return self._resend(ranges, is_meant)

    def accounts(self) -> tuple[list[StreamAccount], int | None]:
        """What became of the fixes of each stream, and until when that is everything.

        Of each stream that is not finished, or is since ``settle``; the oldest first, at most 20.
        See ``streams``.

        Returns:
            The accounts, and the GNSS time of the newest fix before all that is to be delivered;
            ``None``: that is not known.
        """
        found = None
        while found is None:
            with self.shared.opened():
                found = self._accounts()
        return found

    def settle(self, accounts: Collection[StreamAccount]) -> None:
        """Note that the endpoint has these accounts: what is finished in them is settled."""
        shared = self.shared
        with shared.opened():
            now, _ = self._accounts() or ([], None)  # what is still to be counted is reported again
            with shared.lock:
                shared.ledger.streams.settle([account for account in accounts if account in now])

    def _resend(self, ranges: list[tuple[int, int]], is_meant: Callable[[Row], bool]) -> int:
        ready = self.shared.ledger.make_ready
        return sum(self._end_state(State.ACKED, is_meant, ready, *rows) for rows in ranges)

    def _end_dead_letters(
        self,
        names: Collection[tuple[str, int]] | None,
        end: Callable[[list[tuple[int, int]]], None],
    ) -> int:
        if names is None:
            return self._end_state(State.ACK_FAILED, None, end)
        wanted = {(stream_to_int(stream), seq) for stream, seq in names}
        ranges = []
        for number in {stream for stream, _ in wanted}:
            seqs = [seq for stream, seq in wanted if stream == number]
            with self.shared.lock:
                ranges += self.shared.ledger.streams.rows_of(number, min(seqs), max(seqs))
        if not ranges:
            return 0

        def is_meant(row: Row) -> bool:  # the checksum is slow, so it comes late
            return (row[STREAM], row[SEQ]) in wanted and is_sound(row)

        # From the first to the last in one pass, so that few names are one transaction.
        first, last = min(lo for lo, _ in ranges), max(hi for _, hi in ranges)
        return self._end_state(State.ACK_FAILED, is_meant, end, first, last)

    def _has_reason(self, text: str, row: Row) -> bool:
        """Whether the reason of this dead letter has that text in it."""
        with self.shared.lock:
            reason = self.shared.ledger.state_of(row[0]).reason
        if reason is None:  # it is in the file only
            reason = self.shared.ask(lambda store: store.reason(row[0]))
        return text in (reason or "")

    def _end_state(
        self,
        state: State,
        is_meant: Callable[[Row], bool] | None,
        end: Callable[[list[tuple[int, int]]], None],
        row: int = 1,
        last: int = ABOVE_ALL,
    ) -> int:
        """End the state of all rows that are meant. Returns how many.

        There can be a hundred thousand, each beside one in another state. So the memory lock is
        held for a few ranges at a time.
        """
        shared = self.shared
        count = 0
        ranges = [(row, last)]
        while ranges:  # once at least: what was changed before is on disk after it
            with shared.opened():
                with shared.lock:
                    some = shared.ledger.in_state(state, ROWS_PER_READ, row)
                ranges = meant = [(lo, min(hi, last)) for lo, hi in some if lo <= last]
                if is_meant is not None:
                    rows = shared.read(*ranges, limit=ROWS_PER_READ)
                    meant = runs(found[0] for found in rows if is_meant(found))
                for place in range(0, len(meant), _RANGES_PER_HOLD):
                    with shared.lock:
                        end(meant[place : place + _RANGES_PER_HOLD])
                shared.write()
            count += sum(hi - lo + 1 for lo, hi in meant)
            row = ranges[-1][1] + 1 if ranges else row
        shared.ring()
        return count

    def _accounts(self) -> tuple[list[StreamAccount], int | None] | None:
        """See ``accounts``; ``None``: there is more to count than one hold of the lock allows."""
        shared, ledger = self.shared, self.shared.ledger
        if shared.writer.placed:
            shared.write()
            if shared.writer.placed:  # refused: on disk these rows are in other places
                return [], None
        seqs: dict[int, int | None] = {}
        accounts: list[StreamAccount] | int | None = 0
        while not isinstance(accounts, list):
            if accounts is None:
                return None
            if accounts:
                rows = shared.read((accounts, accounts))
                seqs[accounts] = rows[0][SEQ] if rows else None
            with shared.lock:
                oldest = ledger.oldest_pending() or shared.committed + 1
                # An account would say that older fixes are complete too.
                if ledger.away.any or oldest < ledger.streams.first_row:
                    return [], None
                accounts = ledger.streams.accounts(shared.last, shared.stream, seqs)
                if accounts is None:
                    give_way(shared.lock)
        if len(accounts) == STREAMS_MAX:  # the next report has others
            return accounts, None
        newest = shared.ask(lambda store: store.read_back(oldest - 1, ROWS_PER_READ))
        return accounts, newest_sure_ms(decoded(newest))


def _look(ledger: Ledger, first: int) -> tuple[RangeMap[Place], int]:
    """The rows from ``first`` on, and up to which row that is all."""
    last = ABOVE_ALL
    marks, free = ledger.marks, ledger.ready_rows.free
    both: tuple[RangeMap[Any], ...] = (marks, free)
    for rows in both:
        some = list(islice(rows.within(first, last), SPANS_PER_HOLD))
        if len(some) == SPANS_PER_HOLD:
            last = some[-1].hi
    seen: RangeMap[Place] = RangeMap()
    for lo, hi, mark in marks.within(first, last):
        seen.paint(lo, hi, _PLACES[mark.state])
    for lo, hi, _ in free.within(first, last):
        seen.paint(lo, hi, "stored")
    for lo, hi in ledger.leased():
        if first <= hi and lo <= last:
            seen.paint(max(first, lo), min(hi, last), "in-flight")
    return seen, last
