"""One attempt: from a batch to what the endpoint's answers mean for it."""

from collections.abc import Callable

from telemetry_agent.clock import Clock
from telemetry_agent.model import (
    Answer,
    Batch,
    Deferred,
    Delivered,
    Held,
    Outcome,
    Payload,
    Refused,
)
from telemetry_agent.upload.compression import CompressionChoice
from telemetry_agent.upload.formats.answers import with_words
from telemetry_agent.upload.interfaces import (
    Compression,
    CompressionSetting,
    Exchange,
    NoAnswer,
    Reachability,
    WireFormat,
)
from telemetry_agent.upload.reports import AgentReports
from telemetry_agent.upload.sizing import Sizing
from telemetry_agent.upload.upload_status import StatusKeeper

_NO_GZIP_THERE = {400, 415, 422, 500}

# A proxy's answer where the server behind it is down, or the batch takes it too long; and Caddy's
# where the body is larger than its ``max_size``.
_NOT_PASSED_ON = {502, 504}


class Sender:
    """Encodes, exchanges and reads, and learns what the endpoint takes."""

    def __init__(
        self,
        wire_format: WireFormat,
        transport: Exchange,
        keeper: StatusKeeper,
        *,
        way: Reachability,
        compression: CompressionSetting,
        sizing: Sizing,
        old_way: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """``old_way``: whether the network has changed since the exchange began."""
        self.in_flight: Batch | None = None
        """May have arrived, whatever ended the attempt."""
        self.hope = True
        """Whether what got no answer may get one now: the last exchange did."""
        self.silences = 0
        """How often in a row something was sent and got no answer."""
        self.plain_for_now = False
        """Nothing is compressed, until this is taken back."""
        self.compression = CompressionChoice(compression, wire_format)
        self._format = wire_format
        self._transport = transport
        self._keeper = keeper
        self._way = way
        self._sizing = sizing
        self._old_way = old_way
        self._clock = clock
        self._counted = transport.sent_bytes, transport.received_bytes

    def send(
        self, batch: Batch, timeout_s: float, reports: AgentReports | None
    ) -> tuple[Outcome, bool]:
        """Send a batch in one request, with a report where one is due; its outcome.

        Besides, whether it was refused twice: compressed, and then plain.
        """
        now_s = self._clock.monotonic_s()
        compression: Compression = "none" if self.plain_for_now else self.compression.choice(now_s)
        if reports is not None:
            outcome = self._send_with(reports, batch, compression, timeout_s)
            if outcome is not None:
                return outcome, False
        payload = self._format.encode(batch, compression=compression)
        outcome = self._exchange_one(batch, payload, timeout_s)
        if not payload.compressed or self.compression.proven:
            return outcome, False
        if isinstance(outcome, Delivered):
            self.compression.accepted()
        if isinstance(outcome, Delivered) or outcome.status not in _NO_GZIP_THERE:
            return outcome, False
        plain = self._format.encode(batch, compression="none")
        again = self._exchange_one(batch, plain, timeout_s)
        if isinstance(again, Delivered):
            self.compression.only_plain(outcome.status, now_s)
        elif isinstance(again, Refused):
            self.plain_for_now = True
        return again, isinstance(again, Refused)

    def send_each(self, batch: Batch, timeout_s: float) -> list[Outcome]:
        """Send each fix in a request of its own; the outcomes of the first ones.

        The others were not sent: the time was over, or an answer made them pointless.
        """
        ones = [
            Batch(batch.lease, batch.stream, batch.device, (record,), batch.live)
            for record in batch.records
        ]
        payloads = [self._format.encode(one, compression="none") for one in ones]
        outcomes: list[Outcome] = []

        def on_answer(answer: Answer) -> bool:
            outcomes.append(self._read(answer, ones[len(outcomes)]))
            return isinstance(outcomes[-1], Delivered | Refused)

        began_s, sent_before = self._clock.monotonic_s(), self._transport.sent_bytes
        self.in_flight = batch
        failure, unanswered = self._transport.series(
            payloads, timeout_s, on_answer, pipelined=self._format.pipelined
        )
        self.in_flight = None
        self._exchanged(len(outcomes) + unanswered, sent_before, answered=failure is None)
        elapsed_s = self._clock.monotonic_s() - began_s
        if failure is not None:
            if failure.voids_earlier:
                unanswered += len(outcomes)
                outcomes.clear()
            lost = Deferred(failure.reason, state=failure.state, answered=False)
            outcomes += [lost] * unanswered
            if elapsed_s >= timeout_s:
                self._sizing.timed_out(len(outcomes), began_s + elapsed_s)
        elif outcomes and isinstance(outcomes[-1], Delivered):
            sent_bytes = sum(len(p.body) + len(p.query) for p in payloads[: len(outcomes)])
            self._sizing.took(len(outcomes), sent_bytes, elapsed_s, began_s + elapsed_s)
        return outcomes

    def send_report(self, reports: AgentReports, timeout_s: float) -> Outcome:
        """Send a report in a batch without fixes."""
        batch = reports.without_fixes()
        answer = self._exchange(reports.encode(batch, self.compression.safe), timeout_s)
        if isinstance(answer, NoAnswer):
            return Deferred(answer.reason, state=answer.state, answered=False)
        return self._read(answer, batch)

    def _send_with(
        self, reports: AgentReports, batch: Batch, compression: Compression, timeout_s: float
    ) -> Outcome | None:
        """Send the batch with a report, if one is due. ``None``: it is to be sent without."""
        now_s = self._clock.monotonic_s()
        if not reports.due(now_s):
            return None
        outcome = self._exchange_one(batch, reports.encode(batch, compression), timeout_s)
        reports.ended(now_s, outcome)
        # What it chokes on may be the report: the fixes are judged without it.
        refused = isinstance(outcome, Refused | Held) or outcome.status == 500
        return None if refused else outcome

    def _exchange_one(self, batch: Batch, payload: Payload, timeout_s: float) -> Outcome:
        began_s, sent_before = self._clock.monotonic_s(), self._transport.sent_bytes
        self.in_flight = batch
        answer = self._exchange(payload, timeout_s)
        self.in_flight = None
        elapsed_s = self._clock.monotonic_s() - began_s
        count, size = len(batch.records), len(payload.body)
        if isinstance(answer, NoAnswer):
            if elapsed_s >= timeout_s and self._transport.sent_bytes > sent_before:
                self._sizing.timed_out(count, began_s + elapsed_s)
            return Deferred(answer.reason, state=answer.state, answered=False)
        outcome = self._read(answer, batch)
        if isinstance(outcome, Delivered):
            self._sizing.took(count, size, elapsed_s, began_s + elapsed_s)
        elif isinstance(outcome, Refused) and outcome.fitting is not None:
            self._sizing.answered_at_length(outcome.fitting, began_s + elapsed_s)
        elif isinstance(outcome, Refused) and outcome.too_large:
            self._sizing.too_large(count, size, began_s + elapsed_s)
        elif outcome.status in _NOT_PASSED_ON:
            self._sizing.timed_out(count, began_s + elapsed_s)
        return outcome

    def _exchange(self, payload: Payload, timeout_s: float) -> Answer | NoAnswer:
        sent_before = self._transport.sent_bytes
        answer = self._transport.exchange(payload, timeout_s)
        self._exchanged(1, sent_before, answered=isinstance(answer, Answer))
        return answer

    def _exchanged(self, requests: int, sent_before: int, *, answered: bool) -> None:
        sent, received = self._transport.sent_bytes, self._transport.received_bytes
        self._keeper.exchanged(sent - self._counted[0], received - self._counted[1], requests)
        self._counted = sent, received
        self.hope = answered
        self.silences = 0 if answered else self.silences + (sent > sent_before)
        if answered:
            self._way.answered()
        elif not self._old_way():
            self._way.doubt()

    def _read(self, answer: Answer, batch: Batch) -> Outcome:
        outcome = self._format.read(answer, batch)
        self.compression.learn(answer, outcome)
        return with_words(outcome, self._transport.masked)
