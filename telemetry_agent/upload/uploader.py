"""The uploader: takes a batch from the queue, sends it, and does what the answer asks for.

Theory of operation. A step makes one attempt. What is leased is kept in one table, and a lease
outlives a step only while a search for a refused fix goes on without delay: every outcome that
waits (``Deferred``, ``Held``) gives all leases back first, and so does whatever raises. So nothing
stays leased for ever, and nothing is acknowledged but what an answer acknowledged.

When the next attempt may be made is one instant, ``_not_before_s``. A ring carries no meaning and
cannot move it; the return of the network can, unless the endpoint itself named the time. While
the way to the endpoint is known to be closed, an attempt is made each ``backoff_max`` only.

What got no answer stays ``unack`` until there is reason to hope: the network returned, some
exchange was answered, or there is nothing else to try.

Under ``Held`` one fix is sent each ``backoff_max``, each time another one, so that a single bad
fix cannot keep the hold up.

Reports of the agent about itself never delay or judge a fix. A batch takes one along only while
all goes well, and where it is then refused it is sent again without before anything is concluded.
A report without fixes goes when there is nothing else to do, and its outcome ends there.
"""

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

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
    UploadState,
)
from telemetry_agent.tasks import Bell
from telemetry_agent.upload.account import Account, UploadStatus
from telemetry_agent.upload.coding import Coding
from telemetry_agent.upload.formats.answers import with_words
from telemetry_agent.upload.leases import Leases, name_of
from telemetry_agent.upload.pace import Pace
from telemetry_agent.upload.reports import Reports
from telemetry_agent.upload.retry import Backoff
from telemetry_agent.upload.seams import (
    Backlog,
    Compression,
    Exchange,
    Format,
    NoAnswer,
    OpenWay,
    Queue,
    Way,
)
from telemetry_agent.upload.search import CrashCount, Search
from telemetry_agent.upload.sizing import Sizing

_log = logging.getLogger(__name__)

_STEP_SLACK_S = 15.0  # beside the exchanges: encoding, and a disk that takes its time
_REPORT_TIMEOUT_S = 10.0  # a fresh fix may be waiting behind it
_NO_GZIP_THERE = {400, 415, 422, 500}
_ACCUSED_MAX = 256


@dataclass(frozen=True, slots=True)
class UploadPolicy:
    """How the uploader behaves, as the config's ``[upload]`` says it."""

    max_batch: int = 1000
    flush_every_s: float = 10.0
    timeout_s: float = 30.0
    live_first: bool = True
    compression: Compression = "gzip"
    backoff_initial_s: float = 1.0
    backoff_max_s: float = 120.0


