"""How a receiver's cycle ends, so that a fix need not wait for the next one.

A shape is (tag of the first sentence, tag of the last, how many of these). If several epochs in a
row that ended by themselves (the time changed, the line was quiet) had the same shape, the next
epoch is complete with its last sentence. If a sentence comes late after that, the shape is
forgotten, and must repeat twice as often to be learned again.
"""

_EPOCHS_TO_LEARN = 5
_EPOCHS_AT_MOST = 80


class Cycle:
    """Learns the shape of the epochs."""

    first = ""
    """The tag that begins the cycle; empty until it is learned, as ``last`` is."""
    last = ""
    """The tag that ends it, with its ``count``-th sentence."""
    count = 0

    def __init__(self) -> None:
        self._shape = ("", "", 0)
        self._repeats = 0
        self._needed = _EPOCHS_TO_LEARN

    def ended(self, first: str, last: str, count: int) -> None:
        """An epoch ended by itself and had this shape."""
        shape = (first, last, count)
        self._repeats = self._repeats + 1 if shape == self._shape else 1
        self._shape = shape
        if self._repeats >= self._needed:
            self.first, self.last, self.count = shape

    def broken(self) -> None:
        """A sentence came after the learned end of the cycle."""
        if self.last:
            self._needed = min(2 * self._needed, _EPOCHS_AT_MOST)
        self.first, self.last, self.count = self._shape = ("", "", 0)
