"""Where a track breaks into segments, each of which is drawn as one unbroken line."""

from typing import NamedTuple, Self

from telemetry_agent.gnss.geodesy import distance_m, place_of
from telemetry_agent.model import Fix, Record

_SHORTEST_GAP_S = 60.0
_INTERVALS = 3
_WALKING_MM_S = 1000
_SAME_PLACE_M = 100.0


class Gaps(NamedTuple):
    """The longest that two fixes of one segment may be apart: what sampling leaves out."""

    moving_s: float = _SHORTEST_GAP_S
    standing_s: float = 900.0 + _SHORTEST_GAP_S

    @classmethod
    def of_sampling(cls, interval_s: float, heartbeat_s: float) -> Self:
        """Those of fixes that were recorded with these settings."""
        moving_s = max(_SHORTEST_GAP_S, _INTERVALS * interval_s)
        return cls(moving_s, heartbeat_s + moving_s)

    def between(self, before: Record, after: Record) -> bool:
        """Whether the second of two neighbours begins a segment.

        So it is after a restart, when the device is called another name, where time steps back,
        round a jump, and where fixes are missing: none came for longer than sampling explains.
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


def _stands(start: Fix, end: Fix) -> bool:
    """Whether nothing says that it was elsewhere between two fixes."""
    return (
        max(start.speed_mm_s or 0, end.speed_mm_s or 0) <= _WALKING_MM_S
        and distance_m(place_of(start), place_of(end)) <= _SAME_PLACE_M
    )
