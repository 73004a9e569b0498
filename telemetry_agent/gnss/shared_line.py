"""One line with one receiver, or with several devices.

Theory of operation. Each owner (see ``sentences``) has its own assembler, dates and cycle, so a
sentence of one device (a plotter without a fix, an AIS transponder, a clock) cannot silence, date
or flag another. The first owner with a position is followed, and only its positions become fixes.
Another owner with positions, such as a plotter that repeats them a second late, is ignored until
the followed one has had none for 5 s by the other one's time; only a satellite receiver takes over
sooner: with five less than 5 s apart, with its first one after an outage, or at once if the other
owner has no date. The system clock is not used, so a recording is read like a live line.

An owner that never sent a date gets its day from another, with a flag.

On a line without pauses only the next sentence of the same owner ends its epoch. If none comes, the
time of another owner ends it, once that has advanced by 2 s.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial

from telemetry_agent.gnss.assembler import Assembler, MayFollow
from telemetry_agent.gnss.epoch import Message, Report
from telemetry_agent.gnss.field_values import DAY_MS, Instant, time_of_day_ms
from telemetry_agent.gnss.sentences import GNSS
from telemetry_agent.model import Fix

_SILENCE_MS = 5000
_OVERTAKEN_MS = 2000
_POSITIONS_TO_TAKE_OVER = 5
_OWNERS_AT_MOST = 8  # more are damaged talkers

Adder = Callable[[Message, float, list[Fix]], None]
"""Takes a sentence, the time of its arrival, and the list of fixes."""


class SharedLine:
    """Sentences in, the fixes of the followed owner out.

    ``counts`` has what the assembler and the dates of the followed owner count, and
    ``other-talker`` (sentences of the others).

    Args:
        new_assembler: makes the one of an owner; takes its ``may_follow``.
    """

    def __init__(
        self,
        new_assembler: Callable[[MayFollow], Assembler],
        counts: Counter[str],
    ) -> None:
        self.counts = counts
        self.followed: str | None = None
        """The owner whose positions become fixes; None while no owner has any."""
        self.ignored: set[str] = set()
        """The other owners with positions."""
        self._new_assembler = new_assembler
        self.assemblers: dict[str, Assembler] = {}
        self.adders: dict[str, Adder] = {}
        """Owner -> what appends the fixes that a sentence of it completes."""
        self._position_ms: dict[str, int] = {}  # ignored owner -> the time of its last position
        self._ignored_since_ms: dict[str, int] = {}  # owner -> when it was first ignored
        self._gnss_positions = 0  # in a row, or five, since it was followed last
        self._gnss_ms = 0  # of the last of them
        # Owner -> the first times of the others since its last sentence.
        self._overtaken_ms: dict[str, dict[str, int]] = {}

    @property
    def current(self) -> Assembler | None:
        """The assembler of the followed owner, else the one judged last. Any thread may ask."""
        if self.followed is not None:
            return self.assemblers[self.followed]
        # A copy, made in one step: the reader's thread may hear another owner meanwhile.
        assemblers = list(self.assemblers.values())
        return max(assemblers, key=lambda each: each.judged_s or 0.0, default=None)

    def adder(self, owner: str) -> Adder:
        """The function for the sentences of an owner that has none in ``adders`` yet."""
        if len(self.assemblers) >= _OWNERS_AT_MOST:
            needed = {GNSS, self.followed}  # damaged tags never push out the receiver
            gone = next(name for name in self.assemblers if name not in needed)
            del self.assemblers[gone], self.adders[gone], self._overtaken_ms[gone]
        assembler = self.assemblers[owner] = self._new_assembler(partial(self._may_follow, owner))
        self._overtaken_ms[owner] = {}
        if self.followed is None:
            assembler.count_in(self.counts)
        if len(self.assemblers) == 1:  # the usual line: one device
            self.adders[owner] = assembler.add
        else:
            for name in self.assemblers:
                self.adders[name] = partial(self._add_among_others, name)
        return self.adders[owner]

    def quiet(self, now_s: float, fixes: list[Fix]) -> None:
        """Append the fix that is completed by a line that was quiet for ``quiet_s``."""
        for assembler in self.assemblers.values():
            assembler.quiet(now_s, fixes)

    def finish(self, now_s: float, fixes: list[Fix]) -> None:
        """Append the fix that the end of the input completes."""
        for assembler in self.assemblers.values():
            assembler.close("end", now_s, fixes)

    def known_ms(self) -> int | None:
        """The last instant whose day is known to any owner, in milliseconds since 1970."""
        known = (each.dates.known_ms for each in self.assemblers.values())
        return next((known_ms for known_ms in known if known_ms is not None), None)

    def _add_among_others(
        self, owner: str, message: Message, now_s: float, fixes: list[Fix]
    ) -> None:
        self._overtake(owner, message, now_s, fixes)
        self.assemblers[owner].add(message, now_s, fixes)
        # Only now: this sentence may have completed an epoch, which is older than it.
        if isinstance(message, Report) and message.position_e9 and message.instant is not None:
            self._note_position(owner, time_of_day_ms(message.instant))

    def _overtake(self, owner: str, message: Message, now_s: float, fixes: list[Fix]) -> None:
        """Count a sentence of an ignored owner, and close the epochs that its time has passed."""
        if self.followed not in {None, owner}:
            self.counts["other-talker"] += 1
        self._overtaken_ms[owner].clear()
        if message.instant is None:
            return
        time_ms = time_of_day_ms(message.instant)
        for other, assembler in self.assemblers.items():
            if other != owner and assembler.open:
                since_ms = self._overtaken_ms[other].setdefault(owner, time_ms)
                if _has_passed(since_ms, time_ms, _OVERTAKEN_MS):
                    assembler.close("time", now_s, fixes)

    def _note_position(self, owner: str, time_ms: int) -> None:
        if owner == self.followed:
            self._ignored_since_ms.clear()
            self._gnss_positions += owner == GNSS
        # A time that is repeated until it steps by 10 s does not show when the silence began.
        elif self._position_ms.get(owner) != time_ms:
            self._position_ms[owner] = time_ms
            self._ignored_since_ms.setdefault(owner, time_ms)

    def _may_follow(self, owner: str, instant: Instant) -> bool:
        """Whether this position of an owner becomes a fix."""
        if owner == self.followed:
            return True
        time_ms = time_of_day_ms(instant)
        if self.followed is not None and not self._is_silent(owner, time_ms):
            self.ignored.add(owner)
            if not (owner == GNSS and self._takes_over_from(self.followed, time_ms)):
                return False
        self._follow(owner)
        return True

    def _is_silent(self, owner: str, time_ms: int) -> bool:
        """Whether the followed owner is, by the time of another one."""
        return _has_passed(self._ignored_since_ms.get(owner, time_ms), time_ms, _SILENCE_MS)

    def _takes_over_from(self, followed: str, time_ms: int) -> bool:
        """Whether the position of a satellite receiver is enough to follow it instead."""
        # A plotter is often the first on the line, but its positions come from the receiver. A few
        # are awaited, because damaged tags look like a receiver too, and receivers come and go.
        proven = self._gnss_positions >= _POSITIONS_TO_TAKE_OVER
        if not proven and _has_passed(self._gnss_ms, time_ms, _SILENCE_MS):
            self._gnss_positions = 0
        self._gnss_positions += 1
        self._gnss_ms = time_ms
        if self._gnss_positions >= _POSITIONS_TO_TAKE_OVER:
            return True
        # Without a date the followed device makes no fixes that could be lost.
        return self.assemblers[followed].state == "no-date"

    def _follow(self, owner: str) -> None:
        self.followed = owner
        self.ignored.discard(owner)
        self._ignored_since_ms.clear()
        if owner == GNSS:
            self._gnss_positions = 0
        for name, assembler in self.assemblers.items():
            assembler.count_in(self.counts if name == owner else Counter())


def _has_passed(since_ms: int, time_ms: int, by_ms: int) -> bool:
    """Whether a clock has advanced, or stepped back, by at least this."""
    return by_ms <= (time_ms - since_ms) % DAY_MS <= DAY_MS - by_ms