class Uploader:
    """The task."""

    name = "upload"

    def __init__(
        self,
        queue: Queue,
        wire_format: Format,
        transport: Exchange,
        policy: UploadPolicy,
        *,
        way: Way | None = None,
        reports: Reports | None = None,
        in_haste: Callable[[], bool] = lambda: False,
        on_step: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Put together; nothing is sent before the first step.

        Args:
            queue: Where fixes wait.
            wire_format: How a request looks.
            transport: Belongs to the caller, who closes it after ``last_upload``.
            policy: What the config says.
            way: What is known of the way to the endpoint.
            reports: When and how the agent reports about itself; ``None``: never.
            in_haste: Whether fresh fixes are sent without waiting for company.
            on_step: Called in the uploader's thread after each step; must not raise.
            clock: The machine's clocks.
            rng: Draws the waits.
        """
        self.bell = Bell()
        # A step may send a batch with a report, without it, and plain.
        self.max_step_s = 3 * policy.timeout_s + _STEP_SLACK_S
        self._queue = queue
        self._format = wire_format
        self._transport = transport
        self._transport.rearm()  # the uploader before this one may have crashed and been closed
        self._policy = policy
        self._way = way or OpenWay()
        self._reports = reports
        self._in_haste = in_haste
        self._on_step = on_step
        self._clock = clock or Clock()
        rng = rng or random.Random()  # noqa: S311 - spreads a fleet, hides nothing
        self._pace = Pace(Backoff(policy.backoff_initial_s, policy.backoff_max_s, rng))
        self._sizing = Sizing(policy.max_batch, policy.flush_every_s, policy.timeout_s)
        self._account = Account(self._clock.monotonic_s())
        self._stepping = threading.Lock()
        self._closed = False
        self._returned_within_s: float | None = None
        self._network_changed = False
        self._hurried = False

        self._leases = Leases(queue)
        self._in_flight: Batch | None = None
        queue.resume_unack()  # the uploader before this one may have left some
        self._unanswered = False
        self._hope = True  # that those without an answer get one now
        self._attempted_s = float("-inf")
        self._not_before_s = 0.0
        self._endpoint_named_the_time = False
        self._went_well = False

        self._coding = Coding(policy.compression)
        self._plain_for_now = False  # the search goes on as the repetition was: plain

        self._search: Search | None = None
        self._crash_search = False
        self._crashes = CrashCount()
        self._probing = False
        self._probes = 0
        # Refused alone without a witness; true once the endpoint has accepted another since.
        self._accused: dict[tuple[str, int], bool] = {}

    def step(self, now_s: float) -> float | None:
        """Make one attempt, if it is time."""
        with self._stepping:
            try:
                wait_s = self._step(now_s)
            except BaseException:
                self._abandon()
                raise
        self._on_step()
        return wait_s

    def wake(self) -> None:
        """Ring. A request in flight is let go on: ``close`` ends it."""
        self.bell.ring()

    def close(self) -> None:
        """Abort a request in flight."""
        self._closed = True
        self._transport.abort()
        self.bell.ring()

    def network_returned(self, spread_s: float) -> None:
        """The network is there again: do not wait out the backoff. Any thread may say so.

        Whoever lost it together with us has it again within ``spread_s``.
        """
        self._returned_within_s = spread_s
        self.bell.ring()

    def network_changed(self) -> None:
        """The way is another one, or none: what uses the old one would hang. From any thread."""
        self._network_changed = True
        self._transport.abort()

    def hurry(self) -> None:
        """Somebody waits for the backlog: try now, unless the endpoint itself named the time."""
        self._hurried = True
        self.bell.ring()

    def status(self) -> UploadStatus:
        """A snapshot, for any thread."""
        return self._account.status

    def last_upload(self, timeout_s: float) -> None:
        """After ``close``: one try to send the newest, if the last exchange went well."""
        if not self._stepping.acquire(timeout=timeout_s):
            return
        try:
            self._abandon()
            if self._went_well:
                self._transport.rearm()
                batch = self._leases.take(self._sizing.limit(), live_first=True)
                if batch is not None:
                    self._settle(batch, self._attempt(batch, timeout_s))
        finally:
            self._abandon()
            self._stepping.release()

    def _step(self, now_s: float) -> float | None:
        self._take_news(now_s)
        if self._closed:
            return None
        if now_s < self._not_before_s:
            return self._not_before_s - now_s
        pending = self._queue.backlog().ready > 0
        closed = self._way.closed()
        retry_s = self._attempted_s + self._policy.backoff_max_s
        if closed is not None and now_s < retry_s:
            if pending or self._unanswered:
                self._account.trouble(*closed, now_s, retry_s, attempted=False)
            return retry_s - now_s
        if self._unanswered and (self._hope or not pending):
            self._queue.resume_unack()
            self._unanswered = False
        chosen = self._choose(now_s)
        if isinstance(chosen, Batch):
            self._attempted_s = now_s
            return self._settle(chosen, self._attempt(chosen, self._policy.timeout_s))
        if chosen is None and self._reports is not None:
            return self._report(self._reports, now_s)
        return chosen

    def _take_news(self, now_s: float) -> None:
        if self._network_changed:
            self._network_changed = False
            self._transport.drop_idle()
            self._transport.rearm()
        spread_s, self._returned_within_s = self._returned_within_s, None
        hurried, self._hurried = self._hurried, False
        if spread_s is not None:
            self._pace.network_returned(spread_s)
            if self._reports is not None:
                self._reports.network_returned(now_s)
        if hurried:
            self._pace.hurry()
        if spread_s is not None or hurried:
            self._hope = True
            self._attempted_s = float("-inf")
            if not self._endpoint_named_the_time:
                self._not_before_s = now_s
                self._account.wait_cut_short(now_s)
        if hurried:
            self._account.heeded()

    # What to send

    def _choose(self, now_s: float) -> Batch | float | None:
        """A batch to send now, or how long to wait for one."""
        if self._probing or self._crashes.wants_another:
            self._probes += 1
            return self._leases.take_one(
                self._policy.max_batch,
                live_first=self._policy.live_first,
                not_of=self._accused,
                turn=self._probes,
            )
        backlog = self._queue.backlog()
        live_in_s = self._live_in_s(backlog, now_s)
        live_first = self._policy.live_first and live_in_s == 0
        limit = self._sizing.limit(small=self._pace.knocks)
        if self._search is not None:
            # A fresh fix does not wait for a search, and may be its witness.
            batch = self._leases.take(limit, live_first=True) if live_first else None
            batch = batch or self._search.next(limit)
            if batch is not None:
                return batch
            if self._search.condemned:
                return self._give_up(self._search)
            self._end_search()
            return 0
        waits_s = [] if live_in_s is None else [live_in_s]
        if backlog.ready > backlog.live:
            waits_s.append(self._pace.backlog_in_s(now_s))
        if 0 in waits_s:
            return self._leases.take(limit, live_first=live_first)
        return min(waits_s, default=None)

    def _live_in_s(self, backlog: Backlog, now_s: float) -> float | None:
        """When live fixes have had their time to gather company; ``None``: there are none."""
        if not backlog.live or backlog.live_since_s is None:
            return None
        if backlog.live >= self._policy.max_batch or self._in_haste():
            return 0
        return max(0.0, backlog.live_since_s + self._policy.flush_every_s - now_s)

    # How to send it

    def _attempt(self, batch: Batch, timeout_s: float) -> Outcome:
        now_s = self._clock.monotonic_s()
        compression: Compression = "none" if self._plain_for_now else self._coding.choice(now_s)
        if self._reports is not None and self._went_well and not (self._search or self._closed):
            outcome = self._attempt_with(self._reports, batch, compression, timeout_s)
            if outcome is not None:
                return outcome
        payload = self._format.encode(batch, compression=compression)
        outcome = self._send(batch, payload, timeout_s)
        if not payload.compressed or self._coding.proven:
            return outcome
        if isinstance(outcome, Delivered):
            self._coding.taken()
            return outcome
        if outcome.status not in _NO_GZIP_THERE:
            return outcome
        again = self._send(batch, self._format.encode(batch, compression="none"), timeout_s)
        if isinstance(again, Delivered):
            self._coding.only_plain(outcome.status, now_s)
        elif isinstance(again, Refused):
            self._plain_for_now = True
            self._searching(batch).count_repetition()
        return again

    def _attempt_with(
        self, reports: Reports, batch: Batch, compression: Compression, timeout_s: float
    ) -> Outcome | None:
        """Send the batch with a report, if one is due. ``None``: it is to be sent without."""
        now_s = self._clock.monotonic_s()
        if not reports.due(now_s):
            return None
        outcome = self._send(batch, reports.encode(batch, compression), timeout_s)
        reports.ended(now_s, taken=isinstance(outcome, Delivered))
        # What it chokes on may be the report: the fixes are judged without it.
        refused = isinstance(outcome, Refused | Held) or outcome.status == 500
        return None if refused else outcome

    def _send(self, batch: Batch, payload: Payload, timeout_s: float) -> Outcome:
        began_s, sent_before = self._clock.monotonic_s(), self._transport.sent_bytes
        self._in_flight = batch
        answer = self._exchange(payload, timeout_s)
        self._in_flight = None
        elapsed_s = self._clock.monotonic_s() - began_s
        count, size = len(batch.records), len(payload.body)
        if isinstance(answer, NoAnswer):
            if elapsed_s >= timeout_s and self._transport.sent_bytes > sent_before:
                self._sizing.timed_out(count)
            return Deferred(answer.reason, state=answer.state, answered=False)
        outcome = self._read(answer, batch)
        if isinstance(outcome, Delivered):
            self._sizing.took(count, size, elapsed_s, began_s + elapsed_s)
        elif isinstance(outcome, Refused) and outcome.too_large:
            self._sizing.too_large(count, size, began_s + elapsed_s)
        return self._reconsider(batch, outcome)

    def _exchange(self, payload: Payload, timeout_s: float) -> Answer | NoAnswer:
        answer = self._transport.exchange(payload, timeout_s)
        self._account.exchanged(self._transport.sent_bytes, self._transport.received_bytes)
        self._hope = isinstance(answer, Answer)
        if self._hope:
            self._way.answered()
        elif not self._network_changed:
            self._way.doubt()
        return answer

    def _read(self, answer: Answer, batch: Batch) -> Outcome:
        return with_words(self._format.read(answer, batch), self._transport.masked)

    def _reconsider(self, batch: Batch, outcome: Outcome) -> Outcome:
        """Take a 500 for a refusal when it is this batch that crashes the endpoint."""
        if not isinstance(outcome, Deferred) or outcome.status != 500:
            return outcome
        if self._search is not None and self._crash_search:
            return Refused(outcome.reason, status=500)
        if self._search is None and self._crashes.crashed(batch):
            self._crash_search = True
            self._searching(batch).witness = True
            return Refused(outcome.reason, status=500)
        if self._crashes.wants_another and len(batch.records) == 1:
            self._accuse(batch)
        return outcome

    def _report(self, reports: Reports, now_s: float) -> float:
        """Send a report without fixes, if it is time; returns how long to wait for the next."""
        wait_s = reports.alone_in_s(now_s)
        if wait_s > 0:
            return wait_s
        self._attempted_s = now_s
        batch = reports.without_fixes()
        payload = reports.encode(batch, self._coding.safe)
        answer = self._exchange(payload, min(self._policy.timeout_s, _REPORT_TIMEOUT_S))
        if self._closed or (self._network_changed and isinstance(answer, NoAnswer)):
            return 0
        if isinstance(answer, NoAnswer):
            outcome: Outcome = Deferred(answer.reason, state=answer.state, answered=False)
        else:
            outcome = self._read(answer, batch)
        now_s = self._clock.monotonic_s()
        asked_wait_s = (outcome.retry_after_s or 0.0) if isinstance(outcome, Deferred) else 0.0
        taken = isinstance(outcome, Delivered)
        next_s = reports.ended(now_s, taken=taken, asked_wait_s=asked_wait_s)
        if not taken:
            self._account.failed()
        elif not self._probing:
            self._account.delivered(0, 0, now_s)
        if isinstance(outcome, Deferred):
            self._account.trouble(outcome.state, outcome.reason, now_s, next_s)
        elif isinstance(outcome, Refused | Held):
            self._account.report_refused(outcome.reason)
        return 0

    # What the answer asks for

    def _settle(self, batch: Batch, outcome: Outcome) -> float | None:
        """Do it; returns how long to wait. The one place where an outcome is matched."""
        self._went_well = isinstance(outcome, Delivered)
        match outcome:
            case Delivered():
                return self._delivered(batch, outcome)
            case Refused(reason, too_large):
                self._account.failed()
                return self._refused(batch, reason, too_large=too_large)
            case Deferred(reason, state, retry_after_s, answered):
                self._account.failed()
                if not answered:
                    self._unanswered = True
                    self._leases.give_back(batch, answered=False)
                    if self._network_changed:
                        # It ended with the old way, and says nothing of the new one.
                        self._abandon()
                        return 0
                return self._wait(state, reason, retry_after_s, answered=answered)
            case Held(reason):
                self._account.failed()
                return self._hold(reason)

    def _delivered(self, batch: Batch, outcome: Delivered) -> float | None:
        taken = len(batch.records) - len(outcome.rejected) - len(outcome.retry)
        self._leases.acknowledge(batch, outcome)
        if outcome.rejected:
            self._account.buried(len(outcome.rejected), next(iter(outcome.rejected.values())))
        if not taken and not outcome.rejected:
            self._account.failed()
            return self._wait("waiting", "the endpoint took nothing of the batch")
        self._pace.delivered(self._clock.monotonic_s(), live=batch.live)
        self._probing = False
        self._endpoint_named_the_time = False
        self._account.delivered(taken, outcome.unknown_names, self._clock.monotonic_s())
        if taken:
            self._crashes.accepted(batch)
            if self._accused:
                delivered = {name_of(record) for record in batch.records}
                self._accused = dict.fromkeys(self._accused.keys() - delivered, True)
            if self._search is not None:
                self._search.accepted(batch)
                self._bury(self._search)
        return 0

    def _refused(self, batch: Batch, reason: str, *, too_large: bool) -> float | None:
        if self._probing:
            self._accuse(batch)
            return self._hold(reason)
        if len(batch.records) == 1 and self._accused.get(name_of(batch.records[0])):
            self._bury_one(batch, reason)
            return 0
        search = self._searching(batch)
        search.refused(batch, reason, too_large=too_large)
        self._bury(search)
        return self._give_up(search) if search.hopeless else 0

    def _searching(self, batch: Batch) -> Search:
        if self._search is None:
            self._search = Search(
                len(batch.records),
                self._leases.split,
                another=lambda: self._leases.take(1, live_first=self._policy.live_first),
            )
        return self._search

    def _bury(self, search: Search) -> None:
        if search.witness:
            for batch, reason in search.condemned:
                self._bury_one(batch, reason)
            search.condemned.clear()

    def _bury_one(self, batch: Batch, reason: str) -> None:
        self._leases.bury(batch, reason)
        self._accused.pop(name_of(batch.records[0]), None)
        self._account.buried(1, reason)

    def _give_up(self, search: Search) -> float | None:
        """No witness is to be had: it is not these fixes, as far as anyone can tell."""
        for batch, _ in search.condemned:
            self._accuse(batch)
        if self._crash_search:
            return self._wait("waiting", search.reason)
        return self._hold(search.reason)

    def _accuse(self, batch: Batch) -> None:
        self._accused.setdefault(name_of(batch.records[0]), False)
        while len(self._accused) > _ACCUSED_MAX:
            del self._accused[next(iter(self._accused))]

    def _hold(self, reason: str) -> float | None:
        self._probing = True
        self._endpoint_named_the_time = False
        return self._pause("held", reason, self._policy.backoff_max_s)

    def _wait(
        self,
        state: UploadState,
        reason: str,
        retry_after_s: float | None = None,
        *,
        answered: bool = True,
    ) -> float | None:
        self._endpoint_named_the_time = retry_after_s is not None
        crowded = answered and state == "waiting"
        wait_s = self._pace.failed(crowded=crowded, retry_after_s=retry_after_s)
        return self._pause(state, reason, wait_s)

    def _pause(self, state: UploadState, reason: str, wait_s: float) -> float | None:
        self._abandon()
        if self._closed:
            return None
        now_s = self._clock.monotonic_s()
        self._not_before_s = now_s + wait_s
        self._account.trouble(state, reason, now_s, self._not_before_s)
        return wait_s

    def _abandon(self) -> None:
        """Give everything back. What was being sent may have arrived."""
        self._end_search()
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is not None:
            self._unanswered = True
            self._leases.give_back(in_flight, answered=False)
        self._leases.give_all_back()

    def _end_search(self) -> None:
        self._search = None
        self._crash_search = False
        self._plain_for_now = False
