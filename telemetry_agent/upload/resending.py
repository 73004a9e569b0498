"""What an endpoint asks for again: fixes that it misses, by its own audit.

``"resend": [{"stream": "9f0c…", "from": 17, "to": 40}]`` in an answer. Delivered fixes that are
kept become ready again, under their own names. They join the backlog, so live fixes go first. An
ask within a minute of the last one is ignored: the endpoint repeats what it still misses.
"""

import logging
from collections.abc import Callable

from telemetry_agent.model import Delivered, Outcome

_log = logging.getLogger(__name__)

_EVERY_S = 60.0
_RANGES_MAX = 20
_SEQS_MAX = 10_000
"""Of a range; a live fix waits while they are looked for."""

Resend = Callable[[str, int, int], int]
"""Makes a stream's delivered fixes ready again, from one seq to another; returns how many."""


class Resending:
    """Honours what is asked. ``resend``: ``None`` ignores it all."""

    def __init__(self, resend: Resend | None) -> None:
        self._resend = resend
        self._not_before_s = float("-inf")

    def asked(self, outcome: Outcome, now_s: float) -> None:
        """Do what the answer asks for. May raise what ``resend`` raises."""
        ranges = outcome.resend if isinstance(outcome, Delivered) else ()
        if self._resend is None or not ranges or now_s < self._not_before_s:
            return
        self._not_before_s = now_s + _EVERY_S
        count = sum(
            self._resend(stream, first, min(last, first + _SEQS_MAX - 1))
            for stream, first, last in ranges[:_RANGES_MAX]
        )
        if count:
            _log.info(
                "the endpoint asked for fixes again: %d are sent once more",
                count,
                extra={"fields": {"COUNT": count}},
            )
