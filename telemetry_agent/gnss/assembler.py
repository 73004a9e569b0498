"""Where one instant ends and the next begins.

Theory of operation. At most one epoch is open. It opens with a sentence whose time of day is
another than the open one's, takes every sentence until it closes, is judged once, when it closes,
and leaves nothing behind. Only then it gets its day, so the date may stand anywhere in it. Order
is the order of arrival: time may step either way and opens an epoch all the same; nothing wedges.

An epoch closes when the time changes, when the sentence that ends this receiver's cycle is there,
when the line is quiet, or at the end of the input, whichever comes first. What still arrives for
that instant is late: it is counted and opens nothing, since one instant is one fix, and it
teaches: the cycle is unlearned, or the quiet gap grows.

Sentences without a time (VTG, GSA; an RMC before the first fix) join the open epoch. If none is
open they open one that waits for its time, as some receivers begin their cycle so. If the line
goes quiet before a time comes, they were the late end of the epoch before. Where no gap parts the
epochs, a VTG that begins the next one is known by its speed, which is that of the RMC behind it.
"""

from collections import Counter
from typing import Literal

from telemetry_agent.gnss.cycle import Cycle
from telemetry_agent.gnss.dates import Dates
from telemetry_agent.gnss.epoch import Epoch
from telemetry_agent.gnss.field_values import Instant
from telemetry_agent.gnss.sentences import Dtm, Gst, Message, Moment, Report, Vtg
from telemetry_agent.gnss.talkers import Talkers
from telemetry_agent.model import Fix, ReceiverState

_QUIET_S = 0.25
_QUIET_BAUD = 9600  # slower lines take longer over one sentence
_QUIET_GROWTH = 1.5
_QUIET_AT_MOST = 4  # times what it was
_SAME_SPEED_MM_S = 60  # a tenth of a knot, rounded
_Closer = Literal["time", "cycle", "quiet", "end"]
_WGS_84 = frozenset({"", "W84", "P90"})


