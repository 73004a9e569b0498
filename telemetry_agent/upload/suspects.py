"""Fixes that were refused alone, and runs of them: when is one a dead letter?

Theory of operation. A refusal proves nothing by itself. The setup may be wrong, and then every fix
is refused. The endpoint may refuse at random, and then the next try succeeds. So a fix that was
refused alone is a *suspect*: it stays leased, blocks nothing, and is tried again. A refusal counts
only if another fix of the same device was accepted since the one before: that fix is its *witness*.
The fifth that counts makes the suspect a dead letter (the tenth if the endpoint accepted what it
had refused), if the next three tries are refused too, with no other request between. A proxy may
pass requests on to its servers in turn while one of them is broken: without these tries suspects
could always meet that one, and witnesses another. A fix becomes a dead letter at once if the answer
names it in ``rejected``, or if the format cannot carry it (``Leases.take``).

A *run* is a stretch of refused fixes, too long to try each of them, such as a backlog that is older
than the endpoint keeps data. Its first fix, its last and a random one of each tenth must be refused
alone, twice (four times if the endpoint is inconsistent), with an acceptance of another fix between
the two. One acceptance inside dissolves the run. First and last are in the order of time, because
servers refuse by age: if the newest is accepted, a binary search finds the age that is accepted,
and newer fixes leave the run.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from telemetry_agent.model import Batch
from telemetry_agent.upload.leases import Leases, name_of

_SAMPLES = 10


@dataclass(eq=False, slots=True)
class Suspect:
    """A leased fix that was refused alone."""

    batch: Batch
    acceptances: int
    """Of other fixes of its device, when it was last refused."""
    crash: bool = False
    """It was refused by answers that name no cause, such as 500."""
    refusals: int = 1
    """Those that count."""
    in_a_row: int = 1
    """Refusals since another fix was accepted."""

    def refused_again(self, acceptances: int) -> None:
        """Count a refusal if another fix was accepted since the last one."""
        counts = acceptances > self.acceptances
        self.refusals += counts
        self.in_a_row = 1 if counts else self.in_a_row + 1
        self.acceptances = acceptances


class Run:
    """Fixes next to each other, none of which was accepted so far. All are leased."""

    def __init__(
        self,
        leases: Leases,
        first: Suspect,
        rest: Iterable[Batch],
        refusals: int,
        rng: random.Random,
    ) -> None:
        """``refusals``: how often each sample must be refused."""
        self.device = first.batch.device
        self._leases = leases
        self._refusals = refusals
        self._rng = rng
        self.trying: int | None = None
        """The lease of the fix that ``next`` or ``first`` returned last; see ``_single``."""
        self._trying_at = 0  # its place
        self._batches = [first.batch, *rest]
        records = [record for batch in self._batches for record in batch.records]
        self._by_time = sorted(records, key=lambda record: record.fix.time_ms)
        # Places in the order of time: refused up to here, accepted from there on.
        self._last_refused, self._first_accepted = 0, len(records)
        self._samples: list[int] = []  # places; chosen when both ends are known
        self._tried = {self._by_time.index(first.batch.records[0]): first}

    @property
    def leases(self) -> set[int]:
        """Of all its fixes."""
        return {batch.lease for batch in self._batches}

    @property
    def up_to_the_newest(self) -> bool:
        """Whether no fix that is newer was accepted."""
        return self._first_accepted == len(self._by_time)

    def next(self, acceptances: int) -> Batch | None:
        """A single fix to try; ``None``: wait until a fix outside is accepted."""
        if not self._samples:
            if self._first_accepted - self._last_refused > 1:
                # The newest first: if it is accepted, by halves between the two ends.
                middle = (self._last_refused + self._first_accepted) // 2
                return self._single(len(self._by_time) - 1 if self.up_to_the_newest else middle)
            self._choose_samples()
        for place in self._samples:
            tried = self._tried.get(place)
            if tried is None or (
                tried.refusals < self._refusals and acceptances > tried.acceptances
            ):
                return self._single(place)
        return None

    def first(self) -> Batch:
        """Its first fix, which was refused, to try whether that has changed."""
        return self._single(0)

    def refused(self, batch: Batch, acceptances: int) -> bool:
        """Count the refusal of the fix that was tried. Returns whether the whole run is refused."""
        if self._trying_at in self._tried:
            self._tried[self._trying_at].refused_again(acceptances)
        else:
            self._tried[self._trying_at] = Suspect(batch, acceptances)
        if not self._samples:
            self._last_refused = self._trying_at
            return False
        samples = map(self._tried.get, self._samples)
        return all(tried and tried.refusals >= self._refusals for tried in samples)

    def accepted(self, batch: Batch) -> bool:
        """Take out an accepted fix. Returns whether the others can still be a run."""
        self.remove(batch)
        self._first_accepted = self._trying_at
        # The first was refused before: the endpoint does not refuse by age. And the samples are
        # from between the two ends, where nothing should be accepted.
        return self._trying_at > 0 and not self._samples

    def remove(self, batch: Batch) -> None:
        """Take out a batch that is no longer leased."""
        self._batches = [one for one in self._batches if one.lease != batch.lease]

    def dissolve(self) -> tuple[list[Suspect], list[Batch]]:
        """Take out everything: fixes that were refused alone, and the others."""
        tried = {suspect.batch.lease: suspect for suspect in self._tried.values()}
        suspects = [tried[batch.lease] for batch in self._batches if batch.lease in tried]
        others = [batch for batch in self._batches if batch.lease not in tried]
        return suspects, others

    def _choose_samples(self) -> None:
        """Choose what to try, and give back what is newer than the run."""
        count = self._last_refused + 1
        names = set(map(name_of, self._by_time[:count]))
        kept: list[Batch] = []
        for batch in self._batches:
            for part in self._leases.parts(batch, lambda record: name_of(record) in names):
                if name_of(part.records[0]) in names:
                    kept.append(part)
                else:
                    self._leases.give_back(part)
        self._batches = kept
        # One of each part, so that no stretch of acceptable fixes longer than two parts is missed.
        edges = [1 + (count - 2) * part // _SAMPLES for part in range(_SAMPLES + 1)]
        parts = [range(start, end) for start, end in pairwise(edges) if end > start]
        self._samples = [0, count - 1, *map(self._rng.choice, parts)]

    def _single(self, place: int) -> Batch:
        """Lease this fix alone: the next answer to the run is to it."""
        self._trying_at, record = place, self._by_time[place]
        i, batch = next(
            (i, batch) for i, batch in enumerate(self._batches) if record in batch.records
        )
        parts = list(self._leases.parts(batch, lambda other: other == record))
        self._batches[i : i + 1] = parts
        single = next(part for part in parts if part.records[0] == record)
        self.trying = single.lease
        return single
