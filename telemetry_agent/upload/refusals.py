"""What the endpoint refuses: find the bad fix, and decide what becomes a dead letter.

Theory of operation. A refused batch is halved (``bisection``) until single fixes are refused. These
are *suspects*; how one becomes a dead letter is described in ``suspects``. If a batch is refused
down to its first fix, and so is its farthest half, it may be the beginning of a *run*: the backlog
behind it joins, and single fixes of the whole run are tried.

*Cost when everything is refused.* The way down to a single fix takes 1 + ceil(log2 n) requests.
After two more without an acceptance the search gives up: it may be the setup that is wrong.

*A fix that crashes the server.* It shows as 500, or as no answer. A batch to which that happens
five times, while others are accepted, counts as refused. But a single fix without an answer is
never a suspect, because it may be the network: it is sent again much later. So is one that gets a
status that holds uploads, such as 403, while others are accepted (``counts_as_refusal``).

An acceptance counts for fixes of the same device only. A server may know one device and not
another, and then the setup is wrong, not the fixes of the device that it does not know.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from telemetry_agent.model import Batch, Deferred, Held, Record
from telemetry_agent.upload.bisection import Bisection, CrashCount
from telemetry_agent.upload.leases import Leases
from telemetry_agent.upload.suspects import Run, Suspect
from telemetry_agent.upload.upload_status import StatusKeeper

_CRASHES, _CRASHES_OF_A_KNOWN_KIND = 5, 2
_REFUSALS = 5  # twice as many if the endpoint accepts what it refused
_SAMPLE_REFUSALS = 2  # the same
_IN_A_ROW = 4  # the last of them: as many as a proxy may have servers
_SUSPECTS_MAX = 256
_RUN_MIN = 20  # of fewer fixes each is tried alone
_RUN_MAX = 5000
_GAP_MAX = 64  # in seq


@dataclass(frozen=True, slots=True)
class AllRefused:
    """Fix after fix is refused and none accepted: it may be the setup."""

    reason: str
    device: str
    """Of the last of them."""
    only_backlog: bool
    """No live fix is among them."""


class Refusals:
    """Keeps what is refused. All of it is leased."""

    def __init__(
        self,
        leases: Leases,
        keeper: StatusKeeper,
        more: Callable[[], Batch | None],
        rng: random.Random,
        *,
        order_counts: bool,
    ) -> None:
        """``more`` leases the next of the backlog, if there is any."""
        self.live_refused = False
        """Whether a live fix was refused since the last acceptance."""
        self.in_doubt = False
        """Whether the endpoint seems to refuse everything."""
        self.reason = ""
        """Of the last refusal."""
        self._device = ""  # the same
        self.crashes = CrashCount()
        self._leases = leases
        self._keeper = keeper
        self._more = more
        self._rng = rng
        self._order_counts = order_counts
        self._suspects: dict[int, Suspect] = {}  # by lease
        self._run: Run | None = None
        self._search: Bisection | None = None
        self._suspects_turn = False  # another fix was accepted since the last suspect was tried
        self._again: Batch | None = None  # the fix that is tried several times in a row
        # By device and whether live: whether a single fix was accepted after a status that holds.
        self._held: dict[tuple[str, bool], bool] = {}
        self._in_a_row = 0  # refusals of a search since the last acceptance
        self._acceptances: Counter[str] = Counter()  # by device

    @property
    def searching(self) -> bool:
        """Whether a search is under way."""
        return self._search is not None

    @property
    def waiting(self) -> bool:
        """Whether refused fixes wait for the next try."""
        return bool(self._suspects) or self._run is not None

    @property
    def full(self) -> bool:
        """Whether too many fixes are refused to try more of the backlog."""
        return len(self._suspects) >= _SUSPECTS_MAX

    @property
    def up_to_the_newest(self) -> bool:
        """Whether a run of refused fixes reaches up to the newest that there was."""
        return self._run is not None and self._run.up_to_the_newest

    @property
    def ever_accepted(self) -> bool:
        """Whether the endpoint accepted any fix under these settings."""
        return self._acceptances.total() > 0

    def is_held(self, batch: Batch) -> bool:
        """Whether a status such as 403 came to the last such batch, and none was accepted since."""
        return (batch.device, batch.live) in self._held

    def accepts(self, device: str) -> bool:
        """Whether the endpoint accepted any fix of this device."""
        return self._acceptances[device] > 0

    @property
    def kept(self) -> set[int]:
        """The leases that outlast a wait."""
        return set(self._suspects) | (self._run.leases if self._run else set())

    # What to try

    def again(self) -> Batch | None:
        """What to try before any other fix."""
        batch, self._again = self._again, None
        return batch if batch is not None and batch.lease in self._suspects else None

    def next(self, limit: int) -> Batch | None:
        """What to try before the backlog continues; ``None``: nothing now."""
        # One suspect for each acceptance, so that many suspects cannot hold up the search.
        if self._suspects_turn:
            self._suspects_turn = False
            suspect = self.next_suspect()
            if suspect is not None:
                return suspect
        if self._search is not None and self._search.may_be_run and self._search.first_alone:
            # If the farthest half is accepted, it was one bad fix; if not, perhaps a run.
            farthest = self._search.farthest(limit)
            if farthest is not None:
                return farthest
            self._begin_run(self._search)
        if self._run is not None:
            batch = self._run.next(self._acceptances[self._run.device])
            if batch is not None:
                return batch
        if self._search is None:
            return None
        batch = self._search.next(limit)
        if batch is None:
            self.end_search()
        return batch

    def next_suspect(self, *, in_any_case: bool = False) -> Batch | None:
        """A suspect whose next refusal counts, or any, or one of a run; each time another."""
        for lease, suspect in self._suspects.items():
            if in_any_case or self._acceptances[suspect.batch.device] > suspect.acceptances:
                self._suspects[lease] = self._suspects.pop(lease)  # to the end of the line
                return suspect.batch
        return self._run.first() if in_any_case and self._run is not None else None

    # What the endpoint answered

    def accepted(self, batch: Batch) -> None:
        """Note that the endpoint accepted ``batch``, or some of it."""
        self.crashes.accepted(batch)
        self._acceptances[batch.device] += 1
        self._in_a_row = 0
        self.live_refused = self.in_doubt = False
        kind = batch.device, batch.live
        if self._held.pop(kind, None) is not None and len(batch.records) == 1:
            self._held[kind] = True
        search = self._search
        if search is not None and search.accepted(batch) and not search.is_crash:
            self._keeper.found_inconsistent(self.reason, 2 * _REFUSALS)
        if self._suspects.pop(batch.lease, None) is not None:
            self._keeper.found_inconsistent(self.reason, 2 * _REFUSALS)
        else:
            self._suspects_turn = True
        run = self._run
        if run is not None and batch.lease == run.trying and not run.accepted(batch):
            self._dissolve(run)

    def forget(self, batch: Batch) -> None:
        """Note that the batch is no longer leased, and was not accepted."""
        self._suspects.pop(batch.lease, None)
        if self._run is not None and batch.lease == self._run.trying:
            self._run.remove(batch)
            self._dissolve(self._run)

    def refused(
        self, batch: Batch, reason: str, *, too_large: bool = False, never_dead: bool = False
    ) -> AllRefused | Deferred | None:
        """Note that the endpoint refused ``batch``. Returns why to stop; ``None``: continue.

        ``never_dead``: a single fix never becomes a dead letter, because it got no answer, or one
        that holds uploads. It is sent again much later.
        """
        self.reason, self._device = reason, batch.device
        self.live_refused = self.live_refused or batch.live
        acceptances = self._acceptances[batch.device]
        suspect = self._suspects.get(batch.lease)
        if suspect is not None:
            if acceptances == suspect.acceptances and not batch.live:
                self._keeper.backlog_refused(batch.device, reason)  # nothing else says why it waits
            suspect.refused_again(acceptances)
            if suspect.refusals < self._needed(_REFUSALS):
                return None
            if suspect.in_a_row < _IN_A_ROW:
                self._again = batch
                return None
            del self._suspects[batch.lease]
            self._leases.make_dead_letter(batch, reason)
            return None
        if self._run is not None and batch.lease == self._run.trying:
            if self._run.refused(batch, acceptances):
                self._end_run(self._run)
            # A run has a limit of its own: its refusals count only if nothing was ever accepted.
            self._in_a_row += not acceptances
        else:
            self._in_a_row += 1
            self._refused_in_search(batch, too_large=too_large, never_dead=never_dead)
        # From the whole batch down to a single fix there are 1 + ceil(log2 size) refusals. If two
        # more follow without an acceptance, it may be the setup.
        size = self._search.size if self._search else 1
        if self._in_a_row < (size - 1).bit_length() + 3:
            return None
        crash = self._search is not None and self._search.is_crash
        return Deferred(reason) if crash else self.all_refused()

    def _refused_in_search(self, batch: Batch, *, too_large: bool, never_dead: bool) -> None:
        search = self._begin_search(batch)
        if len(batch.records) > 1:
            search.refused(batch, too_large=too_large)
        elif never_dead:  # it may be the network or the setup after all
            self._leases.put_off(batch)
        else:
            acceptances = self._acceptances[batch.device]
            self._suspects[batch.lease] = Suspect(batch, acceptances, search.is_crash)
            search.refused_alone(batch)

    def all_refused(self) -> AllRefused:
        """Conclude that one fix at a time is enough from now on."""
        self.in_doubt = True
        return AllRefused(self.reason, self._device, only_backlog=not self.live_refused)

    def counts_as_refusal(self, batch: Batch, said: Deferred | Held, *, never_dead: bool) -> bool:
        """Whether an outcome that names no fix counts as a refusal of this batch; if so, search it.

        - A 500, a 502, or no answer: the fifth of the same batch, while others are accepted.
        - One of these that is ``never_dead`` (see ``refused``): the second, if another fix was put
          off before. No answers only if the order counts: then others wait for this batch, and
          otherwise a bad network would look the same.
        - A status that holds uploads, such as 403: if single fixes of this kind were accepted since
          the last one, and no batch. A firewall may block what is too large for it, or what one
          fix holds.
        """
        if isinstance(said, Deferred) and not said.may_be_a_fix:
            return False
        answered = isinstance(said, Held) or said.answered
        suspect = self._suspects.get(batch.lease)
        if suspect is not None:
            return suspect.crash and not never_dead
        if self._search is not None:
            return self._search.is_crash
        if isinstance(said, Held):
            kind = batch.device, batch.live
            is_one = self._held.get(kind, False) and self._run is None
            self._held[kind] = False
        else:
            is_known = self._leases.has_put_off and never_dead and (answered or self._order_counts)
            enough = _CRASHES_OF_A_KNOWN_KIND if is_known else _CRASHES
            is_one = self.crashes.crashed(batch, enough, answered=answered)
        if is_one:
            self._search = Bisection(self._leases.split, batch, is_crash=True)
        return is_one

    def end_search(self) -> None:
        """Forget the search. The caller gives its leases back."""
        self._search = None

    def give_up(self, *, keep_suspects: bool = False) -> None:
        """Forget everything that is refused. The caller gives its leases back."""
        self.end_search()
        if not keep_suspects:
            self._suspects.clear()
        self._run = None

    def give_up_on(self, device: str) -> None:
        """Forget what is refused of a device. The caller gives its leases back."""
        self.end_search()
        for lease, suspect in list(self._suspects.items()):
            if suspect.batch.device == device:
                del self._suspects[lease]
        if self._run is not None and self._run.device == device:
            self._run = None

    def _begin_search(self, batch: Batch) -> Bisection:
        if self._search is None:
            self._search = Bisection(self._leases.split, batch)
        return self._search

    def _needed(self, refusals: int) -> int:
        return 2 * refusals if self._keeper.status.inconsistent else refusals

    def _begin_run(self, search: Bisection) -> None:
        first = self._suspects.get(search.first_alone or 0)
        if first is None or self._run is not None:
            return  # it was accepted meanwhile, or there is another run
        for piece in search.take_all():  # the backlog begins with them
            self._leases.give_back(piece)
        rest = self._run_behind(first.batch.records[0])
        if sum(len(batch.records) for batch in rest) < _RUN_MIN:
            for batch in rest:
                search.add(batch)
        else:
            del self._suspects[first.batch.lease]
            self._run = Run(self._leases, first, rest, self._needed(_SAMPLE_REFUSALS), self._rng)

    def _run_behind(self, last: Record) -> list[Batch]:
        """What may be one run with ``last``. No fix between two of a run was accepted."""
        run: list[Batch] = []
        count = 0
        while count < _RUN_MAX and (batch := self._more()) is not None:
            length = _length_behind(last, batch)
            if not length:
                self._leases.give_back(batch)
                break
            run.append(self._leases.first(batch, length))
            last, count = run[-1].records[-1], count + length
        return run

    def _dissolve(self, run: Run) -> None:
        """Try the parts of a run one by one, because a fix in it was accepted."""
        self._run = None
        suspects, others = run.dissolve()
        self._suspects.update((suspect.batch.lease, suspect) for suspect in suspects)
        for batch in others:
            self._begin_search(batch).add(batch)

    def _end_run(self, run: Run) -> None:
        self._run = None
        suspects, others = run.dissolve()
        for batch in (*(suspect.batch for suspect in suspects), *others):
            self._leases.make_dead_letter(batch, f"refused as part of a run: {self.reason}")


def _length_behind(last: Record, batch: Batch) -> int:
    """How many fixes of ``batch`` continue a run that ends with ``last``."""
    length = 0
    for record in batch.records:
        gap = record.seq - last.seq if record.stream == last.stream else 0
        # Thinning makes gaps in a run; a longer one may have held fixes that were accepted.
        if record.device != last.device or not 0 <= gap <= _GAP_MAX:
            break
        last, length = record, length + 1
    return length
