"""Fixes that the endpoint refuses: searched for, blamed with a witness, remembered without one.

A witness is a fix of the same device: a server may know one device and not another, and then it is
the set-up that is wrong, not the fixes of the device that it does not know.
"""

from collections.abc import Callable

from telemetry_agent.model import Batch, Deferred, Held
from telemetry_agent.upload.bisection import Bisection, CrashCount
from telemetry_agent.upload.leases import Leases, Name, name_of
from telemetry_agent.upload.upload_status import StatusKeeper

_SUSPECTS_MAX = 256


class Refusals:
    """Decides what becomes a dead letter. A search holds leases; ``end_search`` leaves them."""

    def __init__(
        self, leases: Leases, keeper: StatusKeeper, another: Callable[[], Batch | None]
    ) -> None:
        """``another`` leases a single fix that is no part of a search, if there is one."""
        self.search: Bisection | None = None
        self._leases = leases
        self._keeper = keeper
        self._another = another
        self._device = ""  # of the fixes that are searched
        self._crash_search = False
        self._crashes = CrashCount()
        # Refused alone without a witness -> its device, and whether there has been one since.
        self._suspects: dict[Name, tuple[str, bool]] = {}

    @property
    def suspects(self) -> set[Name]:
        """Single fixes that were refused without a witness: others are worth a try before them."""
        return set(self._suspects)

    @property
    def wants_another(self) -> bool:
        """Whether another fix must be tried before the batch that crashes the endpoint."""
        return self._crashes.wants_another

    def accepted(self, batch: Batch) -> None:
        """The endpoint took ``batch``, or some of it."""
        self._crashes.accepted(batch)
        if self._suspects:
            delivered = {name_of(record) for record in batch.records}
            self._suspects = {
                name: (device, witness or device == batch.device)
                for name, (device, witness) in self._suspects.items()
                if name not in delivered
            }
        if self.search is not None and batch.device == self._device:
            self.search.accepted(batch)
            self._make_dead_letters(self.search)

    def refused(
        self, batch: Batch, reason: str, *, too_large: bool = False
    ) -> Held | Deferred | None:
        """The endpoint refused ``batch``; returns why to stop, ``None`` to go on."""
        if len(batch.records) == 1 and self._has_witness(batch):
            self.make_dead_letter(batch, reason)
            return None
        search = self.searching(batch)
        search.refused(batch, reason, too_large=too_large)
        self._make_dead_letters(search)
        return self.give_up(search) if search.hopeless else None

    def searching(self, batch: Batch) -> Bisection:
        """The search that goes on, or one that begins with ``batch``."""
        if self.search is None:
            self._device = batch.device
            self.search = Bisection(len(batch.records), self._leases.split, self._another)
        return self.search

    def crashed(self, batch: Batch) -> bool:
        """Whether a 500 is a refusal: it is this batch that crashes the endpoint."""
        if self.search is not None and self._crash_search:
            return True
        if self.search is None and self._crashes.crashed(batch):
            self._crash_search = True
            self.searching(batch).witness = True
            return True
        if self.wants_another and len(batch.records) == 1:
            self.suspect(batch)
        return False

    def give_up(self, search: Bisection) -> Held | Deferred:
        """No witness is to be had: it is not these fixes, as far as anyone can tell."""
        for batch, _ in search.refused_alone:
            self.suspect(batch)
        return Deferred(search.reason) if self._crash_search else Held(search.reason)

    def suspect(self, batch: Batch) -> None:
        """A single fix was refused, and nothing tells whether it is to blame."""
        self._suspects.setdefault(name_of(batch.records[0]), (batch.device, False))
        while len(self._suspects) > _SUSPECTS_MAX:
            del self._suspects[next(iter(self._suspects))]

    def make_dead_letter(self, batch: Batch, reason: str) -> None:
        """A single fix is to blame."""
        self._leases.make_dead_letter(batch, reason)
        self._suspects.pop(name_of(batch.records[0]), None)
        self._keeper.dead_lettered(1, reason)

    def end_search(self) -> None:
        """Forget it; its leases stay."""
        self.search = None
        self._crash_search = False

    def _has_witness(self, batch: Batch) -> bool:
        return self._suspects.get(name_of(batch.records[0]), ("", False))[1]

    def _make_dead_letters(self, search: Bisection) -> None:
        if search.witness:
            for batch, reason in search.refused_alone:
                self.make_dead_letter(batch, reason)
            search.refused_alone.clear()
