"""The pieces of a refused batch: halve what is refused until single fixes are refused.

*Cost of one bad fix in n.* A level of halving costs one request for the first half, and, if that
is refused, one to deliver the second half. If the first half is accepted, the second must hold the
bad fix and is not tried whole. That is at most 2 * ceil(log2 n) requests more than without it.
"""

from collections.abc import Callable

from telemetry_agent.model import Batch
from telemetry_agent.upload.leases import Name, name_of


class Bisection:
    """What is left to try of one refused batch. All of it is leased.

    ``split`` makes two leases of one.
    """

    def __init__(
        self,
        split: Callable[[Batch, int], tuple[Batch, Batch]],
        root: Batch,
        *,
        is_crash: bool = False,
    ) -> None:
        self.size = len(root.records)
        """Of the batch that it began with."""
        self.may_be_run = not (root.live or is_crash)  # others are accepted where one crashes
        """Whether nothing of it was accepted, so that it may be the beginning of a run."""
        self.is_crash = is_crash
        """Whether it was refused by answers that name no cause, such as 500."""
        self.first_alone: int | None = None
        """The lease of the first fix of it that was refused alone."""
        self._split = split
        self._pieces: list[Batch] = []  # the last is the next
        self._first_half: Batch | None = None  # of the last piece that was refused
        self._next_is_bad = False  # the first half was accepted, so the second must be refused
        self._trying_bad: Batch | None = None
        self._tried_farthest = False

    def next(self, limit: int) -> Batch | None:
        """The next piece to try, of at most ``limit`` fixes; ``None``: nothing is left."""
        while self._pieces:
            piece, is_bad, self._next_is_bad = self._pieces.pop(), self._next_is_bad, False
            # A piece that must be bad is halved without a request; a single fix is sent all the
            # same, because only an answer makes it a suspect.
            count = len(piece.records)
            if count > 1 and (is_bad or count > limit):
                self._halve(piece, one_is_bad=is_bad)
            else:
                self._first_half = piece if piece is self._first_half else None
                self._trying_bad = piece if is_bad else None
                return piece
        return None

    def farthest(self, limit: int) -> Batch | None:
        """The piece farthest from the next, once, if it has at most ``limit`` fixes."""
        small = bool(self._pieces) and len(self._pieces[0].records) <= limit
        if self._tried_farthest or not small:
            return None
        self._tried_farthest = True
        self._first_half = None
        return self._pieces.pop(0)

    def add(self, batch: Batch) -> None:
        """Try this, too, after all others: it was looked at as a run, and is none."""
        self.may_be_run = False
        self._pieces.insert(0, batch)

    def refused_alone(self, fix: Batch) -> None:
        """The endpoint refused this single fix."""
        self.first_alone = self.first_alone or fix.lease

    def refused(self, batch: Batch, *, too_large: bool = False) -> None:
        """Note that the endpoint refused ``batch``, which holds several fixes."""
        self._halve(batch, one_is_bad=not too_large)

    def accepted(self, batch: Batch) -> bool:
        """Note that ``batch`` was accepted; whether that contradicts what was refused before.

        The batch may be one that was sent between the pieces.
        """
        self.may_be_run = self.may_be_run and batch.live
        self._next_is_bad = self._next_is_bad or batch is self._first_half
        return batch is self._trying_bad

    def take_all(self) -> list[Batch]:
        """Take out everything, to look at it as a run."""
        self.may_be_run = False
        pieces, self._pieces = self._pieces, []
        return pieces

    def _halve(self, batch: Batch, *, one_is_bad: bool) -> None:
        first, second = self._split(batch, len(batch.records) // 2)
        self._first_half = first if one_is_bad else None
        self._next_is_bad = False  # that was another piece
        self._pieces += [second, first]


class CrashCount:
    """Distinguishes a batch that the endpoint cannot take from an endpoint that is down.

    Both can show as status 500, as an answer that says no without saying to what, or as no answer.
    A batch is known by its first fix, because what follows it changes while it waits.
    """

    _BATCHES_AT_MOST = 64

    def __init__(self) -> None:
        self.wants_another = False
        """Whether another fix must be tried before the batch itself is worth a try."""
        self._acceptances = 0
        # First fix -> how often, and the acceptances before the first time; the latest last.
        self._crashes: dict[Name, tuple[int, int]] = {}

    def crashed(self, batch: Batch, enough: int, *, answered: bool) -> bool:
        """Count such an outcome of ``batch``. After ``enough`` it is the batch, if others pass."""
        first = name_of(batch.records[0])
        count, before = self._crashes.pop(first, (0, self._acceptances))
        self._crashes[first] = count + 1, before
        if len(self._crashes) > self._BATCHES_AT_MOST:
            del self._crashes[next(iter(self._crashes))]
        often, others_accepted = count + 1 >= enough, self._acceptances > before
        if answered and often and not others_accepted:
            self.wants_another = True
        return often and others_accepted

    def accepted(self, batch: Batch) -> None:
        """Note that the endpoint took ``batch``."""
        self._crashes.pop(name_of(batch.records[0]), None)
        self._acceptances += 1
        self.wants_another = False
