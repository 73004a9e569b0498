"""What the next request carries: live fixes, the backlog, or one fix that was refused before.

Theory of operation. Live fixes go first, once they have waited for others (``flush_every``). If an
exchange takes so long that live fixes are due again at its end, they and the rest take turns. If
the backlog is refused, it pauses, and live fixes are sent when they are due. If the setup seems
wrong for the backlog of a device, one fix of it is tried at a time. While everything is held
(``probing``), each attempt sends one fix, and each time another one, so that a single bad fix
cannot keep everything held. Fixes that were refused come last.

If the order counts, the oldest fix is tried again and again, because no other may overtake it. But
the server may never take the oldest. So at the fifth wait in a row the fix behind it is tried, at
the tenth the 8th behind it, at the twentieth the 64th and so on: if the network returns just then,
few fixes come behind a newer one. While a fix is put off because it got no answer, the first wait
counts as the fifth: the server is known to have such fixes. If fixes are refused, one of the newest
is tried at each fifth wait, because servers refuse by age.

After a device was renamed, its backlog has two names, and the server may know one of them. So while
the backlog of one name is refused, that of the others is sent. If the order counts, the same is
true of all fixes: a server that needs the order needs it for each name.
"""

import math
import random
from collections import Counter
from collections.abc import Callable

from telemetry_agent.model import Backlog, Batch
from telemetry_agent.upload.interfaces import BatchQueue, UploadPolicy
from telemetry_agent.upload.leases import Leases
from telemetry_agent.upload.refusals import AllRefused, Refusals
from telemetry_agent.upload.retry import Pace
from telemetry_agent.upload.sizing import Sizing
from telemetry_agent.upload.upload_status import StatusKeeper

_LOOK_AMONG = 1000  # fixes, also where a batch holds one: the oldest may all be refused
_OVERTAKE_WAITS = 5
_NO_WITNESS_S = 900.0  # how often suspects are tried while nothing else can be sent


