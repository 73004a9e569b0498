"""What a receiver's cycle of sentences begins with, and what ends it.

A quiet gap shows both. A recording and a slow line have no gaps. There the values show whether VTG
or GSA begins the cycle: VTG repeats the speed of the RMC of its instant, and GSA the HDOP of the
GGA. Where no sentence has such a value, the cycle begins with what the recording begins with. GST
has a time. What follows a sentence of the next instant is of the next instant, too.
"""

from collections import deque
from collections.abc import Callable
from operator import attrgetter

from telemetry_agent.gnss.epoch import Epoch, Gsa, Gst, Message, Report, Vtg

_EPOCHS_TO_LEARN = 5
_EPOCHS_AT_MOST = 80
# What repeats a field of a position sentence, and how far apart the two may be: a tenth of a knot,
# rounded, or one digit of an HDOP.
_REPEATED: dict[type, tuple[Callable[[Message], int | None], int]] = {
    Vtg: (attrgetter("speed_mm_s"), 60),
    Gsa: (attrgetter("hdop_e2"), 1),
}
_SURE = 2  # that many values in a row that fit are as good as any number of them
_EARLY_AT_MOST = 50


class Cycle:
    """How a receiver's cycle ends, so that a fix need not wait for the next one.

    A shape is (tag of the first sentence, tag of the last, how many of these). If several epochs in
    a row had the same shape, the next epoch is complete with its last sentence. If a sentence comes
    late after that, the shape is forgotten, and must repeat twice as often to be learned again.
    """

    first = ""
    """The tag that begins the cycle; empty until it is learned, as ``last`` is."""
    last = ""
    """The tag that ends it, with its ``count``-th sentence."""
    count = 0

    def __init__(self) -> None:
        self._shape = ("", "", 0)
        self._repeats = 0  # how many epochs in a row had the last shape
        self._needed = _EPOCHS_TO_LEARN

    def ended(self, first: str, last: str, count: int) -> None:
        """Note the shape of an epoch."""
        shape = (first, last, count)
        self._repeats = self._repeats + 1 if shape == self._shape else 1
        self._shape = shape
        if self._repeats >= self._needed:
            self.first, self.last, self.count = shape

    def broken(self) -> None:
        """Forget the cycle: a sentence came after its learned end."""
        if self.last:
            self._needed = min(2 * self._needed, _EPOCHS_AT_MOST)
        self.first, self.last, self.count = self._shape = ("", "", 0)


class Order:
    """Which sentences without a time belong to the next instant.

    Args:
        whole: whether it is a recording that begins with a whole sentence, of this receiver. A live
            line may begin anywhere.
    """

    def __init__(self, *, whole: bool) -> None:
        self.early: deque[Message] = deque(maxlen=_EARLY_AT_MOST)
        """Sentences of the next instant, in order."""
        # What came before the first time. None: that may have been the end of a cycle.
        self._begins: set[type] | None = set() if whole else None
        self._before: dict[type, int | None] = dict.fromkeys(_REPEATED)
        self._leads = dict.fromkeys(_REPEATED, 0)  # above 0: it comes before what it repeats

    def is_next(self, message: Message, epoch: Epoch) -> bool:
        """Whether a sentence without a time is of the instant after the epoch's.

        Only where no quiet gap shows it.
        """
        kind = type(message)
        if isinstance(message, Gst):
            return epoch.is_before(message)
        if kind not in _REPEATED:
            return False
        value, other = _REPEATED[kind][0](message), self._before[kind]
        self._before[kind] = value
        if self.early:
            return True  # as the one before it
        # A value that is the same in both instants shows nothing, unless the tag comes again.
        if message.tag in epoch.seen or value != other:
            leads = self._leads_by_value(message, epoch, value, other)
            if leads is not None:
                return leads
        if self._leads[kind] > 0 and not epoch.is_waiting:
            return True
        return self._begins is not None and self._leads_as_begun(kind, epoch, self._begins)

    def join(self, epoch: Epoch) -> None:
        """Add the early sentences to their epoch."""
        for message in self.early:
            epoch.join(message)
        self.early.clear()

    def join_this(self, epoch: Epoch) -> None:
        """Add them to the epoch before: they were not early."""
        self._leads.update((type(message), 0) for message in self.early)
        self.join(epoch)

    def began_within(self) -> None:
        """The recording began within a cycle."""
        self._begins = None

    def _leads_as_begun(self, kind: type, epoch: Epoch, begins: set[type]) -> bool:
        if epoch.is_waiting:
            begins.add(kind)
            return False
        value_of = _REPEATED[kind][0]
        has_value = self._before[kind] is not None
        if has_value and any(value_of(report) is not None for report in epoch.reports):
            begins.discard(kind)  # from now on the values show it
        return kind in begins

    def _leads_by_value(
        self, message: Message, epoch: Epoch, value: int | None, other: int | None
    ) -> bool | None:
        """Whether a VTG or GSA belongs to the next instant; ``None``: its value does not show it.

        Between it and the one before came a position sentence. If the one before (``other``) has
        the value of that, each comes before its position; if this one has it, behind.
        """
        kind, repeated, follows_report, again = type(message), None, False, False
        value_of, rounding = _REPEATED[kind]
        for before in reversed(epoch.messages):
            if type(before) is Report and before.instant is not None:
                follows_report, repeated = True, value_of(before)
                if repeated is not None:
                    break
            elif type(before) is kind:
                if not follows_report:  # of one group, or what came between them was lost
                    return before.tag == message.tag and before != message
                again = again or before.tag == message.tag
        if again and repeated is not None:
            return True  # the second one after one RMC or GGA: the one between them was lost
        if value is None or other is None or repeated is None:
            return None
        fits, other_fits = abs(value - repeated) <= rounding, abs(other - repeated) <= rounding
        if other_fits and not fits:
            self._leads[kind] = min(self._leads[kind] + 1, _SURE)
        elif fits and not other_fits:
            self._leads[kind] = max(self._leads[kind] - 1, -_SURE)
            self.began_within()
            return False
        return None
