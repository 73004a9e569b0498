"""What one receiver reports about one instant, and whether that is a fix.

An epoch takes nothing from the one before. Inside it the last value of a field wins, from any
sentence. Positions also have an order of trust: it decides if two sentences differ by more than
their rounding, and keeps the digits of an RTK fix. A GGA's altitude is trusted more than a GNS's.

A talker that reports "no fix" vetoes all its sentences of the instant, because receivers continue
to send the last position. GN vetoes those of all systems. So a receiver whose GLONASS part has no
fix keeps its GPS position. After a veto of one talker, or if an RMC counts only beside a GGA, the
epoch is built again from the sentences that count.
"""

from collections.abc import Callable
from typing import Any

from telemetry_agent.gnss.field_values import DAY_MS, NO_GEOMETRY, Instant
from telemetry_agent.gnss.geodesy import PoorFix
from telemetry_agent.gnss.parser import GNSS
from telemetry_agent.gnss.sentences import Gsa, Gst, Message, Report, Vtg
from telemetry_agent.model import Fix, Flag, Quality

_SAME_INSTANT_MS = 10
_SAME_SECOND_MS = 50  # another part of the firmware writes ZDA
_TRUST = ("GGA", "GNS", "RMC", "GLL")
_ROUNDING_E9 = 1_700  # 0.2 m: a minute that was cut off at four decimals
_RTK = frozenset({"rtk", "float-rtk"})
_LEAST_SATS = 3
_LEAST_SATS_3D = 4
_OF_A_TAG_AT_MOST = 50  # more sentences than any receiver needs for an instant


