"""What can become of a row. Pure: neither the disk nor SQL is known here."""

from enum import IntEnum
from typing import NamedTuple

from telemetry_agent.ackqueue.ranges import RangeMap


class State(IntEnum):
    """What became of a row. The positive ones are the public states of the queue."""

    GONE = 0
    """There is no row: it was kept long enough after delivery, or was lost (with a reason)."""
    READY = 1
    """To be sent, together with the others of its batch. (Ready rows of no batch need no mark.)"""
    UNACK = 2
    """Sent, and no answer came."""
    ACKED = 5
    """Delivered."""
    ACK_FAILED = 9
    """Refused by the endpoint: a dead letter (with a reason)."""


class RowState(NamedTuple):
    """What became of a run of rows: the value of a mark."""

    state: State
    reason: str | None = None
    batch: int | None = None
    """For UNACK and READY: the rows of one batch share this number (its first row)."""


ACKED = RowState(State.ACKED)
PURGED = RowState(State.GONE)
DAMAGED = RowState(State.GONE, "damaged")
DISCARDED = RowState(State.GONE, "discarded")
DROPPED = RowState(State.GONE, "dropped")
EXPIRED = RowState(State.GONE, "expired")
LOST_IN_MEMORY = RowState(State.GONE, "memory")
NOT_RECORDED = RowState(State.GONE, "full")
REFUSED = RowState(State.GONE, "refused")
THINNED = RowState(State.GONE, "thinned")

_REASON_LENGTH = 500  # the text of an endpoint is not stored without a limit


def dead_letter(reason: str) -> RowState:
    """Make the state of a dead letter; the text of an endpoint can hold what UTF-8 cannot."""
    return RowState(State.ACK_FAILED, reason[:_REASON_LENGTH].encode(errors="replace").decode())


class Away(NamedTuple):
    """The rows ``lo`` to ``hi`` are still in files that were set aside, those that there are."""

    lo: int
    hi: int
    oldest: int
    """A row that is missing and older than this is not lost: it was delivered."""
    last: int
    """The highest number that is known to be in use."""
    marked: int
    """1: Their marks are in this file."""


class Loaded(NamedTuple):
    """What memory needs of the queue file."""

    last: int
    """The last row number ever used."""
    marks: RangeMap[RowState]
    away: Away | None
    damage: str | None
    """Why the file is to be set aside: some of this is not as it was stored, and left out."""
