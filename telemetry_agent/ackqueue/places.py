"""Where the fixes of a queue are, told in runs of row numbers: what a picture of a track needs.

A run costs the same whether it is of one fix or of a million, so to tell the state of a long track
is cheap. Pure, as the ledger is.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from telemetry_agent.ackqueue.file.schema import State
from telemetry_agent.ackqueue.ledger import Ledger
from telemetry_agent.ackqueue.ranges import RangeMap, Span

Place = Literal["stored", "in-flight", "delivered", "dead-letter", "gone"]
"""``stored``: on the disk alone, as far as is known. ``gone``: not even there any more."""

_PLACES: dict[State, Place] = {
    State.GONE: "gone",
    State.READY: "stored",
    State.UNACK: "stored",
    State.ACKED: "delivered",
    State.ACK_FAILED: "dead-letter",
}


def look(ledger: Ledger, first: int) -> list[Span[Place]]:
    """The rows from ``first`` on, as they are now, in no order; rows may be told twice.

    Where one is told twice the later word holds. Hold the lock of the ledger for this alone.
    """
    return list(_look(ledger, first))


def _look(ledger: Ledger, first: int) -> Iterator[Span[Place]]:
    for span in reversed(ledger.marks):
        if span.hi < first:
            break
        yield Span(span.lo, span.hi, _PLACES[span.value.state])
    for free in reversed(ledger.handout.free):
        if free.hi < first:
            break
        yield Span(free.lo, free.hi, "stored")
    for lease in ledger.leases.values():
        for lo, hi in lease.ranges:
            yield Span(lo, hi, "in-flight")


def in_order(seen: list[Span[Place]], first: int) -> list[Span[Place]]:
    """What ``look`` saw, by row: each from ``first`` on once, and runs as long as can be."""
    spans = [Span(max(first, span.lo), span.hi, span.value) for span in seen if span.hi >= first]
    ordered = sorted(spans)
    if any(one.hi >= other.lo for one, other in pairwise(ordered)):  # told twice
        places: RangeMap[Place] = RangeMap()
        for span in spans:
            places.paint(*span)
        return list(places)
    runs: list[Span[Place]] = []
    for span in ordered:
        if runs and (runs[-1].hi + 1, runs[-1].value) == (span.lo, span.value):
            runs[-1] = runs[-1]._replace(hi=span.hi)
        else:
            runs.append(span)
    return runs
