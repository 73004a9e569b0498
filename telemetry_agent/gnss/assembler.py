"""Where one instant of one receiver ends and the next begins.

Theory of operation. At most one epoch is open. It opens with a sentence whose time of day differs
from the open one's, takes every sentence until it closes, and is judged once, when it closes. Only
then it gets its day, so the date may be in any of its sentences. The order is that of arrival: a
time that steps back opens an epoch like any other, so no jump of time can block the receiver.

An epoch closes at the first of these: the time changes, the sentence arrives that ends this
receiver's cycle, the line is quiet, or the input ends. A later sentence for that instant is late:
it is counted and opens no epoch, because one instant is one fix. Late sentences also correct what
was learned: the cycle is forgotten, or the quiet gap grows.

If a position sentence comes again with the same time, the cycle repeats while the time does not
change: some buses step it by 10 s, and some receivers send whole seconds at 5 Hz. The first cycle
was correct at that time, so only it makes the fix; the others are late and correct nothing. Only a
position sentence of a type that has not come yet can still belong to the first cycle. A cycle that
reports no fix makes none: the first one after it that has a position does.

Some receivers send one type an instant behind the others: GGA of 12:00:01, then RMC of 12:00:00. To
wait for it would delay each fix by an instant, so it is late in each cycle, and corrects nothing;
only its date is used. The same is true of a second source with the same talker whose time stands
still for some seconds: a time that comes again after a later one makes no fix.

Sentences without a time (VTG, GSA; an RMC before the first fix) join the open epoch. If none is
open, they open one that waits for its time, because some receivers begin their cycle with them. If
the line becomes quiet before a time comes, they were the late end of the epoch before. On a line
without gaps, what begins the next cycle (see ``cycle``) waits for the next time.
"""

from collections import Counter
from collections.abc import Callable
from typing import Literal

from telemetry_agent.gnss.cycle import Cycle, Order
from telemetry_agent.gnss.dates import Dates, is_another_day
from telemetry_agent.gnss.epoch import Dtm, Epoch, Gsa, Gst, Message, Moment, Report, Solution, Vtg
from telemetry_agent.gnss.field_values import DAY_MS, Instant, time_of_day_ms
from telemetry_agent.gnss.shared_talker import SharedTalker
from telemetry_agent.model import Fix, ReceiverState

_QUIET_S = 0.25
_QUIET_BAUD = 9600  # slower lines take longer over one sentence
_QUIET_GROWTH = 1.5
_QUIET_AT_MOST = 4  # times what it was
_LAG_AT_MOST_MS = 20_000  # some buses step the time by 10 s
_WGS_84 = frozenset({"", "W84", "P90"})
Closer = Literal["time", "cycle", "quiet", "end"]
MayFollow = Callable[[Instant], bool]


