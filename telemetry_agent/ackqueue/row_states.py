"""The states of a row, and what memory needs of the queue file. Pure: no disk, no SQL."""

from enum import IntEnum
from typing import NamedTuple

from telemetry_agent.ackqueue.ranges import RangeMap


class StreamRun(NamedTuple):
    """From this row number on, up to the next run, all rows are of one stream."""

    lo: int
    stream: int
    first_seq: int
    """Of the row ``lo``."""
    reported: int = 0
    """1: the endpoint has accepted an account of it, in which it was finished."""

    def seq(self, row: int) -> int:
        """The seq of a row that thinning did not move."""
        return self.first_seq + row - self.lo


class State(IntEnum):
    """What became of a row. The positive ones are the public states of the queue."""

    AWAY = -2
    """Numbers that no row had when the file began; rows with lower ones can still be in files that
    were set aside."""
    UNUSED = -3
    """A number without a fix: it was never used, or its fix has another number now."""
    GONE = 0
    """The row was deleted: long enough after its delivery, or it is lost (with a reason)."""
    READY = 1
    """To be sent, together with the others of its batch. (Ready rows of no batch need no mark.)"""
    UNACK = 2
    """Sent, but no answer came."""
    ACKED = 5
    """Delivered."""
    ACK_FAILED = 9
    """Refused by the endpoint: a dead letter (with a reason)."""


class RowState(NamedTuple):
    """What became of a run of rows: the value of a mark."""

    state: State
    reason: str | None = None
    """``None`` for a dead letter: it is in the file only; see ``without_reason``."""
    batch: int | None = None
    """UNACK and READY: the rows of one batch share this number (its first row)."""
    oldest_pending: int | None = None
    """AWAY: the oldest row of those files that was to be delivered; ``None``: unknown."""
    variant: int = 0
    """ACK_FAILED: see ``without_reason``. In memory only."""


ACKED = RowState(State.ACKED)
PURGED = RowState(State.GONE)
UNUSED = RowState(State.UNUSED)
# What is lost, by reason. A file that was damaged or is gone:
DAMAGED = RowState(State.GONE, "damaged")
UNCOUNTED = RowState(State.GONE, "uncounted")
# What waited in memory for the disk:
LOST_IN_MEMORY = RowState(State.GONE, "memory")
# By the limits of the queue:
NOT_RECORDED = RowState(State.GONE, "full")
DROPPED = RowState(State.GONE, "dropped")
EXPIRED = RowState(State.GONE, "expired")
REFUSED = RowState(State.GONE, "refused")
THINNED = RowState(State.GONE, "thinned")
# By the user:
DISCARDED = RowState(State.GONE, "discarded")

REASONS_IN_MEMORY = 10
"""An endpoint can give a different reason for each fix that it refuses. So memory has the text of
the first ones, and only the number of rows of all others."""
_REASON_LENGTH = 500  # the text of an endpoint is not stored without a limit
_WITHOUT_REASON = tuple(RowState(State.ACK_FAILED, variant=number) for number in (1, 2, 3))


def dead_letter(reason: str) -> RowState:
    """Make the state of a dead letter; the text of an endpoint can hold what UTF-8 cannot."""
    return RowState(State.ACK_FAILED, reason[:_REASON_LENGTH].encode(errors="replace").decode())


def without_reason(*neighbours: RowState | None) -> RowState:
    """Make the state of dead letters whose reason memory does not know.

    It differs from that of the two neighbours: those can have another reason, and have a mark of
    their own in the file.
    """
    return next(state for state in _WITHOUT_REASON if state not in neighbours)


class Loaded(NamedTuple):
    """What memory needs of the queue file."""

    last: int
    """The last row number ever used."""
    marks: RangeMap[RowState]
    streams: list[StreamRun]
    """Ascending."""
    damage: str | None
    """Why the file is to be set aside: something was not as it was stored, and is left out here."""
