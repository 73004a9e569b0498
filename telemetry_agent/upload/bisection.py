"""Finds the fixes that an endpoint refuses, by halves, without ever blaming a good one.

Theory of operation. A refused batch is halved until single fixes are refused. A single fix that
was refused alone becomes a dead letter only with a *witness*: the endpoint accepted another fix
since the refusal began. Without one it may be the set-up that is wrong, and then every fix would
be thrown out one by one.

*Cost of one bad fix in n.* A level of halving costs one request to look into the first half, and,
if that was refused, one to deliver the second half. If the first half is taken, the second holds
the bad fix and is not tried whole. So it is at most 2 * ceil(log2 n) more requests than without
the bad fix.

*Cost when everything is refused.* The way down takes 1 + ceil(log2 n) requests. Then others are
tried for a witness: the largest piece left, since it must be sent anyway and lies farthest from
the bad fix; then single fixes. After ceil(log2 n) + 3 refusals in a row the search gives up.
The same limit keeps an old witness from serving for ever: just before it is reached, another fix
is tried.
"""

from collections.abc import Callable
from dataclasses import dataclass

from telemetry_agent.model import Batch


@dataclass(eq=False, slots=True)
class _Piece:
    batch: Batch
    second: "_Piece | None" = None
    """The other half, if one of the two must hold the bad fix."""
    holds_bad: bool = False
    """It holds the bad fix: it need not be tried whole."""


class Bisection:
    """One search: the pieces of a batch that are still to be tried. All are leased."""

    def __init__(
        self,
        size: int,
        split: Callable[[Batch, int], tuple[Batch, Batch]],
        another: Callable[[], Batch | None],
    ) -> None:
        """``another`` leases a single fix that is no part of the search, if there is one."""
        self.refused_alone: list[tuple[Batch, str]] = []
        """Single fixes that were refused alone, each with the reason; they wait for a witness."""
        self.reason = ""
        """Of the last refusal."""
        self.witness = False
        """Whether the endpoint accepted another fix since the refusal began."""
        self._budget = (size - 1).bit_length() + 3
        self._refusals = 0  # in a row
        self._split = split
        self._another = another
        self._pieces: list[_Piece] = []  # the last is the next
        self._trying: _Piece | None = None
        self._tried_largest = False

    @property
    def hopeless(self) -> bool:
        """Whether the endpoint seems to refuse everything."""
        return self._refusals >= self._budget

    def next(self, limit: int) -> Batch | None:
        """The next batch to try, of at most ``limit`` fixes; ``None``: nothing is left to try."""
        self._trying = self._choose(limit)
        return self._trying.batch if self._trying else None

    def accepted(self, batch: Batch) -> None:
        """The endpoint took ``batch``, or some of it: a piece of the search, or any other batch."""
        self.witness = True
        self._refusals = 0
        if self._trying and self._trying.batch is batch and self._trying.second:
            self._trying.second.holds_bad = True

    def refused(self, batch: Batch, reason: str, *, too_large: bool = False) -> None:
        """The endpoint refused ``batch``: the first of the search, a piece of it, or any other."""
        self._refusals += 1
        self.reason = reason
        if len(batch.records) == 1:
            self.refused_alone.append((batch, reason))
        else:
            self._halve(batch, one_is_bad=not too_large)

    def count_repetition(self) -> None:
        """The same batch was refused once more, in another form."""
        self._refusals += 1

    def _choose(self, limit: int) -> _Piece | None:
        if (self.refused_alone and not self.witness) or self._refusals == self._budget - 1:
            return self._choose_witness(limit)
        while self._pieces:
            piece = self._pieces.pop()
            count = len(piece.batch.records)
            if count > 1 and (piece.holds_bad or count > limit):
                self._halve(piece.batch, one_is_bad=piece.holds_bad)
            else:
                return piece
        return None

    def _choose_witness(self, limit: int) -> _Piece | None:
        farthest = self._pieces[0] if self._pieces else None
        if farthest and not self.witness and not self._tried_largest:
            self._tried_largest = True
            if len(farthest.batch.records) <= limit:
                return self._pieces.pop(0)
        other = self._another()
        if other:
            return _Piece(other)
        if farthest and len(farthest.batch.records) > 1:
            farthest.batch, newest = self._split(farthest.batch, len(farthest.batch.records) - 1)
            return _Piece(newest)
        return self._pieces.pop(0) if farthest else None

    def _halve(self, batch: Batch, *, one_is_bad: bool) -> None:
        halves = self._split(batch, len(batch.records) // 2)
        first, second = map(_Piece, halves)
        if one_is_bad:
            first.second = second
        self._pieces += [second, first]


class CrashCount:
    """Tells a batch that crashes the endpoint from an endpoint that is down.

    Both show as status 500. A batch is known by its first fix, because what follows it changes
    while it waits.
    """

    _ENOUGH = 5

    def __init__(self) -> None:
        self._first: tuple[str, int] | None = None
        self._count = 0
        self._others_accepted = False

    @property
    def wants_another(self) -> bool:
        """Whether another fix must be tried before the batch itself is worth a try."""
        return self._count >= self._ENOUGH and not self._others_accepted

    def crashed(self, batch: Batch) -> bool:
        """Count a 500 for ``batch``; true once it is the batch and not the endpoint."""
        first = _first_name(batch)
        if first == self._first:
            self._count += 1
        elif not self.wants_another:
            self._first, self._count, self._others_accepted = first, 1, False
        return first == self._first and self._count >= self._ENOUGH and self._others_accepted

    def accepted(self, batch: Batch) -> None:
        """The endpoint took ``batch``."""
        if _first_name(batch) == self._first:
            self._first, self._count = None, 0
        else:
            self._others_accepted = True


def _first_name(batch: Batch) -> tuple[str, int]:
    return batch.stream, batch.records[0].seq
