"""The uploader: takes a batch from the queue, sends it, and does what the answer asks for.

Theory of operation. A step makes one attempt. Every lease is kept in one table (``leases``). Every
outcome that waits (``Deferred``, ``Held``) gives the leases back first, except those of refused
fixes that are tried again later (``refusals``). ``close`` and every exception give back all of
them. So no lease stays behind, and only what an answer acknowledges is acknowledged.

The next attempt is made at one instant, ``_not_before_s``. A ring of the bell carries no meaning
and cannot move it. The return of the network can, unless the endpoint itself named the time. While
the endpoint cannot be reached, one attempt is made each ``backoff_max``.

Fixes that got no answer stay ``unack`` until an answer is likely: the network returned, some
exchange was answered, or there is nothing else to try. If the order counts, they are tried first.

``selection`` decides what is sent next. Live fixes and the backlog are judged apart, and everything
is held only if live fixes are refused. Then one fix is sent each ``backoff_max``. If the order
counts, device names are judged apart instead: everything is held if the fixes of each name are
refused, and then one fix of each name is sent each ``backoff_max``.

If a token or a certificate could not be read since the start or the reload, uploads are held, and
the file is read again each 10 s. Later its previous contents stay in use (``http/credentials``).

Reports of the agent about itself never delay or judge a fix. A batch carries one only while the
last exchange went well. If it is refused, the batch is sent again without the report before
anything is concluded. A report without fixes is sent when there is nothing else to do.
"""

import contextlib
import math
import random
import threading
from collections.abc import Callable, Iterator

from telemetry_agent.clock import Clock
from telemetry_agent.errors import StorageError
from telemetry_agent.model import Batch, Deferred, Held, UploadState
from telemetry_agent.tasks import Bell, Task
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import BatchQueue, Reachability, UploadPolicy, WireFormat
from telemetry_agent.upload.leases import Leases
from telemetry_agent.upload.outcomes import OutcomeHandler, Resend, Resending, StopReason
from telemetry_agent.upload.refusals import AllRefused
from telemetry_agent.upload.reports import AgentReports
from telemetry_agent.upload.retry import Pace
from telemetry_agent.upload.selection import Selection
from telemetry_agent.upload.sending import Sender
from telemetry_agent.upload.sizing import Sizing
from telemetry_agent.upload.upload_status import StatusKeeper, UploadStatus

# Beside the exchanges: to lease a batch and to end it. Both wait for a commit of another thread and
# make one of their own, which syncs up to twice, and a worn card takes 10 s for a sync.
_STEP_SLACK_S = 90.0
_MISSING_AGAIN_S = 10.0
_STORAGE_AGAIN_S = 1.0
_REPORT_TIMEOUT_S = 10.0  # a fresh fix may be waiting behind it
_BRING_BACK_AT_MOST_S = 3600.0  # between the tries of fixes that were put off
_SERIES_MAX = 200  # that many arrive twice if the agent is killed before it notes the answers


