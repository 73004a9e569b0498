"""What one receiver reports about one instant, sentence by sentence, and whether that is a fix.

What a sentence does not carry is None.

An epoch takes nothing from the one before. Inside it the last value of a field wins, from any
sentence. Positions also have an order of trust: it decides if two sentences do not agree, and keeps
the digits of an RTK fix. A GGA's altitude is trusted more than a GNS's.

A talker that reports "no fix" vetoes all its sentences of the instant, because receivers continue
to send the last position. GN vetoes those of all systems. So a receiver whose GLONASS part has no
fix keeps its GPS position.
"""

from typing import Any, NamedTuple

from telemetry_agent.gnss.field_values import DAY_MS, NO_GEOMETRY, Instant, time_of_day_ms
from telemetry_agent.gnss.geodesy import PoorFix
from telemetry_agent.model import Fix, Flag, Quality

_ALL_SYSTEMS = "GN"  # the talker
_SAME_INSTANT_MS = 10
_SAME_INSTANT_ZDA_MS = 50  # another part of the firmware writes it
_OWN_CLOCK = frozenset({"GLL", "ZDA"})  # Yacht Devices; Signal K adds 20 ms to GLL
_TRUST = ("GGA", "GNS", "RMC", "GLL")
# 1.7 m: a minute was cut off at four decimals, or read a moment later (RMC of GoFree).
_AGREE_E9 = 15_000
_RTK = frozenset({"rtk", "float-rtk"})
_WITHOUT_SATELLITES = frozenset({"estimated", "manual", "simulated"})
_LEAST_SATS = 3
_LEAST_SATS_3D = 4
_OF_A_TAG_AT_MOST = 50  # more sentences than any receiver needs for an instant

Position = tuple[int, int]
"""Latitude and longitude in 1e-9 degrees."""


class Report(NamedTuple):
    """A position as RMC, GGA, GLL or GNS reports it."""

    tag: str
    instant: Instant | None
    veto: bool
    """The talker reports that there is no fix."""
    position_e9: Position | None
    """If the receiver reports that it is valid, and both numbers can be read."""
    quality: Quality | None
    sats: int | None = None
    hdop_e2: int | None = None
    alt_mm: int | None = None
    geoid_sep_mm: int | None = None
    day: int | None = None
    """Days since 1970."""
    speed_mm_s: int | None = None
    course_mdeg: int | None = None
    unsure: bool = False
    """It counts only if a GGA or GNS of the same instant has a position; so does its date."""


class Moment(NamedTuple):
    """Time and date, as in ZDA. Of GBS only the time is used: it may begin an epoch."""

    tag: str
    instant: Instant | None
    day: int | None = None
    """Days since 1970."""
    unsure: bool = False


class Vtg(NamedTuple):
    """Speed and course over ground."""

    tag: str
    speed_mm_s: int | None
    course_mdeg: int | None
    instant: None = None


class Gsa(NamedTuple):
    """The satellites in use of one system, and the dilutions of precision."""

    tag: str
    mode: int | None
    """1 no fix, 2 2D, 3 3D."""
    satellites: tuple[tuple[str, str], ...]
    """System and number as sent. The system is its id, or a talker without one."""
    pdop_e2: int | None
    hdop_e2: int | None
    vdop_e2: int | None
    instant: None = None


class Gst(NamedTuple):
    """Errors, 1 sigma."""

    tag: str
    about: Instant | None
    """The instant of the errors; it does not begin an epoch."""
    err_h_mm: int | None
    err_v_mm: int | None
    instant: None = None


class Dtm(NamedTuple):
    """The datum that positions refer to."""

    tag: str
    datum: str
    instant: None = None


Message = Report | Moment | Vtg | Gsa | Gst | Dtm
"""``instant`` is the sentence's time of day, which may begin an epoch."""


