"""How many fixes go into the next batch.

Three things limit it. *The config*: never more than ``max_batch``. *Time*: while one exchange
runs, a fresh fix waits, so an exchange should not take longer than a fresh fix may wait
(``flush_every``); and a batch that is too long for the deadline would never arrive. *The
endpoint*: what it called too large, in bytes, because one giant fix must not shrink the batches of
all others to its count.

Nothing is known of the link at first, so the first batch is small and each quick answer doubles
it. The first batch is usually not compressed. It must pass a link of 2,400 bit/s (a satellite
modem) within the deadline: what times out there fills the modem's buffer, and then nothing passes
for minutes.

An answer that took too long shrinks the next batch in proportion. But a slow answer may be a slow
server, which smaller batches only make worse: slowness alone never shrinks a batch below 64 fixes.
Time-outs do, down to one fix. But after its first time-out a batch is sent again whole: it may have
arrived, and some endpoints recognise a batch only by its content. The next one shrinks to a quarter
if no batch was delivered since the last time-out, because each step down costs a time-out and each
step up only an exchange. A small batch grows while an exchange of twice the time would still end
within the deadline.

A path that loses large packets, or a server or proxy that times out on large batches, would do so
again and again as the batch grows. So a size that timed out twice, while a smaller one was answered
between, is a limit. It belongs to the path: a change of the network removes it. A return of the
network does not: on a slow path that large batches fill, the network seems to come and go. A dead
radio sets no limit, because nothing is answered between.

From the fifth attempt in a row (after four waits), a closed connection, an unclear answer, 409, 500
and 502 count like a time-out: some servers answer so to a large body. But one fix may be the
reason. When the search finds it, what its batches have set is forgotten.

Endpoints are reconfigured. So once an hour twice of what was too large is tried again, which costs
one refused request if the limit is still there.
"""

_FIRST = 16  # 3 kB in the format native
_LEAST_WHEN_SLOW = 64
_TRY_AGAIN_AFTER_S = 3600.0


class Sizing:
    """The limit for the next batch, learned from the last."""

    def __init__(self, max_batch: int, hold_up_s: float, timeout_s: float) -> None:
        """``hold_up_s``: the longest that an exchange should take; ``timeout_s``: that it may."""
        self._max_batch = max_batch
        self._hold_up_s = max(hold_up_s, 1.0)
        self._timeout_s = timeout_s
        self._count = min(max_batch, _FIRST)
        self._max_bytes: int | None = None
        self._max_count: int | None = None  # by the size of answers
        self._try_larger_s = 0.0
        self._failed: int | None = None  # the smallest count that failed
        self._smaller_answered = False  # since then
        self._path_max: int | None = None
        self._measured = 0, 0  # the fixes and the bytes of the last body

    def limit(self) -> int:
        """The most fixes that the next batch should hold, 1 or more."""
        count = min(self._count, self._max_count or self._count, self._path_max or self._count)
        fixes, body_bytes = self._measured
        if self._max_bytes is None:
            return count
        return min(count, max(1, self._max_bytes * fixes // body_bytes))

    def took(self, count: int, body_bytes: int, elapsed_s: float, now_s: float) -> None:
        """Note that a batch of ``count`` fixes was delivered after ``elapsed_s``."""
        self._measured = count, body_bytes
        full = count >= self.limit()  # a smaller one does not show that a larger one would fit
        if self._failed is not None:
            self._smaller_answered = count < self._failed
            if not self._smaller_answered:
                self._failed = self._path_max = None
        # A batch of twice the size takes twice the time. Only the deadline forbids that to a small
        # one; to others also what fresh fixes may wait.
        is_small = self._count < _LEAST_WHEN_SLOW
        if full and elapsed_s < (self._timeout_s if is_small else self._hold_up_s) / 2:
            self._count = min(self._max_batch, 2 * self._count)
        elif not is_small and elapsed_s > self._hold_up_s:
            fitting = int(count * self._hold_up_s / elapsed_s)
            self._count = max(_LEAST_WHEN_SLOW, min(self._count, fitting))
        if now_s >= self._try_larger_s:
            self._max_bytes = self._max_bytes and 2 * self._max_bytes
            self._max_count = self._max_count and 2 * self._max_count
            self._path_max = self._path_max and 2 * self._path_max
            self._try_larger_s = now_s + _TRY_AGAIN_AFTER_S

    def failed(self, count: int, now_s: float) -> None:
        """Note that a batch of ``count`` fixes was not accepted, perhaps because of its size."""
        again = self._failed is not None and not self._smaller_answered
        self._count = min(self._count, max(1, count // 4) if again else count)
        # The second time, with an answer to a smaller batch between: it is the size.
        if self._failed is not None and count >= self._failed and self._smaller_answered:
            self._path_max = count // 2
            if not (self._max_bytes or self._max_count):  # paths may change more than once an hour
                self._try_larger_s = now_s + _TRY_AGAIN_AFTER_S
        self._failed = min(count, self._failed or count)
        self._smaller_answered = False

    def forget_failures(self) -> None:
        """Forget that: there is another path, or the size was not the reason."""
        self._failed = self._path_max = None
        self._count = max(self._count, min(self._max_batch, _FIRST))

    def answered_at_length(self, fitting: int, now_s: float) -> None:
        """Note that an answer was too large; the one to ``fitting`` fixes would not be."""
        self._max_count = fitting
        self._try_larger_s = now_s + _TRY_AGAIN_AFTER_S

    def too_large(self, count: int, body_bytes: int, now_s: float) -> None:
        """Note that the endpoint called a batch too large."""
        self._measured = count, body_bytes
        half = (body_bytes + 1) // 2  # rounded up: half of the fixes must fit
        self._max_bytes = half if self._max_bytes is None else min(self._max_bytes, half)
        self._try_larger_s = now_s + _TRY_AGAIN_AFTER_S
