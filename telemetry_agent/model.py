"""The values that travel through the agent, in the order in which a fix meets them.

::

    bytes -> Sentence -> Fix -> Record(seq) -> Batch -> Payload -> Outcome

All are frozen. Quantities are integers at the finest resolution that a receiver sends, so that
no value is rounded twice and a value read from disk equals the stored one. An unknown quantity is
``None``, never 0.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple, TypeGuard

Quality = Literal["gps", "dgps", "pps", "rtk", "float-rtk", "estimated", "manual", "simulated"]
Flag = Literal["jump", "time", "date", "datum"]
ReceiverState = Literal[
    "absent", "busy", "silent", "wrong-baud", "binary", "no-date", "no-fix", "2d", "3d"
]
Constellation = Literal["GPS", "GLONASS", "Galileo", "BeiDou", "QZSS", "NavIC", "SBAS"]
UploadState = Literal["ok", "waiting", "no-route", "unreachable", "portal", "held"]


class Fix(NamedTuple):
    """One position as the receiver gave it. A tuple, because a backlog holds a million."""

    time_ms: int
    """UTC, milliseconds since 1970-01-01, from the receiver."""
    lat_e9: int
    """Latitude, WGS 84, in 1e-9 degrees; north is positive."""
    lon_e9: int
    """Longitude, WGS 84, in 1e-9 degrees; east is positive."""
    alt_mm: int | None = None
    """Above mean sea level."""
    geoid_sep_mm: int | None = None
    """Geoid above the ellipsoid: ellipsoidal height = altitude + separation."""
    speed_mm_s: int | None = None
    """Over ground."""
    course_mdeg: int | None = None
    """Over ground, true, in 0.001 degrees: 0 <= x < 360000."""
    mode: Literal[2, 3] = 2
    """2D or 3D."""
    quality: Quality = "gps"
    hdop_e2: int | None = None
    """Dilutions of precision in 0.01."""
    vdop_e2: int | None = None
    pdop_e2: int | None = None
    sats: int | None = None
    """Satellites used."""
    err_h_mm: int | None = None
    """1 sigma, root of the sum of the variances in latitude and longitude."""
    err_v_mm: int | None = None
    odo_m: int | None = None
    """Metres driven up to this fix, over all restarts; None before sampling."""
    flags: tuple[Flag, ...] = ()
    extra: str | None = None
    """The user's own attributes: a JSON object of numbers and words."""

    @property
    def time_is_sure(self) -> bool:
        """Whether no flag doubts its time or date."""
        return "time" not in self.flags and "date" not in self.flags


@dataclass(frozen=True, slots=True)
class Satellite:
    """One satellite in view. A part of the snapshot too, hence the defaults."""

    system: Constellation = "GPS"
    number: Annotated[int, "number in its system: 1 to 63, for SBAS 120 to 158"] = 0
    elevation_deg: Annotated[int | None, "elevation above the horizon"] = None
    azimuth_deg: Annotated[int | None, "azimuth, clockwise from north"] = None
    snr_db: Annotated[int | None, "C/N0 of its best signal in dB-Hz; absent: not tracked"] = None
    used: Annotated[bool, "whether the last fix used it"] = False


class Record(NamedTuple):
    """A fix with its permanent name, (stream, seq)."""

    stream: str
    """16 hex digits."""
    seq: int
    """Counts from 1 in its stream."""
    device: str
    fix: Fix


def is_stream(value: object) -> TypeGuard[str]:
    """Whether a value from outside can be a stream: 16 hex digits."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{16}", value) is not None


@dataclass(frozen=True, slots=True)
class StreamAccount:
    """An agent's account of one stream.

    Every fix with a seq up to ``through`` was acknowledged, or is counted in ``not_coming``.
    """

    stream: str
    """16 hex digits."""
    through: int
    recorded: int
    """The number of fixes with a seq up to ``through``."""
    not_coming: Mapping[str, int]
    """How many of these will never arrive, by reason."""
    damaged_in: tuple[int, int] | None = None
    """The range of seq, first and last, in which fixes were lost to damage."""
    finished: bool = False
    """No more fixes of it will come."""

    @property
    def expected(self) -> int:
        """How many rows the endpoint must have up to ``through``."""
        return self.recorded - sum(self.not_coming.values())


@dataclass(frozen=True, slots=True)
class Batch:
    """Fixes of one stream and one device that were leased together, in the order of recording.

    The batch is the lease: until it ends, nothing else changes its records.
    """

    lease: int
    """Identifies the lease in its queue."""
    stream: str
    device: str
    records: tuple[Record, ...]
    live: bool
    """Whether all were committed after the newest fix leased before; else a run of the backlog."""


class Backlog(NamedTuple):
    """What is to be sent, as the uploader needs it to decide."""

    ready: int
    """Fixes that a lease could hand out now: the uncommitted ones too, unless the disk refuses."""
    live: int
    """Those of them that were recorded after the newest fix that was ever handed out."""
    live_since_s: float | None
    """Monotonic time at which the oldest live fix was put, or earlier; ``None`` without any."""


@dataclass(frozen=True, slots=True)
class Payload:
    """One HTTP request, made by a format."""

    body: bytes
    headers: Mapping[str, str]
    compressed: bool = False
    query: str = ""
    """Added to the query of the URL; encoded."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The HTTP answer to a payload, read to its end or to the limit."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    verified_tls: bool
    """Whether a certificate proved that the endpoint itself sent the answer."""
    too_long_bytes: int | None = None
    """The size of a body that was not read to its end, at least."""


class ResendRange(NamedTuple):
    """Fixes of a stream that an endpoint asks for again."""

    stream: str
    """16 hex digits."""
    first: int
    """seq"""
    last: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """The endpoint took the batch, except the fixes that it names."""

    rejected: Mapping[int, str] = field(default_factory=dict)
    """seq -> reason; these become dead letters."""
    retry: frozenset[int] = frozenset()
    """The seq of fixes to send again."""
    unknown_names: int = 0
    """Names in the answer that are not in the batch; ignored."""
    status: int | None = None
    counted: bool = False
    """Whether the endpoint counted the fixes, so that a loss would show."""
    resend: tuple[ResendRange, ...] = ()
    """Earlier fixes that the endpoint does not have."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not now: the batch stays whole and is sent again later."""

    reason: str
    state: UploadState = "waiting"
    retry_after_s: float | None = None
    answered: bool = True
    """False: the exchange ended without an answer, so the endpoint may have the batch."""
    sent: bool = True
    """False: nothing left this machine, so the endpoint has none of it."""
    status: int | None = None
    may_be_a_fix: bool = False
    """Whether a fix in the batch may be the reason."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A fix in this batch is refused: the batch is halved until it is found."""

    reason: str
    too_large: bool = False
    status: int | None = None
    fitting: int | None = None
    """Only the answer is too large: send again, at most this number of fixes at once."""


@dataclass(frozen=True, slots=True)
class Held:
    """The setup is wrong: only one attempt is made every ``backoff_max``."""

    reason: str
    status: int | None = None


Outcome = Delivered | Deferred | Refused | Held
