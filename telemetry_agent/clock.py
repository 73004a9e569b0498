"""The only reader of time.

Intervals, deadlines and beats use ``monotonic_s``. The wall clock of a device without a battery
clock is often wrong. So a fix depends on it only where ``synchronised`` confirms it: it dates a
receiver that sends no date, proves a date that was corrected, and shows a receiver that is ahead.
Anywhere else it is only shown, or compared with GNSS time.
"""

import ctypes
import time
from pathlib import Path

_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised to a reliable server
_STRUCT_TIMEX_BYTES = 512  # larger than struct timex on every Linux
_TIMESYNCD_HAS_SET_IT = Path("/run/systemd/timesync/synchronized")


class Clock:
    """The machine's clocks. Tests use a fake with the same three methods."""

    def monotonic_s(self) -> float:
        """Seconds since some fixed instant; never steps."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC by the system clock, right or wrong."""
        return time.time_ns() // 1_000_000

    def synchronised(self) -> bool:
        """Whether the system clock follows a time server.

        The kernel knows. The hardened service may not ask it, because the same call sets the clock;
        there the file that systemd-timesyncd makes in each boot decides.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        timex = ctypes.create_string_buffer(_STRUCT_TIMEX_BYTES)
        state: int = libc.adjtimex(timex)
        if state < 0:
            return _TIMESYNCD_HAS_SET_IT.exists()
        return state < _TIME_ERROR


def span(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``5 min``, ``3 h 20 min``, ``4 d 2 h``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