class Assembler:
    """Sentences in, fixes out.

    ``counts``: ``late`` (sentences for an instant that was already judged), ``no-fix`` (epochs
    without a valid position), ``no-time`` (valid positions without a time of day).

    Args:
        dates: gives the fixes their day.
        may_follow: called with the time of each valid position; returns whether the positions of
            this receiver become fixes.
        eager: whether to learn the end of the cycle.
        baud: of a serial line.
        whole: see ``Order``.
    """

    def __init__(
        self, dates: Dates, may_follow: MayFollow, *, eager: bool, baud: int | None, whole: bool
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.state: ReceiverState | None = None
        """The receiver's state in the last epoch: no-fix, no-date, 2d or 3d."""
        self.judged_s: float | None = None
        """Monotonic time of the last judgement, in seconds."""
        self.timeless = False
        """Whether its position had no time."""
        self.used: list[Gsa] = []
        """Those of the last epoch that had any."""
        self.datum: str | None = None
        """The datum of positions; None: WGS 84."""
        self.quiet_s = _QUIET_S * max(1.0, _QUIET_BAUD / baud if baud else 1.0)
        """After this many seconds without a byte the epoch is complete."""
        self.dates = dates
        self.shared_talker = SharedTalker()
        self._quiet_most_s = _QUIET_AT_MOST * self.quiet_s
        self._may_follow = may_follow
        self._eager = eager
        self._cycle = Cycle()
        self._epoch: Epoch | None = None
        self._judged = Epoch()  # the epoch before the open one
        self._before_judged = Epoch()  # the one before that
        self._lagging: Instant | None = None  # the last time that came again after a later one
        self._closed_by: Closer = "time"
        self._step_s = 0.0  # between the last two judgements
        self._cycle_repeats = False  # the cycle came again with the same time
        self._again = Epoch()  # its sentences: late, unless another date follows them
        self._moments_differ = False  # ZDA and GBS have other times than the fixes
        self._order = Order(whole=whole)
        # The tag of the VTG or GSA that came last, and belongs to the open epoch: those of the same
        # tag behind it need no decision of their own.
        self._run_tag = ""

    def count_in(self, counts: Counter[str]) -> None:
        """Use ``counts`` from now on, also for the dates."""
        self.counts = counts
        self.dates.count_in(counts)

    @property
    def open(self) -> bool:
        """Whether an epoch is open."""
        return self._epoch is not None

    def add(self, message: Message, now_s: float, fixes: list[Fix]) -> None:
        """Append the fixes that this sentence completes, by its time or by being the last."""
        epoch, tag = self._epoch, message.tag
        if message.instant is None:
            if epoch is None or tag != self._run_tag:
                epoch = self._epoch_of_untimed(message, now_s, fixes)
                if epoch is None:
                    return
        else:
            instant, self._run_tag = message.instant, ""
            if epoch is None or epoch.instant != instant:
                epoch = self._epoch_of_timed(instant, message, now_s, fixes)
            elif tag in epoch.seen:
                epoch = self._epoch_of_repeated(instant, message, epoch, now_s, fixes)
            # After the epoch before was closed: after a jump of time this is not its date. Before
            # this one counts: a late sentence has a date too.
            if message.day is not None and not message.unsure:
                self.dates.learn(message.day, instant)
            if epoch is None:
                return
            if self._order.early and isinstance(message, Report):
                self._order.join_this(epoch)  # the instant goes on after them
        epoch.join(message)
        cycle = self._cycle
        if tag == cycle.last and epoch.seen[tag] == cycle.count and epoch.instant is not None:
            self.close("cycle", now_s, fixes)

    def _epoch_of_untimed(self, message: Message, now_s: float, fixes: list[Fix]) -> Epoch | None:
        """The epoch that a sentence without a time joins; None: late, early, or a datum."""
        epoch, tag = self._epoch, message.tag
        if isinstance(message, Dtm):
            self.datum = None if message.datum in _WGS_84 else message.datum
            return None
        if isinstance(message, Report) and epoch is not None and tag in epoch.seen:
            # The same sentence again, now without a time: of another instant, whose time the
            # receiver does not know. A second device may send it between the sentences of a fix,
            # so the first one ends nothing.
            if epoch.has_untimed(tag) or self._again.has_untimed(tag):
                self.close("time", now_s, fixes)
                epoch, self._cycle_repeats = None, False
            else:
                self._cycle_repeats, self._run_tag = True, ""
        if self._cycle_repeats:
            if epoch is None or not self._begins_again(message, epoch):
                self._again.join(message)
                return None
            self.close("time", now_s, fixes)
            epoch, self._cycle_repeats = None, False
        # After the end of the learned cycle only its first tag begins the next one, or, if that is
        # lost, what comes after a gap: above 4 Hz, half of the time between two ends.
        ended = epoch is None and self._closed_by == "cycle" and tag != self._cycle.first
        if ended and now_s - (self.judged_s or 0.0) <= min(self.quiet_s, self._step_s / 2):
            self._late(message)
            return None
        epoch = epoch or Epoch()
        if self._order.is_next(message, epoch):
            self._run_tag = ""
            self._order.early.append(message)
            return None
        self._run_tag = tag if isinstance(message, (Vtg, Gsa)) else ""
        self._epoch = epoch
        return epoch

    def _begins_again(self, message: Message, epoch: Epoch) -> bool:
        """Whether a sentence without a time begins the cycle after those that repeat or have none.

        What came early began the one before; what came since was not of a second device.
        """
        early = self._order.early
        if any(each.tag == message.tag for each in early):
            self._late(*early)
            early.clear()
            return True
        return isinstance(message, Gst) and epoch.is_before(message)

    def _epoch_of_timed(
        self, instant: Instant, message: Message, now_s: float, fixes: list[Fix]
    ) -> Epoch | None:
        """The epoch of a sentence whose time is not that of the open one; None: it is late."""
        epoch, judged, tag = self._epoch, self._judged, message.tag
        if self._moments_differ and isinstance(message, Moment):
            return epoch  # its date is used; its time would split the sentences of one fix
        if epoch is not None and epoch.is_at(instant, message):
            # The rest of the instant may have this time or the other one. ZDA's own is not trusted.
            if not isinstance(message, Moment):
                epoch.take_time(instant, judged.instant)
            return epoch
        if isinstance(message, Report) and self._lags(instant, message):
            self.counts["late"] += 1  # no matter how long its own epoch was open
            return None
        # This sentence gives a waiting epoch its time, or shows that the waiting sentences were the
        # late end of the epoch before.
        waiting = epoch is not None and epoch.is_waiting
        # After a position with another time, a tag that the judged epoch has already is not late:
        # time has stepped back, and the same instant comes again.
        stepped_back = epoch is not None and bool(epoch.reports) and tag in judged.seen
        of_judged = not stepped_back and judged.is_at(instant, message)
        if of_judged and not _has_regained(judged, message):
            self._end_of_judged(message)
            return None
        if not waiting:
            self.close("time", now_s, fixes)
        return self._begin(instant)

    def _end_of_judged(self, message: Message) -> None:
        """Learn from a sentence that comes after its instant was judged."""
        epoch, judged = self._epoch, self._judged
        # If it equals the last one, the line repeated one sentence, and no cycle began.
        if isinstance(message, Report) and message.tag in judged.seen:
            self._cycle_repeats = self._cycle_repeats or message != judged.messages[-1]
            if message.tag == judged.reports[-1].tag:
                self.shared_talker.reported(message.position_e9)
        if epoch is not None and epoch.instant is not None and not epoch.reports:
            # The open epoch has only a ZDA or GBS: it came between the sentences of one fix.
            self._moments_differ = True
        if epoch is not None and epoch.is_waiting:
            self._epoch = None
        self._late(message)

    def _lags(self, instant: Instant, report: Report) -> bool:
        """Whether a sentence comes after the next instant's position.

        It is new in its own instant, or repeats it; otherwise time has stepped back.
        """
        epoch, judged, before = self._epoch, self._judged, self._before_judged
        behind = _is_of(before, instant, report)
        comes_again = instant == self._lagging or _has_fix_of(before, instant, report)
        if epoch is not None and epoch.instant is None:
            return False
        # Otherwise the judged epoch is the next instant: a ZDA may have a clock of its own.
        if epoch is not None and any(each.instant is not None for each in epoch.reports):
            behind = behind or _is_of(judged, instant, report)
            comes_again = comes_again or _has_fix_of(judged, instant, report)
        # Of a second source with the same talker, whose time stands still for some seconds.
        newest = (epoch or judged).instant
        if comes_again and newest is not None:
            lag_ms = (time_of_day_ms(newest) - time_of_day_ms(instant)) % DAY_MS
            if 0 < lag_ms < _LAG_AT_MOST_MS:
                self._lagging, behind = instant, True
        return behind

    def _begin(self, instant: Instant) -> Epoch:
        """Begin an epoch, or give the waiting one its time."""
        epoch = self._epoch = self._epoch or Epoch()
        epoch.take_time(instant, self._judged.instant)
        self._order.join(epoch)
        self._cycle_repeats = False
        return epoch

    def _epoch_of_repeated(
        self,
        instant: Instant,
        message: Report | Moment,
        epoch: Epoch,
        now_s: float,
        fixes: list[Fix],
    ) -> Epoch | None:
        """The epoch of a sentence whose type came with this time before; ``None``: it is late."""
        if message.day is not None and is_another_day(
            message.day, epoch.days(message.tag), instant
        ):
            again, self._again = self._again, Epoch()
            self.close("time", now_s, fixes)
            epoch = self._begin(instant)
            for each in again.messages:  # before this date it was taken for late
                epoch.join(each)
            return epoch
        if not isinstance(message, Report):
            return epoch
        if _has_regained(epoch, message):
            self.close("time", now_s, fixes)
            return self._begin(instant)
        if message.tag in self._again.seen:
            self._count_again()
        for each in (*self._order.early, message):
            self._again.join(each)
        self._order.early.clear()
        if message != epoch.messages[-1]:  # otherwise the line repeated one sentence
            self._cycle_repeats = True
        return None

    def _count_again(self) -> None:
        again, self._again = self._again, Epoch()
        self.counts["late"] += len(again.messages)
        if again.reports:
            self.shared_talker.reported(again.reports[-1].position_e9)

    def _late(self, *messages: Message) -> None:
        """Count sentences of an instant that is judged, and correct what ended it too early."""
        self.counts["late"] += len(messages)
        if self._cycle_repeats or [*messages] == self._judged.messages[-1:]:
            return  # the first cycle ended where it should
        if self._closed_by == "cycle":
            self._cycle.broken()
        elif self._closed_by == "quiet":
            self.quiet_s = min(self.quiet_s * _QUIET_GROWTH, self._quiet_most_s)

    def quiet(self, now_s: float, fixes: list[Fix]) -> None:
        """Append the fix that is completed by a line that was quiet for ``quiet_s``."""
        epoch, early = self._epoch, self._order.early
        if epoch is not None and early and not isinstance(early[0], Gst):
            self._order.join_this(epoch)  # a cycle begins after the gap, and these came before it
        if epoch is not None and epoch.is_waiting:
            self._epoch = None
            self._late(*epoch.messages)  # no time came before the gap
        else:
            self.close("quiet", now_s, fixes)

    def close(self, by: Closer, now_s: float, fixes: list[Fix]) -> None:
        """Append the fix of the open epoch, if there is one; ``by`` is what ended it."""
        if self._again.messages:
            self._count_again()
        epoch, self._epoch = self._epoch, None
        if epoch is None or not epoch.reports:
            self._order.began_within()  # the position came before the recording
            return  # without a position sentence, not even an instant without a fix
        self._before_judged, self._judged = self._judged, epoch
        self._step_s = now_s - (self.judged_s or 0.0)
        self._closed_by, self.judged_s = by, now_s
        # Some send GSA less often than positions.
        self.used = [each for each in epoch.messages if isinstance(each, Gsa)] or self.used
        solution = Solution(epoch)
        trusted = solution.trusted
        if self._eager and trusted is not None:  # without a fix some send fewer sentences
            last = epoch.messages[-1].tag
            self._cycle.ended(next(iter(epoch.seen)), last, epoch.seen[last])
        self.shared_talker.reported(trusted.position_e9 if trusted else None)
        self._judge(solution, now_s, fixes)

    def _judge(self, solution: Solution, now_s: float, fixes: list[Fix]) -> None:
        trusted, instant = solution.trusted, solution.fixed_at
        self.timeless = trusted is None and solution.untimed
        if self.timeless:
            self.state = "no-date"
            self.counts["no-time"] += 1
            return
        if trusted is None or trusted.position_e9 is None or instant is None:
            self.state = "no-fix"
            self.counts["no-fix"] += 1
            return
        # A date that counts only beside a GGA: whether it counts is known only now.
        if solution.day is not None and trusted.instant is not None:
            self.dates.learn(solution.day, trusted.instant)
        if not self._may_follow(instant):
            return
        resolved = self.dates.resolve(instant, now_s)
        if resolved is None:
            self.state = "no-date"
            return
        time_ms, flags = resolved
        if self.datum is not None:
            flags = (*flags, "datum")
        fix = solution.fix(trusted.position_e9, time_ms, flags)
        self.state = "3d" if fix.mode == 3 else "2d"
        fixes.append(fix)


def _is_of(epoch: Epoch, instant: Instant, report: Report) -> bool:
    """Whether a sentence is new in this epoch, or one of it again."""
    if report.tag in epoch.seen:
        return instant == epoch.instant and report in epoch.messages
    return epoch.is_at(instant, report)


def _has_fix_of(epoch: Epoch, instant: Instant, report: Report) -> bool:
    """Whether this type of sentence has reported a position of this instant and day before."""
    return instant == epoch.instant and any(
        each.tag == report.tag and each.day == report.day and each.position_e9
        for each in epoch.reports
    )


def _has_regained(epoch: Epoch, message: Message) -> bool:
    """Whether the epoch has no fix yet, because this type of sentence reported none before."""
    if not isinstance(message, Report) or message.position_e9 is None:
        return False
    had_none = any(each.veto and each.tag == message.tag for each in epoch.reports)
    return had_none and Solution(epoch).trusted is None
