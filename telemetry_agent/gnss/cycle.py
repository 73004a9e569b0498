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

    def __init__(self) -> None:
        self._shape: tuple[str, str, int] | None = None
        self._repeats = 0
        self._needed = _EPOCHS_TO_LEARN
        self._learned: tuple[str, str, int] | None = None

    def ended(self, first: str, last: str, count: int) -> None:
        """An epoch ended by itself and had this shape."""
        shape = (first, last, count)
        self._repeats = self._repeats + 1 if shape == self._shape else 1
        self._shape = shape
        if self._repeats >= self._needed:
            self._learned = shape

    def ends(self, tag: str, count: int) -> bool:
        """Whether the ``count``-th sentence with this tag completes the epoch."""
        return self._learned is not None and self._learned[1:] == (tag, count)

    def begins(self, tag: str) -> bool:
        """Whether a sentence without a time that follows a complete epoch opens the next."""
        return self._learned is None or self._learned[0] == tag

    def broken(self) -> None:
        """A sentence came after the one that was believed to be the last."""
        self._shape = self._learned = None
        self._needed = min(2 * self._needed, _EPOCHS_AT_MOST)