class Epoch:
    """Collects the sentences of one instant."""

    instant: Instant | None = None
    """The time of its sentences; None: none of them had a time yet."""
    other_times: frozenset[Instant] = frozenset()
    """Times in its sentences that differ from ``instant`` by some milliseconds."""
    fixed_at: Instant | None = None
    """The time of its position; the time of ZDA may be wrong."""
    reported = False
    """It has a position sentence, with a position or without."""
    untimed = False
    """A sentence has a position without a time, so of any instant."""
    day: int | None = None
    """The date of an RMC that counts only beside a GGA."""
    vetoes: frozenset[str] = frozenset()
    """The talkers that report no fix."""
    unsure = False
    """Whether one of its sentences counts depends on the others."""
    _last_kind = ""
    _gsa_mode: int | None = None
    _alt_mm: int | None = None
    _alt_by = ""
    _geoid_sep_mm: int | None = None
    _geoid_sep_by = ""
    _speed_mm_s: int | None = None
    _course_mdeg: int | None = None
    _hdop_e2: int | None = None
    _vdop_e2: int | None = None
    _pdop_e2: int | None = None
    _err_h_mm: int | None = None
    _err_v_mm: int | None = None

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        """tag -> how many came, in the order in which each came first."""
        self.used: dict[str, set[str]] = {}
        """System id or talker -> the numbers of its satellites in GSA."""
        self.messages: list[Message] = []
        self._reports: dict[str, Report] = {}  # of each type the last one with a position
        self._sats: dict[str, int] = {}  # by talker: some count only those of one system

    @property
    def is_waiting(self) -> bool:
        """Whether it has only sentences without a time and a position, so of any instant."""
        return self.instant is None and not self.reported

    @property
    def rmc_speed_mm_s(self) -> int | None:
        """The speed of RMC; a VTG may have replaced it."""
        rmc = self._reports.get("RMC")
        return None if rmc is None else rmc.speed_mm_s

    def is_at(self, instant: Instant, message: Message) -> bool:
        """Whether a sentence with this time belongs to the same instant.

        Some receivers send .758 in one sentence and .76 in the next, and the time of ZDA may differ
        a little more; the same sentence with another time always belongs to another instant.
        """
        if self.instant is None:
            return False
        apart = abs(instant - self.instant)
        if apart > DAY_MS // 2:
            apart = abs(DAY_MS - apart)  # over midnight
        if apart == 0 or instant in self.other_times:
            return True
        if apart > _SAME_SECOND_MS or message.tag in self.seen:
            return False
        return apart <= _SAME_INSTANT_MS or message.tag[2:] == "ZDA"

    def take_time(self, instant: Instant) -> None:
        """Note the time of its first sentence with one, or another time that it has too."""
        if self.instant is None:
            self.instant = instant
        else:
            self.other_times |= {instant}

    def join(self, message: Message) -> None:
        """Add a sentence."""
        tag = message.tag
        count = self.seen[tag] = self.seen.get(tag, 0) + 1
        if count <= _OF_A_TAG_AT_MOST:
            self.messages.append(message)
        take = _TAKERS.get(type(message))
        if take is not None:
            take(self, message)

    def take_report(self, report: Report) -> None:
        """Add RMC, GGA, GLL or GNS."""
        kind = report.tag[2:]
        self.reported = True
        if self.fixed_at is None:
            self.fixed_at = report.instant
        # Without a time it is of any instant, and may be of a second receiver.
        if report.veto and (report.instant is not None or self.instant is None):
            self.vetoes |= {report.tag[:2]}
        if report.unsure:
            self.unsure = True
            return
        if report.position_e9 is None:
            return
        if report.instant is None:
            self.untimed = True  # it never replaces a position, but its speed may be used
        else:
            self._reports[kind] = report
            self._last_kind = kind
        if kind == "RMC":
            self.take_motion(report)
        elif kind != "GLL":
            self._take_height(kind, report)

    def _take_height(self, kind: str, report: Report) -> None:
        if report.sats is not None:
            self._sats[report.tag[:2]] = report.sats
        self._take_hdop(report.hdop_e2)
        if report.alt_mm is not None and (kind == "GGA" or self._alt_by != "GGA"):
            self._alt_mm, self._alt_by = report.alt_mm, kind
        if report.geoid_sep_mm is not None and (kind == "GGA" or self._geoid_sep_by != "GGA"):
            self._geoid_sep_mm, self._geoid_sep_by = report.geoid_sep_mm, kind

    def _take_hdop(self, hdop_e2: int | None) -> None:
        # One sentence may have 99.99 where another has a number.
        if hdop_e2 is not None and (hdop_e2 != NO_GEOMETRY or self._hdop_e2 is None):
            self._hdop_e2 = hdop_e2

    def take_motion(self, motion: Report | Vtg) -> None:
        """Add the speed and course of RMC or VTG."""
        if motion.speed_mm_s is not None:
            self._speed_mm_s = motion.speed_mm_s
        if motion.course_mdeg is not None:
            self._course_mdeg = motion.course_mdeg

    def take_gsa(self, gsa: Gsa) -> None:
        """Add one GSA."""
        # There is one for each system, and a system without a satellite may report "no fix".
        if gsa.mode is not None and gsa.mode > (self._gsa_mode or 0):
            self._gsa_mode = gsa.mode
        self.used.setdefault(gsa.system, set()).update(gsa.satellites)
        if gsa.pdop_e2 is not None:
            self._pdop_e2 = gsa.pdop_e2
        self._take_hdop(gsa.hdop_e2)
        if gsa.vdop_e2 is not None:
            self._vdop_e2 = gsa.vdop_e2

    def take_errors(self, gst: Gst) -> bool:
        """Add GST if it has the time of this epoch, or none; returns whether it was added."""
        if gst.about is not None and not self.is_at(gst.about, gst):
            return False
        self._err_h_mm, self._err_v_mm = gst.err_h_mm, gst.err_v_mm
        return True

    def take_early(self, gst: Gst) -> bool:
        """Add a GST that came before the epoch began, as ``take_errors`` does."""
        if not self.take_errors(gst):
            return False
        self.messages.append(gst)
        return True

    def settled(self) -> "Epoch":
        """The epoch without vetoed sentences, and with unsure ones decided."""
        # Built again, because vetoed sentences may have replaced the values of the others.
        left = Epoch()
        left.instant, left.other_times = self.instant, self.other_times
        if GNSS in self.vetoes:
            return left
        kept = [message for message in self.messages if message.tag[:2] not in self.vetoes]
        sure = any(map(_confirms, kept))
        for message in kept:
            if isinstance(message, Report) and message.unsure:
                # Its date is learned only now, because a receiver without a fix has no date either.
                if sure:
                    left.day = message.day_if_sure
                    left.join(message._replace(unsure=False))
                continue
            if isinstance(message, Gst):
                left.take_errors(message)
            left.join(message)
        return left

    def trusted(self) -> Report | None:
        """The most trusted position; None: no fix."""
        if not self._reports:
            return None
        for first in _TRUST:
            if first in self._reports:
                break
        # Some receivers never count their satellites, so a low count rejects only a GGA that no
        # other sentence confirms.
        alone = first == "GGA" and len(self._reports) == 1 and self._gsa_mode not in {2, 3}
        if alone and (self._counted() or 0) < _LEAST_SATS:
            return None
        # Within rounding the last sentence counts, as does the last value of any other field.
        trusted, last = self._reports[first], self._reports[self._last_kind]
        return last if self._agree(trusted, last) else trusted

    def _counted(self) -> int | None:
        return max(self._sats.values()) if self._sats else None

    def _sats_used(self) -> int | None:
        # On many receivers GGA counts to 12 only, and on others GSA has GPS only.
        listed = sum(map(len, self.used.values()))
        counted = self._counted()
        return max(listed, counted) if counted is not None else listed or None

    def _agree(self, trusted: Report, last: Report) -> bool:
        if trusted.position_e9 is None or last.position_e9 is None or trusted.quality in _RTK:
            return False
        (lat_e9, lon_e9), (last_lat_e9, last_lon_e9) = trusted.position_e9, last.position_e9
        return (
            abs(lat_e9 - last_lat_e9) <= _ROUNDING_E9 and abs(lon_e9 - last_lon_e9) <= _ROUNDING_E9
        )

    def fix(self, position_e9: tuple[int, int], time_ms: int, flags: tuple[Flag, ...]) -> Fix:
        """The fix at its full time."""
        sats = self._sats_used()
        if self._gsa_mode is not None:
            solid = self._gsa_mode == 3
        else:  # an altitude needs four satellites
            solid = self._alt_mm is not None and (sats or 0) >= _LEAST_SATS_3D
        poor = self._hdop_e2 == NO_GEOMETRY
        return (PoorFix if poor else Fix)(
            time_ms,
            *position_e9,
            self._alt_mm,
            self._geoid_sep_mm,
            self._speed_mm_s,
            self._course_mdeg,
            3 if solid else 2,
            self._quality(),
            None if poor else self._hdop_e2,
            self._vdop_e2,
            self._pdop_e2,
            sats,
            self._err_h_mm,
            self._err_v_mm,
            flags=flags,
        )

    def _quality(self) -> Quality:
        for kind in _TRUST:
            report = self._reports.get(kind)
            if report is not None and report.quality is not None:
                return report.quality
        return "gps"


def _confirms(message: Message) -> bool:
    """Whether it is a GGA or GNS with a fix, beside which an unsure sentence counts."""
    return (
        isinstance(message, Report)
        and message.tag[2:] in {"GGA", "GNS"}
        and message.position_e9 is not None
        and message.instant is not None
    )


# mypy cannot tie a key's type to its value's argument.
_TAKERS: dict[type, Callable[[Epoch, Any], None]] = {
    Report: Epoch.take_report,
    Vtg: Epoch.take_motion,
    Gsa: Epoch.take_gsa,
}