class Assembler:
    """Sentences in, fixes out.

    ``counts``: ``late`` (sentences for an instant that was already judged), ``other-talker``
    (ignored, because another receiver is followed), ``no-fix`` (epochs without a valid position),
    ``no-time`` (valid positions whose sentences say no time of day).
    """

    def __init__(self, dates: Dates, *, eager: bool, baud: int | None) -> None:
        self.counts: Counter[str] = Counter()
        self.state: ReceiverState | None = None
        """What the last epoch said about the receiver: no-fix, no-date, 2d or 3d."""
        self.judged_s: float | None = None
        """When it said so."""
        self.used: dict[str, set[str]] = {}
        """The satellites of the last epoch that told them, by system id or talker."""
        self.datum: str | None = None
        """What positions refer to, if it is not WGS 84."""
        self.quiet_s = _QUIET_S * max(1.0, _QUIET_BAUD / baud if baud else 1.0)
        """So long without a byte means that the receiver has said all."""
        self._quiet_most_s = _QUIET_AT_MOST * self.quiet_s
        self._dates = dates
        self._eager = eager
        self._cycle = Cycle()
        self._talkers = Talkers()
        self._epoch: Epoch | None = None
        self._judged: Epoch | None = None
        self._closed_by: _Closer = "time"
        self._moments_astray = False  # the times of ZDA and GBS are not those of the fixes
        self._gst: Gst | None = None  # came before the epoch that it is about
        self._vtg: Vtg | None = None
        self._vtg_leads = False  # it comes before the RMC of its instant

    @property
    def open(self) -> bool:
        """Whether anything waits for its end."""
        return self._epoch is not None

    def add(self, message: Message, now_s: float, fixes: list[Fix]) -> None:
        """Append the fixes that this sentence completes, by its time or by being the last."""
        tag, instant = message.tag, message.instant
        if self._talkers.followed is not None and not self._talkers.admit(message):
            self.counts["other-talker"] += 1
            return
        epoch = self._epoch
        if instant is None:
            if isinstance(message, Dtm):
                self.datum = None if message.datum in _WGS_84 else message.datum
                return
            epoch = self._epoch_of_untimed(message, now_s, fixes)
            if epoch is not None and isinstance(message, Vtg) and self._is_of_next(message, epoch):
                message = Vtg(tag, None, None)
        else:
            astray = self._moments_astray and isinstance(message, Moment)
            if not astray and (epoch is None or epoch.instant != instant):
                epoch = self._epoch_of(instant, message, now_s, fixes)
            # After the epoch before was closed: if time jumped, this date is none of its own.
            if isinstance(message, (Report, Moment)) and message.day is not None:
                self._dates.learn(message.day, instant)
        if epoch is None:
            return
        if isinstance(message, Gst) and not epoch.take_errors(message):
            self._gst = message
        epoch.join(message)
        cycle = self._cycle
        if tag == cycle.last and epoch.seen[tag] == cycle.count and epoch.instant is not None:
            self._close("cycle", now_s, fixes)

    def quiet(self, now_s: float, fixes: list[Fix]) -> None:
        """Append the fix that is completed by a line that was quiet for ``quiet_s``."""
        epoch = self._epoch
        if epoch is not None and epoch.instant is None and not epoch.reported:
            self._epoch = None
            self._late(*epoch.seen)
        else:
            self._close("quiet", now_s, fixes)

    def finish(self, now_s: float, fixes: list[Fix]) -> None:
        """Append the fix that the end of the input completes."""
        self._close("end", now_s, fixes)

    def _epoch_of(
        self, instant: Instant, message: Message, now_s: float, fixes: list[Fix]
    ) -> Epoch | None:
        epoch, tag = self._epoch, message.tag
        if epoch is not None and epoch.is_at(instant, tag):
            epoch.labels.add(instant)
            return epoch
        if isinstance(message, Report) and not self._talkers.opens(tag):
            self.counts["other-talker"] += 1
            return None
        waiting = epoch is not None and epoch.instant is None and not epoch.reported
        judged = self._judged
        # If time went on in between and the very sentence comes again, time has stepped back.
        late = epoch is None or waiting or (judged is not None and tag not in judged.seen)
        if late and judged is not None and judged.is_at(instant, tag):
            if epoch is not None and epoch.instant is not None and not epoch.reported:
                self._moments_astray = True  # one of another time stands amid the fix's sentences
            self._epoch = None if waiting else epoch  # what waited was late as well
            self._late(tag)
            return None
        if not waiting:
            self._close("time", now_s, fixes)
        if self._epoch is None:
            self._epoch = Epoch()
        self._epoch.instant = instant
        if self._gst is not None and self._epoch.take_errors(self._gst):
            self._gst = None
        return self._epoch

    def _epoch_of_untimed(self, message: Message, now_s: float, fixes: list[Fix]) -> Epoch | None:
        epoch, tag = self._epoch, message.tag
        if epoch is None:
            if self._closed_by == "cycle" and tag != self._cycle.first:
                self._late(tag)
                return None
        elif isinstance(message, Report) and tag in epoch.seen:
            # The same sentence again, now without a time: the receiver lost it, this is another
            # instant.
            self._close("time", now_s, fixes)
        if self._epoch is None:
            self._epoch = Epoch()
        return self._epoch

    def _is_of_next(self, vtg: Vtg, epoch: Epoch) -> bool:
        """Whether it speaks of the instant that follows, where no quiet gap says so.

        VTG repeats the speed of the RMC of its instant: the one behind it or the one before it.
        """
        before, self._vtg = self._vtg, vtg
        told = epoch.rmc_speed_mm_s
        if told is None:
            return False
        if before is not None and before.speed_mm_s is not None and vtg.speed_mm_s is not None:
            led = abs(before.speed_mm_s - told) <= _SAME_SPEED_MM_S
            if led != (abs(vtg.speed_mm_s - told) <= _SAME_SPEED_MM_S):
                self._vtg_leads = led
        return self._vtg_leads

    def _late(self, *tags: str) -> None:
        self.counts["late"] += len(tags)
        if self._judged is None or not any(map(self._judged.heard, tags)):
            return  # another talker repeats: that says nothing about this one's cycle
        if self._closed_by == "cycle":
            self._cycle.broken()
        elif self._closed_by == "quiet":
            self.quiet_s = min(self.quiet_s * _QUIET_GROWTH, self._quiet_most_s)

    def _close(self, by: _Closer, now_s: float, fixes: list[Fix]) -> None:
        epoch, self._epoch = self._epoch, None
        if epoch is None or not epoch.reported:
            return
        if self._eager and by in {"time", "quiet"}:
            self._cycle.ended(next(iter(epoch.seen)), epoch.last, epoch.seen[epoch.last])
        self._judged, self._closed_by, self.judged_s = epoch, by, now_s
        self.used = epoch.used or self.used
        trusted = epoch.trusted()
        if trusted is None or trusted.position_e9 is None:
            self.state = "no-fix"
            self.counts["no-fix"] += 1
            return
        if epoch.fixed_at is None:
            self.state = "no-date"
            self.counts["no-time"] += 1
            return
        placed = self._dates.place(epoch.fixed_at, now_s)
        if placed is None:
            self.state = "no-date"
            return
        time_ms, flags = placed
        if self.datum is not None:
            flags = (*flags, "datum")
        fix = epoch.fix(trusted.position_e9, time_ms, flags)
        self.state = "3d" if fix.mode == 3 else "2d"
        fixes.append(fix)
