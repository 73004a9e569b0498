"""When the agent reports about itself: at the start, on a change, and each heartbeat.

A report is sent with fixes if possible, and is a request of its own only when no fixes wait. So it
costs next to nothing on the road, and from afar a garage (reports, no fixes), a cut antenna (the
report says so) and a dead device (silence) look different.

A *change* is another word: the receiver's state, the upload's, the antenna's. Numbers change all
the time and wait for the next report. A receiver that alternates between two states must not cost a
request each second, so a change without fixes to send waits until ``_ALONE_EVERY_S`` after the last
report. The same wait, growing up to the heartbeat, follows a report that was not accepted. The
first report waits a little until the receiver has been heard, and for fixes.
"""

from collections.abc import Callable, Mapping

from telemetry_agent.model import Batch, Delivered, Outcome, Payload
from telemetry_agent.upload.interfaces import Compression, EncodeReport

_ALONE_EVERY_S = 60.0
_FIRST_AFTER_S = 10.0


class AgentReports:
    """The schedule, and what a report is made of.

    Args:
        name: the (stream, device) that reports.
        words: what makes a change when it changes; cheap, asked at each step.
        fields: the report, ready for JSON.
        encode: makes the request.
        now_s: when the agent starts, monotonic.
        heartbeat_s: the longest time between two reports.
        on_taken: called when the endpoint has accepted the last one.
    """

    def __init__(
        self,
        name: tuple[str, str],
        words: Callable[[], tuple[str, ...]],
        fields: Callable[[], Mapping[str, object]],
        encode: EncodeReport,
        now_s: float,
        heartbeat_s: float = 900.0,
        on_taken: Callable[[], None] = lambda: None,
    ) -> None:
        stream, device = name
        self.without_fixes = Batch(0, stream, device, (), live=True)
        """For a request of its own. It is not a lease."""
        self._words = words
        self._fields = fields
        self._encode = encode
        self._heartbeat_s = heartbeat_s
        self._on_taken = on_taken
        self._reported: tuple[str, ...] | None = None
        self._reported_s = now_s  # the start, at first
        self._not_before_s = 0.0
        self._failures = 0  # in a row
        self._sending: tuple[str, ...] = ()

    def due(self, now_s: float) -> bool:
        """Whether a batch of fixes that leaves now should take a report along."""
        if now_s < self._not_before_s:
            return False
        return self._words() != self._reported or now_s >= self._reported_s + self._heartbeat_s

    def alone_in_s(self, now_s: float) -> float:
        """How long until a report is worth a request of its own, if nothing changes."""
        if self._reported is None:
            longest_s = _FIRST_AFTER_S
        elif self._words() != self._reported:
            longest_s = _ALONE_EVERY_S
        else:
            longest_s = self._heartbeat_s
        due_s = self._reported_s + min(longest_s, self._heartbeat_s)
        return max(due_s, self._not_before_s, now_s) - now_s

    def encode(self, batch: Batch, compression: Compression) -> Payload:
        """The request for ``batch`` with a report as of now."""
        self._sending = self._words()
        return self._encode(batch, compression, self._fields())

    def ended(self, now_s: float, outcome: Outcome) -> float:
        """Note the outcome of the last report. Returns when to send the next."""
        if isinstance(outcome, Delivered):
            self._reported, self._reported_s = self._sending, now_s
            self._failures = 0
            self._on_taken()
        else:
            wait_s = min(_ALONE_EVERY_S * 2 ** min(self._failures, 30), self._heartbeat_s)
            self._failures += 1
            self._not_before_s = now_s + wait_s
        return self._not_before_s

    def network_returned(self) -> None:
        """Send what is due at once."""
        self._not_before_s = 0.0
