"""A fix as the fields of a JSON object: the one form that users, endpoints and exports see.

=============  =========================================================================
``time``       UTC from the receiver, RFC 3339 with ``Z`` and milliseconds
``lat lon``    degrees, WGS 84, up to 9 decimals
``alt``        metres above mean sea level
``geoid_sep``  metres; ellipsoidal height = alt + geoid_sep
``speed``      m/s over ground
``course``     degrees true, 0 <= x < 360
``mode``       2 or 3 (2D, 3D)
``quality``    gps dgps pps rtk float-rtk estimated manual simulated
``hdop`` …     ``hdop``, ``vdop``, ``pdop`` as sent
``sats``       satellites used
``err_h``      metres, 1 sigma; ``err_v`` likewise
``odo``        metres driven, whole
``flags``      list of jump, time, date, datum
=============  =========================================================================

What is unknown is absent, never 0 or "". Every quotient below is the double nearest to the stored
integer, so its shortest form in JSON is exactly the decimal number that the receiver meant.
"""

from datetime import date
from functools import lru_cache

from telemetry_agent.model import Fix

_DAY_MS = 86_400_000
_DAY_1970 = date(1970, 1, 1).toordinal()


@lru_cache(maxsize=8)
def _day(days: int) -> str:
    # Not fromtimestamp(): it overflows in 2038 where time_t has 32 bits.
    return date.fromordinal(_DAY_1970 + days).isoformat()


def rfc3339(time_ms: int) -> str:
    """Milliseconds since 1970 as ``2026-11-23T12:35:19.000Z``."""
    days, ms = divmod(time_ms, _DAY_MS)
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{_day(days)}T{hours:02}:{minutes:02}:{seconds:02}.{ms:03}Z"


def fix_fields(fix: Fix) -> dict[str, object]:  # noqa: C901 - one branch per optional field
    """The fields of a fix, in the order of the table above; ready for ``json.dumps``."""
    fields: dict[str, object] = {
        "time": rfc3339(fix.time_ms),
        "lat": fix.lat_e9 / 1e9,
        "lon": fix.lon_e9 / 1e9,
    }
    if fix.alt_mm is not None:
        fields["alt"] = fix.alt_mm / 1000
    if fix.geoid_sep_mm is not None:
        fields["geoid_sep"] = fix.geoid_sep_mm / 1000
    if fix.speed_mm_s is not None:
        fields["speed"] = fix.speed_mm_s / 1000
    if fix.course_mdeg is not None:
        fields["course"] = fix.course_mdeg / 1000
    fields["mode"] = fix.mode
    fields["quality"] = fix.quality
    if fix.hdop_e2 is not None:
        fields["hdop"] = fix.hdop_e2 / 100
    if fix.vdop_e2 is not None:
        fields["vdop"] = fix.vdop_e2 / 100
    if fix.pdop_e2 is not None:
        fields["pdop"] = fix.pdop_e2 / 100
    if fix.sats is not None:
        fields["sats"] = fix.sats
    if fix.err_h_mm is not None:
        fields["err_h"] = fix.err_h_mm / 1000
    if fix.err_v_mm is not None:
        fields["err_v"] = fix.err_v_mm / 1000
    if fix.odo_m is not None:
        fields["odo"] = fix.odo_m
    if fix.flags:
        fields["flags"] = list(fix.flags)
    return fields
