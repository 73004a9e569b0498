"""Where a track breaks into segments, each of which is drawn as one unbroken line."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Self

from telemetry_agent.ackqueue.stats import Stored
from telemetry_agent.gnss.geodesy import distance_m, place_of
from telemetry_agent.model import Fix, Record

HALF_TURN_E9 = 180_000_000_000
_POSITIONS_PER_PIECE = 10_000
_SHORTEST_GAP_S = 60.0
_INTERVALS = 3
_STANDING_MM_S = 1000
_SAME_PLACE_M = 100.0


Chunks = Iterable[Sequence[Stored]]
"""Fixes in the order of recording, some at a time."""


class Gaps(NamedTuple):
    """The longest time between two fixes of one segment: sampling leaves that much out."""

    moving_s: float = _SHORTEST_GAP_S
    standing_s: float = 900.0 + _SHORTEST_GAP_S

    @classmethod
    def of_sampling(cls, interval_s: float, heartbeat_s: float) -> Self:
        """The gaps of fixes that were recorded with these settings."""
        moving_s = max(_SHORTEST_GAP_S, _INTERVALS * interval_s)
        return cls(moving_s, heartbeat_s + moving_s)

    def between(self, before: Record, after: Record) -> bool:
        """Whether the second of two neighbours begins a segment.

        A segment begins after a restart, with another device name, where time steps back, at a
        jump and after it, and where fixes are missing for longer than sampling explains.
        """
        if (before.stream, before.device) != (after.stream, after.device):
            return True
        start, end = before.fix, after.fix
        if ("jump" in start.flags) != ("jump" in end.flags):
            return True
        elapsed_s = (end.time_ms - start.time_ms) / 1000
        if not 0 <= elapsed_s <= self.moving_s:
            return not (0 < elapsed_s <= self.standing_s and _stands(start, end))
        return False


def by_pieces(chunks: Chunks, gaps: Gaps, text_of: Callable[[list[Record]], str]) -> Iterator[str]:
    """The text of each unbroken piece of track, in one string for each chunk and one at the end.

    A piece is held in memory, so one of more than 10,000 positions is continued in the next, from
    the same position.
    """
    piece: list[Record] = []
    for chunk in chunks:
        texts = []
        for record, _, _ in chunk:
            if piece:
                breaks = gaps.between(piece[-1], record)
                if breaks or len(piece) == _POSITIONS_PER_PIECE:
                    texts.append(text_of(piece))
                    piece = [] if breaks else piece[-1:]
            piece.append(record)
        yield "".join(texts)
    yield text_of(piece) if piece else ""


def escape(text: str) -> str:
    """``text`` in XML. The standard library's takes 0.2 MB of the agent's memory."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _stands(start: Fix, end: Fix) -> bool:
    """Whether the device stayed in one place between two fixes, as far as they show."""
    return (
        max(start.speed_mm_s or 0, end.speed_mm_s or 0) <= _STANDING_MM_S
        and distance_m(place_of(start), place_of(end)) <= _SAME_PLACE_M
    )
