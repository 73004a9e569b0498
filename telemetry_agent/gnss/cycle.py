"""How a receiver's cycle ends, so that a fix need not wait for the next one.

A shape is (tag of the first sentence, tag of the last, how many of these). When epochs that ended
by themselves (the time changed, the line went quiet) had one shape several times in a row, the
next epoch is complete with its last sentence. If something comes late all the same, the shape is
forgotten, and needs twice as many epochs to be believed again.
"""

_EPOCHS_TO_LEARN = 5
_EPOCHS_AT_MOST = 80


class Cycle:
    """Learns from the epochs that went by."""

    first = ""
    """The tag that begins the cycle; empty while nothing is learned, as the next two."""
    last = ""
    """The tag that ends it,"""
    count = 0
    """when it comes for this time."""

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
        """A sentence came after the one that was believed to be the last."""
        if self.last:
            self._needed = min(2 * self._needed, _EPOCHS_AT_MOST)
        self.first, self.last, self.count = self._shape = ("", "", 0)
