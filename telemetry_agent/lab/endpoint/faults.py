"""Faults that the reference endpoint injects, to see how an agent handles them."""

import re
from dataclasses import dataclass
from typing import Self

from telemetry_agent.errors import UsageError


@dataclass(frozen=True)
class Fault:
    """A fault that is injected at random, or into the first requests."""

    kind: str
    """A status; ``drop``: store, then close without an answer; ``hang``: never answer."""
    chance: float = 1.0
    first: int | None = None

    @classmethod
    def parse(cls, pattern: str) -> Self:
        """``KIND``, ``KIND:CHANCE`` or ``KINDxCOUNT``, such as ``503:0.3`` or ``dropx2``.

        Raises:
            UsageError: it is none of these.
        """
        found = re.fullmatch(r"([345]\d\d|drop|hang)(?::(0|1|0?\.\d+)|x(\d+))?", pattern)
        if not found:
            raise UsageError(
                f"--fail {pattern}: must be like 503, 503:0.3, 503x5, drop:0.1, hangx1"
            )
        kind, chance, first = found.groups()
        return cls(kind, float(chance or 1), int(first) if first else None)