class Uploader(Task):
    """The task."""

    def __init__(
        self,
        queue: BatchQueue,
        wire_format: WireFormat,
        transport: Transport,
        policy: UploadPolicy,
        *,
        reachability: Callable[[], Reachability],
        keeper: StatusKeeper | None = None,
        missing: Callable[[], str | None] = lambda: None,
        reports: AgentReports | None = None,
        resend: Resend | None = None,
        urgent: Callable[[], bool] = lambda: False,
        on_step: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Nothing is sent before the first step.

        The ``transport`` belongs to the caller, who closes it after ``last_upload``. The monitor is
        asked for each time, by ``reachability``: after a crash it is another one. ``keeper``
        continues the status of the previous uploader. ``missing`` says why nothing may be sent
        yet. ``resend`` makes delivered fixes ready again that the endpoint asks for; if the order
        counts, it may not ask. ``urgent``: fresh fixes do not wait for others. ``on_step`` is
        called in the uploader's thread after each step, and must not raise.
        """
        self.bell = Bell()
        # A step may send a batch three times: with a report, without it, and uncompressed.
        self.max_step_s = 3 * policy.timeout_s + _STEP_SLACK_S
        self._queue = queue
        self._transport = transport
        self._policy = policy
        self._reachability = reachability
        self._missing = missing
        self._reports = reports
        self._on_step = on_step
        self._clock = clock or Clock()
        rng = rng or random.Random()  # noqa: S311 - spreads a fleet, hides nothing
        self._pace = Pace(policy.backoff_initial_s, policy.backoff_max_s, rng)
        self._keeper = keeper or StatusKeeper(self._clock)
        self._stepping = threading.Lock()
        self._closed = False
        self._returned_within_s: float | None = None
        self._hurried = False

        self._leases = Leases(queue, wire_format.unfit, self._keeper)
        self._one_by_one = wire_format.one_by_one
        at_most = min(policy.max_batch, _SERIES_MAX) if self._one_by_one else policy.max_batch
        self._sizing = Sizing(at_most, policy.flush_every_s, policy.timeout_s)
        self._resending = Resending(resend if policy.live_first else None)
        self._selection = Selection(
            queue, self._leases, self._sizing, self._pace, self._keeper, policy, urgent, rng
        )
        self._refusals = self._selection.refusals
        self._sender = Sender(
            wire_format,
            transport,
            self._keeper,
            reachability=self._reachability,
            compression=policy.compression,
            sizing=self._sizing,
            clock=self._clock,
        )
        self._outcomes = OutcomeHandler(self._leases, self._refusals, self._keeper, self._clock)
        queue.resume_unack()  # the uploader before this one may have left some
        # Whether the last live batch was delivered; ``None``: none was sent yet.
        self._takes_live: bool | None = None
        self._attempted_s = float("-inf")
        self._bring_back_s, self._bring_back_every_s = float("-inf"), policy.backoff_max_s
        self._not_before_s = self._keeper.asked_until_s

    def step(self, now_s: float) -> float | None:
        """Make one attempt, if it is time."""
        with self._stepping, self._giving_back():
            wait_s = self._step(now_s)
        if self._closed:
            self._release_at_close()  # ``close`` could not: this step was still running
        self._on_step()
        return wait_s

    def close(self) -> None:
        """Abort a request in flight, and give back every lease: now, or when the step ends."""
        self._closed = True
        self._transport.dialer.abort()
        self.bell.ring()
        self._release_at_close()

    def network_returned(self, spread_s: float) -> None:
        """End the backoff, because the network is back. Any thread may call.

        The monitor has waited already for a random part of ``spread_s``, so that a fleet does not
        come back at once. A backoff and a hold of everything are cut short. A ``Retry-After``, the
        pause of a refused backlog and the spacing at a crowded endpoint are not.
        """
        self._returned_within_s = spread_s
        self.bell.ring()

    def network_changed(self) -> None:
        """Drop the connection: there is another route, or none. Any thread may call."""
        self._transport.dialer.abort()

    def hurry(self) -> None:
        """Try now, because a user waits, unless the endpoint itself named the time."""
        self._hurried = True
        self.bell.ring()

    def status(self) -> UploadStatus:
        """A snapshot, for any thread."""
        return self._keeper.status

    def last_upload(self, timeout_s: float) -> None:
        """Try once to send what is next, after ``close``, if the last exchange went well."""
        if not self._stepping.acquire(timeout=timeout_s):
            return
        try:
            self._release(everything=True)
            if self._outcomes.went_well:
                self._transport.dialer.rearm()
                limit, live_first = self._sizing.limit(), self._policy.live_first
                batch = self._leases.take(limit, live_first=live_first)
                if batch is not None:
                    with self._giving_back():
                        self._attempt(batch, timeout_s)
            self._release(everything=True)
        finally:
            self._stepping.release()

    def _step(self, now_s: float) -> float | None:
        self._follow_events(now_s)
        if self._closed:
            return None
        # A ring alone changes nothing: only ``_follow_events`` may have moved this instant.
        if now_s < self._not_before_s:
            return self._not_before_s - now_s
        if (missing := self._missing()) is not None:
            return self._pause("held", missing, _MISSING_AGAIN_S)
        try:
            return self._send_next(now_s)
        except StorageError as error:  # recording continues in memory meanwhile
            return self._pause("held", str(error), _STORAGE_AGAIN_S)

    def _follow_events(self, now_s: float) -> None:
        """Take over what other threads have noted since the last step."""
        # Each note is cleared before it is acted on, and only if it was seen: so none that another
        # thread makes meanwhile is lost.
        if self._transport.dialer.aborted:  # by ``network_changed``, or by an uploader that ended
            self._transport.dialer.rearm()
            self._transport.drop_idle()
            self._sizing.forget_failures()
        spread_s, hurried = self._returned_within_s, self._hurried
        if spread_s is None and not hurried:
            return
        if spread_s is not None:
            self._returned_within_s = None
            self._pace.network_returned(spread_s)
            if self._reports is not None:
                self._reports.network_returned()
        if hurried:
            self._hurried = False
            self._pace.hurry()
        if hurried or self._selection.probing:
            self._selection.hurry()
        self._sender.expect_answers()
        self._bring_back_s, self._bring_back_every_s = float("-inf"), self._policy.backoff_max_s
        self._attempted_s = float("-inf")
        # A ``Retry-After`` is obeyed whatever the network does.
        self._not_before_s = max(now_s, self._keeper.asked_until_s)
        self._keeper.wait_cut_short(self._not_before_s)
        self._keeper.count(hurries=hurried)  # last: ``drain`` reads the wait once it sees this

    def _send_next(self, now_s: float) -> float | None:
        pending = self._queue.backlog().ready > 0
        # Without a route an attempt would only cost power. But the monitor can be wrong, so one is
        # made each backoff_max.
        closed = self._reachability().closed()
        retry_s = self._attempted_s + self._policy.backoff_max_s
        if closed is not None and now_s < retry_s:
            if pending or self._leases.unanswered or self._refusals.waiting:
                self._keeper.trouble(*closed, now_s, retry_s, attempted=False)
            return retry_s - now_s
        self._bring_back(now_s)
        # The endpoint may choke on the fixes that got no answer, so other fixes are tried before
        # them, unless the last exchange was answered, or the order counts.
        if self._sender.expects_answers or not self._policy.live_first or not pending:
            self._leases.resume_unanswered()
        chosen = self._selection.next(now_s, self._attempted_s)
        if self._leases.unanswered and not isinstance(chosen, Batch):
            # Nothing else is due, and they need not wait until it is.
            self._leases.resume_unanswered()
            chosen = self._selection.next(now_s, self._attempted_s)
        if isinstance(chosen, Batch):
            self._attempted_s = now_s
            return self._attempt(chosen, self._policy.timeout_s)
        if isinstance(chosen, AllRefused):
            return self._stop_for(chosen, chosen.device)
        # Reports come last: ``None`` means that no fix waits for anything.
        if chosen is None and self._reports is not None:
            chosen = self._report(self._reports, now_s)
        if self._leases.has_put_off:
            return min(self._bring_back_s - now_s, math.inf if chosen is None else chosen)
        return chosen

    def _bring_back(self, now_s: float) -> None:
        """Let fixes that were put off be tried again, less and less often: it delays the others."""
        if now_s >= self._bring_back_s:
            if self._leases.has_put_off:
                self._leases.bring_back()
                self._bring_back_every_s = min(2 * self._bring_back_every_s, _BRING_BACK_AT_MOST_S)
            self._bring_back_s = now_s + self._bring_back_every_s

    # How to send it

    def _attempt(self, batch: Batch, timeout_s: float) -> float | None:
        """Send a batch, and do what the answers ask for; returns how long to wait."""
        deliveries, probing = self._outcomes.deliveries, self._selection.probing
        was_put_off = self._leases.is_put_off(batch)
        if self._one_by_one:
            outcomes = self._sender.send_each(batch, timeout_s)
            stop = self._outcomes.apply_each(batch, outcomes, probing=probing)
        else:
            # While something is wrong, an answer must not be about a report.
            well = self._outcomes.went_well and not (self._refusals.searching or self._closed)
            reports = self._reports if well else None
            outcome = self._sender.send(batch, timeout_s, reports)
            stop = self._outcomes.apply(batch, outcome, probing=probing)
            self._resending.asked(outcome, self._clock.monotonic_s())
            names_no_fix = stop is None and isinstance(outcome, Held | Deferred)
            if names_no_fix and self._refusals.searching:
                if len(batch.records) > 1:
                    # A firewall may block what is large, and a server may close at it.
                    self._sizing.failed(len(batch.records), self._clock.monotonic_s())
                else:
                    self._sizing.forget_failures()  # it was this fix, not the size
        delivered = self._outcomes.deliveries > deliveries
        # One fix that is refused while the search goes on shows nothing about the others.
        if batch.live and (delivered or stop is not None):
            self._takes_live = delivered
        if delivered:
            now_s = self._clock.monotonic_s()
            self._pace.delivered(now_s, live=batch.live)
            self._selection.delivered(batch)
            if was_put_off:  # the others may be accepted now, too
                self._bring_back_every_s = self._policy.backoff_max_s
                self._bring_back_s = min(self._bring_back_s, now_s + self._bring_back_every_s)
        only_backlog = self._policy.live_first and not batch.live and not probing
        return self._stop_for(stop, batch.device, backlog=only_backlog)

    def _report(self, reports: AgentReports, now_s: float) -> float:
        """Send a report without fixes, if it is time; returns how long to wait for the next."""
        wait_s = reports.alone_in_s(now_s)
        if wait_s > 0:
            return wait_s
        self._attempted_s = now_s
        timeout_s = min(self._policy.timeout_s, _REPORT_TIMEOUT_S)
        outcome = self._sender.send_report(reports, timeout_s)
        lost = isinstance(outcome, Deferred) and not outcome.answered
        if self._closed or (self._transport.dialer.aborted and lost):
            return 0  # the agent ended it, which shows nothing about the endpoint
        now_s = self._clock.monotonic_s()
        next_s = reports.ended(now_s, outcome)
        if isinstance(outcome, Deferred) and outcome.retry_after_s is not None:
            self._failed(outcome)  # fixes wait too: it is the endpoint that has no time
            next_s = max(next_s, self._not_before_s)
        self._keeper.reported(outcome, now_s, next_s, held=self._selection.probing)
        self._resending.asked(outcome, now_s)
        return 0

    # How long to wait

    def _stop_for(self, stop: StopReason, device: str, *, backlog: bool = False) -> float | None:
        """How long to wait. ``backlog``: it was of the backlog, and live fixes may be accepted.

        ::

            the outcome                               what waits          how long     continues
            later                                     everything          the backoff
            later, perhaps due to a backlog fix       the backlog         the backoff  live fixes
            held, or all refused                      everything          backoff_max
            the same for the backlog only             the backlog         backoff_max  live fixes
            the same for a device never accepted, or  the device's fixes  backoff_max  all others
            if the order counts
        """
        names_a_time = isinstance(stop, Deferred) and stop.retry_after_s is not None
        if stop is not None and not names_a_time:
            # Behind a load balancer, the next connection may lead to another server.
            self._transport.close()
        match stop:
            case AllRefused(reason, only_backlog=only_backlog):
                if only_backlog and self._policy.live_first:
                    return self._hold_backlog(stop, device)
                return self._hold(reason, device)
            case Held(reason):
                # Live fixes go on unless they are known to be refused too: they show which it is.
                if backlog and self._takes_live is not False:
                    return self._hold_backlog(stop, device)
                return self._hold(reason, device)
            case Deferred() as deferred:
                return self._later(deferred, device, backlog=backlog)
            case None:
                return 0

    def _failed(self, outcome: Deferred) -> float:
        """How long to wait. A ``Retry-After`` is kept also by the next uploader."""
        crowded = outcome.answered and outcome.state == "waiting"
        wait_s = self._pace.failed(crowded=crowded, retry_after_s=outcome.retry_after_s)
        if outcome.retry_after_s is not None:
            self._not_before_s = self._clock.monotonic_s() + wait_s
            self._keeper.asked_to_wait(self._not_before_s)
        return wait_s

    def _later(self, deferred: Deferred, device: str, *, backlog: bool) -> float | None:
        if not deferred.answered and self._transport.dialer.aborted:
            # The old route ended it, which shows nothing about the new one.
            self._release()
            return 0
        wait_s, asked = self._failed(deferred), deferred.retry_after_s is not None
        # "Later" is about the endpoint, unless live fixes are known to be taken meanwhile.
        if (
            backlog
            and self._takes_live
            and deferred.answered
            and deferred.may_be_a_fix
            and not asked
        ):
            return self._put_off_backlog(device, deferred.state, deferred.reason, wait_s)
        if deferred.answered:
            self._selection.keep_turn()
        return self._pause(deferred.state, deferred.reason, wait_s)

    def _put_off_backlog(
        self, device: str, state: UploadState, reason: str, wait_s: float
    ) -> float:
        """The endpoint may take live fixes, and never this backlog: they do not wait for it."""
        self._release()
        now_s = self._clock.monotonic_s()
        self._pace.put_off_backlog(now_s + wait_s)
        self._selection.pause_backlog(now_s + wait_s)  # what was refused too
        self._keeper.backlog_refused(device, reason)
        self._keeper.trouble(state, reason, now_s, now_s + wait_s)
        return 0

    def _hold_backlog(self, stop: Held | AllRefused, device: str) -> float:
        """Live fixes do not wait for this backlog: it may be too old, or have an earlier name."""
        if not self._refusals.accepts(device):
            is_held = isinstance(stop, Held) or not self._takes_live
            return self._leave_out(stop.reason, device, is_held=is_held)
        if isinstance(stop, Held):
            self._selection.doubt(device)
            return self._put_off_backlog(device, "held", stop.reason, self._policy.backoff_max_s)
        self._selection.pause_backlog(self._clock.monotonic_s() + self._policy.backoff_max_s)
        self._keeper.backlog_refused(device, stop.reason)
        self._release()
        return 0

    def _hold(self, reason: str, device: str) -> float | None:
        # Suspects wait for a witness if there was one before: a few bad fixes among few good ones
        # would never be found otherwise. A run would leave nothing to try.
        self._refusals.give_up(keep_suspects=self._refusals.ever_accepted)
        if not self._policy.live_first:
            return self._leave_out(reason, device)
        self._selection.probe()
        return self._pause("held", reason, self._policy.backoff_max_s)

    def _leave_out(self, reason: str, device: str, *, is_held: bool = True) -> float:
        """The setup may be wrong for this device alone: the fixes of others do not wait for it."""
        if not self._refusals.accepts(device):
            # It may never be accepted, and its suspects must not keep out all others.
            self._refusals.give_up_on(device)
        self._release()
        now_s = self._clock.monotonic_s()
        again_s = now_s + self._policy.backoff_max_s
        self._selection.leave_out(device, again_s)
        self._keeper.backlog_refused(device, reason)
        if is_held:
            self._keeper.trouble("held", reason, now_s, again_s)
        return 0

    def _pause(self, state: UploadState, reason: str, wait_s: float) -> float | None:
        self._release()
        if self._closed:
            return None
        now_s = self._clock.monotonic_s()
        self._not_before_s = now_s + wait_s
        self._keeper.trouble(state, reason, now_s, self._not_before_s)
        return wait_s

    @contextlib.contextmanager
    def _giving_back(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            # A request may have arrived, whatever ended the attempt.
            self._release(everything=True, answered=False)
            raise

    def _release(self, *, everything: bool = False, answered: bool = True) -> None:
        """Give back what is leased; fixes that were refused alone too, if ``everything``."""
        assert self._stepping.locked()
        if everything:
            self._refusals.give_up()
        self._refusals.end_search()
        self._leases.give_all_back(keep=self._refusals.kept, answered=answered)

    def _release_at_close(self) -> None:
        """Leave no lease behind: the next uploader may run already."""
        if self._stepping.acquire(blocking=False):
            try:
                self._release(everything=True)
                self._queue.resume_unack()
            finally:
                self._stepping.release()
