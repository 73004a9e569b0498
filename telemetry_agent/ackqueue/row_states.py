"""What can become of a run of rows."""

from typing import NamedTuple

from telemetry_agent.ackqueue.file.schema import State


class Mark(NamedTuple):
    """What became of a run of rows."""

    state: State
    reason: str | None = None
    batch: int | None = None
    """For UNACK and READY: the rows of one batch share this number (its first row)."""


ACKED = Mark(State.ACKED)
PURGED = Mark(State.GONE)
DAMAGED = Mark(State.GONE, "damaged")
DISCARDED = Mark(State.GONE, "discarded")
DROPPED = Mark(State.GONE, "dropped")
EXPIRED = Mark(State.GONE, "expired")
LOST_IN_MEMORY = Mark(State.GONE, "memory")
NOT_RECORDED = Mark(State.GONE, "full")
REFUSED = Mark(State.GONE, "refused")
THINNED = Mark(State.GONE, "thinned")

_REASON_LENGTH = 500  # an endpoint's text is not ours to store without end


def dead_letter(reason: str) -> Mark:
    """The endpoint's own words can hold what UTF-8 cannot."""
    return Mark(State.ACK_FAILED, reason[:_REASON_LENGTH].encode(errors="replace").decode())
