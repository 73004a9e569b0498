"""Bytes -> fixes: framing, sentences, epochs and dates put together.

No socket, no thread, no clock: bytes and the time of their arrival come in, fixes come out. The
result depends on the bytes alone, not on how they were cut, except for the quiet gap (``tick``).
"""

import re
from collections import Counter

from telemetry_agent.gnss.assembler import Assembler
from telemetry_agent.gnss.dates import Dates, WallClock
from telemetry_agent.gnss.diagnosis import Diagnosis, Reason, diagnosis
from telemetry_agent.gnss.framing import Framer, Sentence
from telemetry_agent.gnss.sentences import GNSS, IN_VIEW, Parser
from telemetry_agent.gnss.shared_line import SharedLine
from telemetry_agent.gnss.sky import InView
from telemetry_agent.model import Fix, ReceiverState, Satellite

_STALE_S = 10.0  # some receivers take 8 s for an epoch
_UNCHECKED = 3

_ANTENNA = re.compile(r"ANT(?:ENNA[ =]|STATUS[ =]|_)(\w+)")
_OVERFLOW = re.compile(r"buf.*(?:alloc|overflow|full)", re.IGNORECASE)


class Decoder:
    """Decodes one receiver's stream from its opening on.

    Args:
        wall_clock: milliseconds since 1970 by the system clock if that is known to be
            synchronised, else None.
        fix_rollover: see ``Dates``. For live sources; a recording may be old.
        prove_rollover: see ``Dates``.
        day: see ``Dates``.
        eager: whether a fix is complete with the learned last sentence of the receiver's cycle. A
            recording is decoded more safely without it.
        baud: of a serial line: on a slow one a quiet gap is longer.
    """

    antenna: str | None = None
    """The receiver's last message about its antenna, in capitals: OK, OPEN, SHORT, …"""

    def __init__(
        self,
        *,
        wall_clock: WallClock = lambda: None,
        fix_rollover: bool,
        prove_rollover: bool = True,
        day: int | None = None,
        eager: bool = True,
        baud: int | None = None,
    ) -> None:
        self.sentences = 0
        """Whole sentences of all types with a correct checksum."""
        self.counts: Counter[str] = Counter()
        """Rejected input by reason; the parts document each reason."""
        self._framer = Framer(self.counts)
        self._parser = Parser(self.counts)
        # Called at the first sentence of each device; only the first device can begin the line.
        self.line = SharedLine(
            lambda may_follow: Assembler(
                Dates(
                    wall_clock=wall_clock,
                    fix_rollover=fix_rollover,
                    prove_rollover=prove_rollover,
                    day=day,
                    other_known_ms=self.line.known_ms,
                ),
                may_follow,
                eager=eager,
                baud=baud,
                whole=self._whole and not (eager or self.line.assemblers),
            ),
            self.counts,
        )
        self._in_view = InView()
        self._first_byte_s: float | None = None
        self._whole = False  # the line begins with a whole sentence
        self._last_byte_s = 0.0
        self._first_sentence_s = 0.0
        self._over = False

    def feed(self, data: bytes, now_s: float) -> list[Fix]:
        """The fixes that these bytes complete; ``now_s`` is their monotonic time of arrival."""
        if not data:
            return []
        if self._first_byte_s is None:
            self._first_byte_s, self._whole = now_s, data.startswith(b"$")
        self._last_byte_s = now_s
        return self._decode(self._framer.feed(data), now_s)

    @property
    def has_begun(self) -> bool:
        """Whether there is a part of a sentence, or an open epoch."""
        return bool(self._framer.tail) or self.due_s() is not None

    def due_s(self) -> float | None:
        """When the line counts as quiet, and ``tick`` is due; None while no epoch is open."""
        current = self.line.current
        is_open = any(assembler.open for assembler in self.line.assemblers.values())
        return self._last_byte_s + current.quiet_s if current and is_open else None

    def tick(self, now_s: float) -> list[Fix]:
        """The fix that a quiet line completes, if it is due."""
        fixes: list[Fix] = []
        due_s = self.due_s()
        if due_s is not None and now_s >= due_s:
            self.line.quiet(now_s, fixes)
        return fixes

    def finish(self) -> list[Fix]:
        """The fixes that the end of the input completes."""
        self._over = True
        fixes = self._decode(self._framer.finish(), self._last_byte_s)
        self.line.finish(self._last_byte_s, fixes)
        return fixes

    @property
    def datum(self) -> str | None:
        """The datum of the receiver's positions; None: WGS 84."""
        current = self.line.current
        return current.datum if current else None

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know about the line although it has positions."""
        current, followed = self.line.current, self.line.followed
        if current is None:
            return ()
        notices = []
        if followed and self.line.ignored:
            notices.append(
                f"several devices send positions ({' '.join(sorted(self.line.ignored))} beside "
                f"{followed}): those of {followed} are recorded until it has sent none for 5 s"
            )
        if current.shared_talker.suspected:
            notices.append(
                "two receivers seem to share the line: positions may jump between them; "
                "disconnect one of them, or change its talker"
            )
        if current.dates.corrected:
            notices.append(
                "its dates are 1024 or 2048 weeks in the past and are corrected: "
                "update its firmware, or replace it"
            )
        if current.datum is not None:
            notices.append(
                f"positions are in the datum {current.datum}, and may be off by hundreds of "
                "metres: set the receiver to WGS 84"
            )
        return tuple(notices)

    @property
    def diagnosis(self) -> Diagnosis | None:
        """Why a receiver that sends data gives no positions; None while it does, or still may."""
        reason = self._reason()
        return diagnosis(reason, self._parser.proprietary) if reason else None

    def _reason(self) -> Reason | None:
        # Until a whole cycle had time to come, or the recording ended, nothing is judged.
        since_s = self._first_sentence_s if self.sentences else self._first_byte_s
        if since_s is None or not (self._over or self._last_byte_s - since_s >= _STALE_S):
            return None
        current = self.line.current
        if current is None or current.judged_s is None:
            # Another device on the line may send right checksums.
            for reason, count in self._framer.unchecked.items():
                if count >= _UNCHECKED:
                    return reason
            if not self.sentences:
                return None
            talks = any(kind.owner for kind in self._parser.kinds.values())
            return "proprietary" if self._parser.proprietary and not talks else "no-position"
        unread = self.counts["bad-position"] + self.counts["bad-quality"]
        if self.line.followed is None and unread >= max(self.counts["no-fix"], _UNCHECKED):
            return "bad-position"
        undated = current.dates.reason if current.state == "no-date" else None
        return "no-time" if current.timeless else undated

    @property
    def state(self) -> ReceiverState | None:
        """no-date, no-fix, 2d or 3d; None before anything is known."""
        if not self.sentences:
            return "no-fix" if self.diagnosis else None
        current = self.line.current
        judged_s = current.judged_s if current else None
        since_s = self._first_sentence_s if judged_s is None else judged_s
        if self._last_byte_s - since_s >= _STALE_S:
            return "no-fix"
        return current.state if current else None

    def satellites(self) -> tuple[Satellite, ...]:
        """Those in view. Any thread may call."""
        current = self.line.current
        return self._in_view.satellites(current.used if current else (), self._last_byte_s)

    def _decode(self, sentences: list[Sentence], now_s: float) -> list[Fix]:
        fixes: list[Fix] = []
        if not sentences:
            return fixes
        if not self.sentences:
            self._first_sentence_s = now_s
        self.sentences += len(sentences)
        kinds = self._parser.kinds
        adders, keep = self.line.adders, self._in_view.keep
        for sentence in sentences:
            try:
                kind = kinds[sentence[:6]]  # almost always: a receiver has about ten tags
            except KeyError:
                kind = self._parser.kind(sentence)
            if kind is IN_VIEW:
                keep((now_s, sentence))
                continue
            read = kind.read
            if read is not None:
                message = read(sentence)
                if message is not None:
                    add = adders.get(kind.owner) or self.line.adder(kind.owner)
                    add(message, now_s, fixes)
            elif kind.name == "TXT" and kind.owner in {GNSS, self.line.followed}:
                self._read_text(sentence)
        return fixes

    def _read_text(self, text: str) -> None:
        if antenna := _ANTENNA.search(text.upper()):
            self.antenna = antenna[1]
        elif _OVERFLOW.search(text):
            self.counts["receiver-overflow"] += 1
