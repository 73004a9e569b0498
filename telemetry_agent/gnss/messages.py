"""What one sentence reports, as typed fields. What it does not carry is None."""

from typing import NamedTuple

from telemetry_agent.gnss.field_values import Instant
from telemetry_agent.model import Quality


class Report(NamedTuple):
    """A position as RMC, GGA, GLL or GNS reports it."""

    tag: str
    instant: Instant | None
    veto: bool
    """The talker reports that there is no fix."""
    position_e9: tuple[int, int] | None
    """Latitude and longitude, if the receiver reports that they are valid and both can be read."""
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