class Selection:
    """Chooses the next batch, and keeps what was refused."""

    def __init__(
        self,
        queue: BatchQueue,
        leases: Leases,
        sizing: Sizing,
        pace: Pace,
        keeper: StatusKeeper,
        policy: UploadPolicy,
        urgent: Callable[[], bool],
        rng: random.Random,
    ) -> None:
        """See ``Uploader``."""
        self.refusals = Refusals(
            leases,
            keeper,
            lambda: self._backlog(policy.max_batch),
            rng,
            order_counts=not policy.live_first,
        )
        self.probing = False
        """Whether everything is held: each attempt sends one fix."""
        self._backlog_paused_until_s = 0.0
        self._setup_is_right: dict[str, bool] = {}  # by device, as far as the backlog shows it
        self._refused_until_s: dict[str, float] = {}  # by device
        self._refusals_in_a_row: Counter[str] = Counter()  # the same
        self._others_wait = False  # fixes of devices that are not left out, perhaps
        self._looked_s = 0.0  # when there were none
        self._suspect_again_s = math.inf  # when one is tried without a witness
        leases.leave_out(self._refused_until_s)
        self._queue = queue
        self._leases = leases
        self._sizing = sizing
        self._pace = pace
        self._keeper = keeper
        self._policy = policy
        self._urgent = urgent
        self._probes = 0  # of everything, while it is held; each is another fix
        self._turns = 0  # the same for the backlog, without those that were accepted
        self._probe_lease = 0  # of the last
        self._live_last = False  # live fixes were due, and are the last that was chosen
        self._live_before = False  # the same before the last choice
        self._rest_kept_turn = False  # the last choice was the rest, and ``keep_turn`` was called

    def probe(self) -> None:
        """Everything is held: choose one fix for each attempt."""
        self.probing = True

    def pause_backlog(self, until_s: float) -> None:
        """Choose only live fixes until then."""
        self._backlog_paused_until_s = until_s

    def doubt(self, device: str) -> None:
        """The setup seems wrong for this device: choose single fixes of its backlog."""
        self._setup_is_right[device] = False

    def leave_out(self, device: str, until_s: float) -> None:
        """The same, and choose none before ``until_s``, unless the endpoint takes one of them.

        If the order counts, live fixes are part of the backlog.
        """
        self.doubt(device)
        self._refused_until_s[device] = until_s
        self._refusals_in_a_row[device] += 1
        self._others_wait = True
        self.probing = not (self._policy.live_first or any(self._setup_is_right.values()))

    def hurry(self) -> None:
        """Choose among all."""
        self._backlog_paused_until_s = 0.0
        self._refused_until_s.clear()

    def keep_turn(self) -> None:
        """The endpoint asked for the last choice later: choose it again, and not the others.

        The rest keeps its turn only once in a row: the endpoint may never accept it.
        """
        self._rest_kept_turn = not (self._live_last or self._rest_kept_turn)
        if self._live_last or self._rest_kept_turn:
            self._live_last = self._live_before

    def delivered(self, batch: Batch) -> None:
        """The endpoint took a batch: choose among all."""
        self.probing, self._backlog_paused_until_s = False, 0.0
        self._others_wait = True
        self._turns -= batch.lease == self._probe_lease  # the next one there may be accepted, too
        self._refused_until_s.pop(batch.device, None)
        del self._refusals_in_a_row[batch.device]
        if not (batch.live and self._policy.live_first):
            self._setup_is_right[batch.device] = True
            self._keeper.backlog_taken(batch.device)

    def next(self, now_s: float, attempted_s: float) -> Batch | AllRefused | float | None:
        """A batch to send now, or how long to wait for one; ``None``: nothing waits.

        The last attempt was made at ``attempted_s``.
        """
        for device, until_s in list(self._refused_until_s.items()):
            if now_s >= until_s:
                del self._refused_until_s[device]
        if not self._refused_until_s:
            return self._next(now_s, attempted_s)
        if wait_s := self._others_in_s(now_s):
            return wait_s
        if chosen := self._next(
            now_s, attempted_s
        ):  # a batch of the others, a conclusion or a wait
            return chosen
        self._others_wait, self._looked_s = False, now_s
        return self._others_in_s(now_s)

    def _next(self, now_s: float, attempted_s: float) -> Batch | AllRefused | float | None:
        if (again := self.refusals.again()) is not None:
            return again
        if self.probing or self._overtake_by:
            return self._single()
        backlog = self._queue.backlog()
        if backlog.ready == backlog.live and not self.refusals.waiting:
            self._keeper.backlog_taken()
        live_in_s = self._live_in_s(backlog, now_s)
        self._live_before, self._live_last = self._live_last, False
        if not self._policy.live_first or live_in_s != 0:
            return self._rest(backlog, live_in_s, now_s, attempted_s)
        # Live fixes are due, and the rest has its turn if they had the last one. They go before a
        # wait, and before the conclusion that all is refused: an acceptance of theirs may end both.
        if self._live_before:
            rest = self._rest(backlog, None, now_s, attempted_s)
            if isinstance(rest, Batch):
                return rest
        self._live_last = True
        return self._leases.take(self._sizing.limit(), live_first=True)

    def _rest(
        self, backlog: Backlog, live_in_s: float | None, now_s: float, attempted_s: float
    ) -> Batch | AllRefused | float | None:
        """The same without live fixes, which are due in ``live_in_s``; ``None``: none are awaited.

        If the order counts, live fixes are the end of the backlog.
        """
        refusals, limit = self.refusals, self._sizing.limit()
        wait_s = math.inf if live_in_s is None else live_in_s
        # Refused fixes wait too: only an acceptance ends the pause early.
        if now_s < self._backlog_paused_until_s:
            return min(wait_s, self._backlog_paused_until_s - now_s)
        if (batch := refusals.next(limit)) is not None:
            return batch
        if not refusals.full:
            if backlog.ready > backlog.live or self._refused_until_s:
                wait_s = min(wait_s, self._pace.backlog_in_s(now_s))
            if wait_s == 0 and (batch := self._of_backlog(limit)) is not None:
                return batch
        return self._suspect(wait_s, now_s, attempted_s)

    def _of_backlog(self, limit: int) -> Batch | None:
        """A batch of the backlog; while in doubt one fix, which shows as much."""
        one = self.refusals.in_doubt or self.refusals.crashes.wants_another
        # Among all, or only among those of devices that are not left out.
        alone = one and not (self._policy.live_first and self._refused_until_s)
        batch = self._single() if alone else self._backlog(limit)
        if batch is None or self._setup_is_right.get(batch.device, not one):
            return batch
        # The first may begin a run of refused fixes, or be one that is blocked.
        if self.refusals.is_held(batch) or (one and not alone):
            return self._another(batch)
        return self._leases.first(batch)

    def _suspect(
        self, wait_s: float, now_s: float, attempted_s: float
    ) -> Batch | AllRefused | float | None:
        """A fix that was refused before, as nothing else is to be sent for ``wait_s``."""
        refusals = self.refusals
        suspect = refusals.next_suspect() or self._leases.take_put_off()
        if suspect is not None:
            self._suspect_again_s = now_s + _NO_WITNESS_S
            return suspect
        if not refusals.waiting:
            self._suspect_again_s = math.inf
            return None if wait_s == math.inf else wait_s
        # There may be no other fix of its device, so an acceptance of it is all that can end it.
        self._suspect_again_s = min(self._suspect_again_s, now_s + _NO_WITNESS_S)
        if now_s >= self._suspect_again_s:
            self._suspect_again_s = now_s + _NO_WITNESS_S
            if (suspect := refusals.next_suspect(in_any_case=True)) is not None:
                return suspect
        # No other fix was accepted since the last refusal: the setup may be wrong instead. If the
        # order counts, a run up to the newest fix can have no witness.
        all_refused = refusals.up_to_the_newest and not self._policy.live_first
        if all_refused or not refusals.ever_accepted:
            return refusals.all_refused()
        witness_in_s = attempted_s + _NO_WITNESS_S - now_s
        if witness_in_s <= 0:
            return self._single()
        if self._urgent():  # a user waits for the backlog: say why it does not end
            again_s = now_s + witness_in_s
            self._keeper.trouble("waiting", refusals.reason, now_s, again_s, attempted=False)
        return min(wait_s, witness_in_s)

    @property
    def _overtake_by(self) -> int:
        """If the order counts, how far behind the oldest fix the one to try is; 0: the oldest.

        Negative: counted from the newest.
        """
        in_doubt = self.refusals.in_doubt
        is_known = self._leases.has_put_off and not in_doubt
        waits = 1 if is_known else _OVERTAKE_WAITS
        failures = 0 if self._policy.live_first else self._keeper.waits_in_a_row
        if in_doubt:
            return 0 if failures % waits else -failures // waits
        return _places_behind(failures, waits)

    def _single(self) -> Batch | None:
        """One fix of the pending ones, else a suspect: each time another, or as the order needs."""
        live_first = self._policy.live_first
        self._probes += live_first
        turn = self._probes if live_first else self._overtake_by
        one = self._leases.take_one(_LOOK_AMONG, live_first=live_first, turn=turn)
        if one is not None or self._refused_until_s:
            return one
        return self.refusals.next_suspect(in_any_case=True) or self._leases.take_put_off()

    def _another(self, batch: Batch) -> Batch | None:
        """One fix of the backlog in place of ``batch``: the first may be blocked."""
        if not self._policy.live_first:
            place = _places_behind(self._refusals_in_a_row[batch.device], _OVERTAKE_WAITS)
            return self._leases.one_of(batch, min(place, len(batch.records) - 1))
        self._leases.give_back(batch)
        self._turns += 1
        probe = self._leases.take_one(
            _LOOK_AMONG, live_first=True, backlog_only=True, turn=self._turns
        )
        self._probe_lease = probe.lease if probe else 0
        return probe

    def _backlog(self, limit: int) -> Batch | None:
        """The next of the backlog. Live fixes are part of it only if the order counts."""
        return self._leases.take(limit, live_first=False, backlog_only=self._policy.live_first)

    def _others_in_s(self, now_s: float) -> float:
        """How long to wait for fixes of devices that are not left out, or for the end of that."""
        if self._others_wait:
            return 0
        waits_s = [until_s - now_s for until_s in self._refused_until_s.values()]
        live_in_s = self._live_in_s(self._queue.backlog(), now_s)
        if live_in_s is not None:  # if the order counts, those that are left out are live as well
            again_s = self._looked_s + self._policy.flush_every_s
            waits_s.append(
                live_in_s if self._policy.live_first else max(live_in_s, again_s - now_s)
            )
        return min(waits_s)

    def _live_in_s(self, backlog: Backlog, now_s: float) -> float | None:
        """How long live fixes still wait for others; ``None``: there are none."""
        if not backlog.live or backlog.live_since_s is None:
            return None
        if backlog.live >= self._policy.max_batch or self._urgent():
            return 0
        return max(0.0, backlog.live_since_s + self._policy.flush_every_s - now_s)


def _places_behind(failures: int, each: int) -> int:
    """If the order counts, which fix to try behind the oldest; 0: the oldest."""
    times, rest = divmod(failures, each)
    return 0 if rest or times.bit_count() > 1 else min(times**3, _LOOK_AMONG)
