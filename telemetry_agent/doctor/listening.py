"""Listens to a receiver for some seconds: just long enough to judge it.

Most receivers speak once a second, some every eight seconds. So the time to give up is long, and
whatever settles the matter ends it: some seconds of positions, bytes that are no text.
"""

from collections import Counter
from dataclasses import dataclass, field

from telemetry_agent.clock import Clock
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.framing import MAX_SENTENCE, Framer
from telemetry_agent.gnss.sources import EndOfSourceError, Source
from telemetry_agent.gnss.sources.protocols import protocol
from telemetry_agent.model import Fix

_READ_S = 0.25
_PAUSE_S = 0.2  # between the bursts of a receiver that says all at once
_UNREADABLE_S = 1.2
_KEPT_BYTES = 4096


@dataclass(frozen=True)
class Patience:
    """How long to listen."""

    silent_s: float = 8.5
    """For the first byte."""
    position_s: float = 3.0
    """From the first byte on, when there are positions."""
    none_s: float = 5.0
    """The same without positions: a receiver may need several epochs to tell its satellites."""


@dataclass
class Heard:
    """What came in."""

    decoder: Decoder
    types: Counter[str] = field(default_factory=Counter)
    """Sentences by the three letters of their type."""
    bytes_by_type: Counter[str] = field(default_factory=Counter)
    unread: bytes = b""
    """The last of what came, if no sentence was in it."""
    fix: Fix | None = None
    """The last."""
    behind_ms: int | None = None
    """By how much the system clock was behind the last fix when that came."""
    _bursts: list[list[float]] = field(default_factory=list)  # [began, last byte, bytes]

    @property
    def anything(self) -> bool:
        """Whether a byte came."""
        return bool(self._bursts)

    @property
    def bytes_per_s(self) -> float:
        """How much the receiver says: bursts are counted from one beginning to the next."""
        if not self._bursts:
            return 0.0
        first, last = self._bursts[0], self._bursts[-1]
        if len(self._bursts) > 1:
            return sum(burst[2] for burst in self._bursts[:-1]) / (last[0] - first[0])
        return first[2] / max(1.0, first[1] - first[0])

    def take(self, data: bytes, now_s: float, wall_ms: int) -> None:
        """Some bytes came."""
        if self._bursts and now_s - self._bursts[-1][1] < _PAUSE_S:
            self._bursts[-1][1] = now_s
            self._bursts[-1][2] += len(data)
        else:
            self._bursts.append([now_s, now_s, len(data)])
        self.note(self.decoder.feed(data, now_s), wall_ms)

    def note(self, fixes: list[Fix], wall_ms: int) -> None:
        """Some fixes are complete."""
        for fix in fixes:
            self.fix, self.behind_ms = fix, fix.time_ms - wall_ms


def hear(source: Source, decoder: Decoder, patience: Patience, clock: Clock) -> Heard:
    """Listen to an open source.

    Raises:
        SourceError: it went away.
    """
    heard = Heard(decoder)
    framer = Framer()
    began_s = now_s = clock.monotonic_s()
    first_s: float | None = None
    while not _is_settled(heard, None if first_s is None else now_s - first_s, patience):
        if first_s is None and now_s - began_s >= patience.silent_s:
            break
        try:
            data = source.read(_READ_S)
        except EndOfSourceError:
            break
        now_s = clock.monotonic_s()
        if not data:
            heard.note(decoder.tick(now_s), clock.wall_ms())
            continue
        first_s = now_s if first_s is None else first_s
        heard.take(data, now_s, clock.wall_ms())
        for sentence in framer.feed(data):
            kind = sentence[:5] if sentence.startswith("P") else sentence[2:5]
            heard.types[kind] += 1
            heard.bytes_by_type[kind] += len(sentence) + len("$*00\r\n")
        heard.unread = b"" if heard.types else (heard.unread + data)[-_KEPT_BYTES:]
    heard.note(decoder.finish(), clock.wall_ms())
    return heard


def _is_settled(heard: Heard, since_first_s: float | None, patience: Patience) -> bool:
    if since_first_s is None:
        return False
    if not heard.types:
        unreadable = len(heard.unread) > MAX_SENTENCE and not protocol(heard.unread)
        return since_first_s >= (_UNREADABLE_S if unreadable else patience.position_s)
    return since_first_s >= (patience.position_s if heard.fix else patience.none_s)