class Epoch:
    """Collects the sentences of one instant."""

    instant: Instant | None = None
    """The time of its sentences; None: none of them had a time yet."""
    other_times: frozenset[Instant] = frozenset()
    """Times in its sentences that differ from ``instant`` by some milliseconds."""
    step_ms = 0
    """How long after the instant before; 0: not known."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        """tag -> how many came, in the order in which each came first."""
        self.messages: list[Message] = []
        self.reports: list[Report] = []
        """Its position sentences, with a position or without."""

    @property
    def is_waiting(self) -> bool:
        """Whether it has only sentences without a time and a position, so of any instant."""
        return self.instant is None and not self.reports

    def is_at(self, instant: Instant, message: Message) -> bool:
        """Whether a sentence with this time belongs to the same instant.

        Some receivers send .758 in one sentence and .76, or no fraction, in the next; that of ZDA
        may differ a little more, and ZDA and GLL may have their own clock; the same sentence with
        another time always belongs to another instant.
        """
        if self.instant is None:
            return False
        apart = abs(instant - self.instant)
        if apart > DAY_MS // 2:
            apart = abs(DAY_MS - apart)  # over midnight
        if apart == 0 or instant in self.other_times:
            return True
        if message.tag in self.seen and not isinstance(message, Gst):
            return False
        kind = message.tag[2:]
        most = _SAME_INSTANT_ZDA_MS if kind == "ZDA" else _SAME_INSTANT_MS
        whole, other = sorted((self.instant, instant))
        in_its_second = whole % 1000 == 0 and other - whole < 1000
        # The next instant of a receiver, 2 Hz if not known, of which a sentence was lost.
        has_own_clock = kind in _OWN_CLOCK and apart not in {500, self.step_ms}
        return apart <= most or (in_its_second and (instant == whole or has_own_clock))

    def is_before(self, gst: Gst) -> bool:
        """Whether a GST has a later time than this epoch, or a time where this has none."""
        about, instant = gst.about, self.instant
        if about is None:
            return False
        if instant is None:
            return bool(self.reports)
        if self.is_at(about, gst):
            return False
        return (time_of_day_ms(about) - time_of_day_ms(instant)) % DAY_MS < DAY_MS // 2

    def has_untimed(self, tag: str) -> bool:
        """Whether it has a position sentence with this tag and without a time."""
        return any(each.tag == tag and each.instant is None for each in self.reports)

    def days(self, tag: str) -> list[int | None]:
        """The dates in its sentences with this tag."""
        dated = (each for each in self.messages if isinstance(each, Report | Moment))
        return [each.day for each in dated if each.tag == tag]

    def take_time(self, instant: Instant, before: Instant | None = None) -> None:
        """Note the time of its first sentence with one, or another time that it has too.

        A ZDA that came first may have a clock of its own: the time of a position replaces its time.
        ``before``: the time of the epoch before; ``None``: it is not known.
        """
        if not self.reports:
            self.instant = instant
            self.step_ms = 0 if before is None else abs(instant - before)
        else:
            self.other_times |= {instant}

    def join(self, message: Message) -> None:
        """Add a sentence."""
        tag = message.tag
        count = self.seen[tag] = self.seen.get(tag, 0) + 1
        if count > _OF_A_TAG_AT_MOST:
            oldest = next(each for each in self.messages if each.tag == tag)
            self.messages.remove(oldest)
            if isinstance(oldest, Report):
                self.reports.remove(oldest)
        self.messages.append(message)
        if isinstance(message, Report):
            self.reports.append(message)

    def valid_messages(self) -> list[Message]:
        """Its sentences without those that are vetoed, or that nothing confirms."""
        if not any(report.veto or report.unsure for report in self.reports):
            return self.messages
        # A veto without a time is of any instant, and may be of a second receiver.
        vetoes = {
            report.tag[:2]
            for report in self.reports
            if report.veto and (report.instant is not None or self.instant is None)
        }
        if _ALL_SYSTEMS in vetoes:
            return []
        valid = [each for each in self.messages if each.tag[:2] not in vetoes]
        reports = [each for each in valid if isinstance(each, Report)]
        if any(
            report.tag[2:] in {"GGA", "GNS"} and report.position_e9 and report.instant is not None
            for report in reports
        ):
            return valid
        unsure = [report for report in reports if report.unsure]
        return [each for each in valid if each not in unsure]


class Solution:
    """What the sentences of an epoch add up to."""

    fixed_at: Instant | None = None
    """The time of the position; that of ZDA may be wrong, and of GLL beside a whole second."""
    _fixed_by_gll = False
    untimed = False
    """A sentence has a position without a time, so of any instant."""
    day: int | None = None
    """The date of an RMC that counts only beside a GGA."""
    _last: Report | None = None
    _gsa_mode: int | None = None
    _counted: int | None = None

    def __init__(self, epoch: Epoch) -> None:
        self._reports: dict[str, Report] = {}  # of each type the last one with a position
        self._listed: set[tuple[str, str]] = set()  # satellites in GSA: system and number
        self._values: dict[str, int] = {}  # the last ones, by their field of a fix
        self._heights_of_gns: dict[str, int] = {}  # for what no GGA has
        for message in epoch.valid_messages():
            if isinstance(message, Report):
                self._take_report(message)
            elif isinstance(message, Gsa):
                self._take_gsa(message)
            elif isinstance(message, Vtg):
                _, speed, course, _ = message
                _put(self._values, speed_mm_s=speed, course_mdeg=course)
            elif isinstance(message, Gst) and (
                message.about is None or epoch.is_at(message.about, message)
            ):
                _put(self._values, err_h_mm=message.err_h_mm, err_v_mm=message.err_v_mm)
        self.trusted = self._trusted()
        """The most trusted position; None: no fix."""

    def _take_report(self, report: Report) -> None:
        tag, instant, _, position, _, sats, hdop, alt, geoid_sep, day, speed, course, unsure = (
            report
        )
        kind = tag[2:]
        corrects = self._fixed_by_gll and instant is not None and instant % 1000 == 0
        if self.fixed_at is None or corrects:
            self.fixed_at, self._fixed_by_gll = instant, kind == "GLL"
        if unsure and day is not None:
            self.day = day
        if position is None:
            return
        if instant is None:
            self.untimed = True  # it never replaces a position, but its speed may be used
        else:
            self._reports[kind] = self._last = report
        if kind == "RMC":
            _put(self._values, speed_mm_s=speed, course_mdeg=course)
        elif kind != "GLL":
            # One talker may count its own system only, and a GGA to 12 beside a GNS.
            if sats is not None and sats > (self._counted or -1):
                self._counted = sats
            heights = self._values if kind == "GGA" else self._heights_of_gns
            _put(heights, alt_mm=alt, geoid_sep_mm=geoid_sep)
            self._take_hdop(hdop)

    def _take_hdop(self, hdop_e2: int | None) -> None:
        # One sentence may have 99.99 where another has a number.
        if hdop_e2 is not None and (hdop_e2 != NO_GEOMETRY or "hdop_e2" not in self._values):
            self._values["hdop_e2"] = hdop_e2

    def _take_gsa(self, gsa: Gsa) -> None:
        _, mode, satellites, pdop, hdop, vdop, _ = gsa
        # There is one for each system, and a system without a satellite may report "no fix".
        if mode is not None and mode > (self._gsa_mode or 0):
            self._gsa_mode = mode
        self._listed.update(satellites)
        self._take_hdop(hdop)
        _put(self._values, pdop_e2=pdop, vdop_e2=vdop)

    def _trusted(self) -> Report | None:
        last = self._last
        if last is None:
            return None
        reports = self._reports
        first = next(kind for kind in _TRUST if kind in reports)
        trusted = reports[first]
        # Some receivers never count their satellites, so a low count rejects only a GGA that no
        # other sentence confirms, and that reports a position by satellites.
        alone = first == "GGA" and len(reports) == 1 and self._gsa_mode not in {2, 3}
        few = self._counted is not None and self._counted < _LEAST_SATS
        if alone and few and trusted.quality not in _WITHOUT_SATELLITES:
            return None
        # Of two that agree the last one counts, as does the last value of any other field.
        return last if _agree(trusted, last) else trusted

    def fix(self, position_e9: Position, time_ms: int, flags: tuple[Flag, ...]) -> Fix:
        """The fix at its full time."""
        # On many receivers GGA counts to 12 only, and on others GSA has GPS only.
        listed = len(self._listed) or None
        sats = listed if self._counted is None else max(listed or 0, self._counted)
        values: dict[str, Any] = self._heights_of_gns | self._values
        if self._gsa_mode is not None:
            solid = self._gsa_mode == 3
        else:  # an altitude needs four satellites
            solid = "alt_mm" in values and (sats or 0) >= _LEAST_SATS_3D
        fix_type = Fix
        if values.get("hdop_e2") == NO_GEOMETRY:
            fix_type = PoorFix
            del values["hdop_e2"]
        return fix_type(
            time_ms,
            *position_e9,
            mode=3 if solid else 2,
            quality=self._quality(),
            sats=sats,
            flags=flags,
            **values,
        )

    def _quality(self) -> Quality:
        for kind in _TRUST:
            if kind in self._reports and (quality := self._reports[kind].quality):
                return quality
        return "gps"


def _put(values: dict[str, int], **new: int | None) -> None:
    """Set the values that a sentence carries; the others stay."""
    for name, value in new.items():
        if value is not None:
            values[name] = value  # noqa: PERF403 - a dict of the new ones takes longer


def _agree(trusted: Report, last: Report) -> bool:
    """Whether two positions are equal within their rounding, or were read a moment apart."""
    if trusted.position_e9 is None or last.position_e9 is None or trusted.quality in _RTK:
        return False
    (lat_e9, lon_e9), (last_lat_e9, last_lon_e9) = trusted.position_e9, last.position_e9
    return abs(lat_e9 - last_lat_e9) <= _AGREE_E9 and abs(lon_e9 - last_lon_e9) <= _AGREE_E9
