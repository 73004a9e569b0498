"""One attempt: from a batch to what the endpoint's answers mean for it.

*Whether requests are compressed.* An endpoint that does not look at ``Content-Encoding`` finds no
fixes in a compressed body, may answer 200 all the same, and the fixes are lost. So with ``auto``
gzip is earned: by a format whose servers are known to unpack it, by an answer that names gzip in
``Accept-Encoding``, or by one that counts what it received, because that would show the loss.

A compressed request that is refused before any was accepted is worth repeating plain. So it is
after five waits in a row, because a server that unpacks gzip may have been replaced by one that
does not. Of those that get no answer, or that of a proxy without a server, the second is repeated,
the fourth, the eighth and so on, because most often it is an outage. If the plain one is accepted,
requests stay plain for an hour: an endpoint may learn gzip, and bytes cost money. If it is refused
too, they stay plain for a minute: the search for the bad fix must not send each part twice.
"""

import logging
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
from telemetry_agent.upload.formats.answers import masked_outcome, offers_gzip
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import (
    PROXY_FAILURES,
    Compression,
    CompressionSetting,
    NoAnswer,
    Reachability,
    WireFormat,
)
from telemetry_agent.upload.reports import AgentReports
from telemetry_agent.upload.sizing import Sizing
from telemetry_agent.upload.upload_status import StatusKeeper

_log = logging.getLogger(__name__)

_NO_GZIP_THERE = {400, 415, 422, 500}
_DOUBT_WAITS = 5  # in a row: the request itself may be the reason
_GZIP_AGAIN_AFTER_S = 3600.0
_SEARCH_S = 60.0

_GATEWAY_TIMEOUT = 504
_NO_SERVER_BEHIND = {*PROXY_FAILURES, 503}


class Sender:
    """Encodes, exchanges, reads the answers, and learns what the endpoint takes."""

    def __init__(
        self,
        wire_format: WireFormat,
        transport: Transport,
        keeper: StatusKeeper,
        *,
        reachability: Callable[[], Reachability],
        compression: CompressionSetting,
        sizing: Sizing,
        clock: Clock,
    ) -> None:
        self.expects_answers = True
        """Whether what got no answer before may get one now: the last exchange got one, or
        ``expect_answers`` was called since."""
        self._losses = 0  # compressed requests that no endpoint answered, since a delivery
        self._compression = CompressionChoice(compression, wire_format)
        self._format = wire_format
        self._transport = transport
        self._keeper = keeper
        self._reachability = reachability
        self._sizing = sizing
        self._clock = clock
        self._counted_bytes = transport.dialer.sent_bytes

    def expect_answers(self) -> None:
        """An answer is likely again: the network returned, or a user asks."""
        self.expects_answers = True

    def send(self, batch: Batch, timeout_s: float, reports: AgentReports | None) -> Outcome:
        """Send a batch in one request, with a report if one is due.

        What is refused because it is compressed, perhaps, is sent once more, plain.
        """
        now_s = self._clock.monotonic_s()
        compression = self._compression.choice(now_s)
        if reports is not None and reports.due(now_s):
            payload = reports.encode(batch, compression)
            outcome = self._send_fixes(batch, payload, timeout_s, with_report=True)
            reports.ended(now_s, outcome)
            # It may have refused the report: the fixes are judged without it.
            if not isinstance(outcome, Refused | Held) and outcome.status != 500:
                return outcome
        payload = self._format.encode(batch, compression)
        outcome = self._send_fixes(batch, payload, timeout_s)
        proven = self._compression.proven and self._keeper.waits_in_a_row < _DOUBT_WAITS
        if isinstance(outcome, Delivered):
            self._losses = 0
        if isinstance(outcome, Delivered) or not payload.compressed or proven:
            return outcome
        is_unclear = (
            isinstance(outcome, Deferred)
            and outcome.may_be_a_fix
            and outcome.answered
            and outcome.status not in _NO_SERVER_BEHIND
        )
        if _may_be_an_outage(outcome):  # to repeat each one would double the bytes of an outage
            self._losses += 1
            is_unclear = self._losses > 1 and self._losses.bit_count() == 1
        if not is_unclear and outcome.status not in _NO_GZIP_THERE:
            return outcome
        again = self._send_fixes(batch, self._format.encode(batch, "none"), timeout_s)
        if isinstance(again, Delivered | Refused):
            self._compression.refused(now_s, outcome.status or "no answer", plain=again)
            self._sizing.forget_failures()  # it was not the size
        return again

    def send_each(self, batch: Batch, timeout_s: float) -> list[Outcome]:
        """Send each fix in a request of its own; the outcomes of the first ones.

        The others were not sent: the time was over, or an answer stopped the series.
        """
        ones = [
            Batch(batch.lease, batch.stream, batch.device, (record,), batch.live)
            for record in batch.records
        ]
        payloads = [self._format.encode(one, "none") for one in ones]
        outcomes: list[Outcome] = []

        def on_answer(answer: Answer) -> bool:
            outcomes.append(self._read(answer, ones[len(outcomes)]))
            return isinstance(outcomes[-1], Delivered | Refused)

        began_s = self._clock.monotonic_s()
        failure, unanswered = self._transport.series(
            payloads, timeout_s, on_answer, pipelined=self._format.pipelined
        )
        sent = self._exchanged(len(outcomes) + unanswered, answered=failure is None)
        now_s = self._clock.monotonic_s()
        if failure is not None:
            if failure.voids_earlier:
                unanswered += len(outcomes)
                outcomes.clear()
            outcomes += [self._without_answer(failure, sent=sent)] * unanswered
            if now_s - began_s >= timeout_s:
                self._sizing.failed(len(outcomes), now_s)
        elif outcomes and isinstance(outcomes[-1], Delivered):
            self._sizing.took(len(outcomes), 0, now_s - began_s, now_s)  # no limit in bytes here
        return outcomes

    def send_report(self, reports: AgentReports, timeout_s: float) -> Outcome:
        """Send a report in a batch without fixes."""
        batch = reports.without_fixes
        return self._exchange(batch, reports.encode(batch, self._compression.safe), timeout_s)

    def _send_fixes(
        self, batch: Batch, payload: Payload, timeout_s: float, *, with_report: bool = False
    ) -> Outcome:
        """Exchange, and learn how large the next batch may be."""
        began_s = self._clock.monotonic_s()
        outcome = self._exchange(batch, payload, timeout_s)
        now_s = self._clock.monotonic_s()
        count, size, elapsed_s = len(batch.records), len(payload.body), now_s - began_s
        match outcome:
            case Delivered():
                self._sizing.took(count, size, elapsed_s, now_s)
                if payload.compressed:
                    self._compression.accepted()
            case Refused(fitting=int() as fitting):
                self._sizing.answered_at_length(fitting, now_s)
            case Refused(too_large=True) if not with_report:
                self._sizing.too_large(count, size, now_s)
            case Deferred(may_be_a_fix=True):
                # Once may be a restart, and some endpoints recognise only the whole batch again.
                timed_out = elapsed_s >= timeout_s or outcome.status == _GATEWAY_TIMEOUT
                if timed_out or self._keeper.waits_in_a_row >= _DOUBT_WAITS - 1:
                    self._sizing.failed(count, now_s)
        return outcome

    def _exchange(self, batch: Batch, payload: Payload, timeout_s: float) -> Outcome:
        answer = self._transport.exchange(payload, timeout_s)
        sent = self._exchanged(1, answered=isinstance(answer, Answer))
        if isinstance(answer, NoAnswer):
            return self._without_answer(answer, sent=sent)
        return self._read(answer, batch)

    def _exchanged(self, requests: int, *, answered: bool) -> bool:
        """Count. Returns whether anything was sent."""
        before, self._counted_bytes = self._counted_bytes, self._transport.dialer.sent_bytes
        sent_bytes = self._counted_bytes - before
        self._keeper.count(requests=requests, sent_bytes=sent_bytes)
        self.expects_answers = answered
        if answered:
            self._reachability().answered()
            return True
        if not self._transport.dialer.aborted:
            self._reachability().doubt()
        return sent_bytes > 0

    def _read(self, answer: Answer, batch: Batch) -> Outcome:
        outcome = self._format.read(answer, batch)
        self._compression.learn(answer, outcome)
        return masked_outcome(outcome, self._transport.credentials.masked)

    def _without_answer(self, failure: NoAnswer, *, sent: bool) -> Outcome:
        may_be_a_fix = sent and not self._transport.dialer.aborted
        outcome = Deferred(
            failure.reason, failure.state, answered=False, sent=sent, may_be_a_fix=may_be_a_fix
        )
        return masked_outcome(outcome, self._transport.credentials.masked)


def _may_be_an_outage(outcome: Outcome) -> bool:
    """Whether the request got no answer, or one of a proxy, which may say so of its server."""
    if not isinstance(outcome, Deferred) or outcome.retry_after_s is not None:
        return False
    return outcome.status in _NO_SERVER_BEHIND if outcome.answered else outcome.may_be_a_fix


class CompressionChoice:
    """How to encode the next request."""

    def __init__(self, setting: CompressionSetting, wire_format: WireFormat) -> None:
        self.proven = False
        """Whether a compressed request was accepted."""
        self._may_earn = setting == "auto" and wire_format.gzip == "proven"
        self._wanted: Compression = "none"
        if setting == "gzip" or (setting == "auto" and wire_format.gzip == "always"):
            self._wanted = "gzip"
        self._plain_until_s = float("-inf")
        self._is_refused = False

    def choice(self, now_s: float) -> Compression:
        """What to try."""
        return "none" if now_s < self._plain_until_s else self._wanted

    @property
    def safe(self) -> Compression:
        """What is known to be accepted."""
        return self._wanted if self.proven else "none"

    def learn(self, answer: Answer, outcome: Outcome) -> None:
        """Note what an answer says about gzip."""
        if self._may_earn and self._wanted == "none":
            # A captive portal offers nothing: it is not the endpoint.
            delivered = isinstance(outcome, Delivered)
            offers = (delivered or answer.status == 415) and offers_gzip(answer)
            if offers or (isinstance(outcome, Delivered) and outcome.counted):
                self._wanted = "gzip"
                _log.info("the endpoint unpacks gzip: uploads are compressed from now on")

    def accepted(self) -> None:
        """Note that a compressed request was delivered."""
        if self._is_refused:
            _log.info("the endpoint accepts gzip now")
        self.proven = True
        self._is_refused = False

    def refused(self, now_s: float, status: int | str, *, plain: Delivered | Refused) -> None:
        """Note that a compressed request was refused, and the outcome of the ``plain`` one."""
        if isinstance(plain, Refused):
            self._plain_until_s = now_s + _SEARCH_S
            return
        self._plain_until_s = now_s + _GZIP_AGAIN_AFTER_S
        self.proven = False
        if not self._is_refused:
            self._is_refused = True
            _log.info("the endpoint does not accept gzip (%s): uploads stay plain", status)
