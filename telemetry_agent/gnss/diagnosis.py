"""Why a receiver that sends data gives no positions, each reason with a remedy that works.

A wrong remedy is worse than none: a receiver without checksums sees the sky and has the right baud
rate, so its remedy names neither the antenna nor the baud rate.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

Reason = Literal[
    "no-checksum",
    "bad-checksum",
    "ais",
    "text",
    "proprietary",
    "no-position",
    "bad-position",
    "no-time",
    "no-date",
    "old-date",
    "future-date",
]


class Diagnosis(NamedTuple):
    """What is wrong, and what to do about it."""

    reason: Reason
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}"


# Each remedy fits every kind of source: commands can be sent on serial ports and tcp:// only.
_HOW = "with its maker's program, or on a serial port or tcp:// by gps.on_connect"
_SWITCH_ON = f"switch its RMC and GGA sentences on, {_HOW} (docs/receivers.md)"
_CLOCK = (
    "with the system clock synchronised (`sudo timedatectl set-ntp true`) the day is taken from it "
    "after a minute"
)
_OTHER = "name a GNSS receiver in gps.source (docs/receivers.md)"
_WAIT = "wait until it has received satellites for some minutes; if that does not help"
_DAMAGE = "because a damaged digit could not be detected"
_THAT_WRITES = (
    "that writes its sentences: after a * two hex digits, the XOR of all characters between $ and *"
)

_TEXTS: dict[Reason, tuple[str, str]] = {
    "no-checksum": (
        f"sentences without a checksum, which are not used, {_DAMAGE}",
        f"switch the checksum on in the receiver, or in the program or sketch {_THAT_WRITES}",
    ),
    "bad-checksum": (
        "sentences with wrong checksums only, which are not used",
        f"check the receiver's cable, or correct the program or sketch {_THAT_WRITES}",
    ),
    "ais": ("AIS messages only, which are not used", _OTHER),
    "text": ("text that is not NMEA", f"switch its NMEA output on, or {_OTHER}"),
    "proprietary": ("proprietary sentences only ({names})", _SWITCH_ON),
    "no-position": ("no sentence with a position", _SWITCH_ON),
    "bad-position": (
        "positions that cannot be read",
        "correct their program: degrees and minutes with a point, as in 4807.038,N,01131.000,E",
    ),
    "no-time": ("positions without a time of day", f"{_WAIT}, {_SWITCH_ON}"),
    "no-date": (
        "positions, but no date",
        f"switch its RMC or ZDA sentence on, {_HOW}; {_CLOCK}",
    ),
    "old-date": (
        "a date too far in the past to be true; it is not used",
        f"{_WAIT}, its week counter rolled over: update its firmware, or replace it; {_CLOCK}",
    ),
    "future-date": (
        "a date more than ten years ahead; it is not used",
        f"{_WAIT}, update its firmware, or replace it; {_CLOCK}",
    ),
}


def diagnosis(reason: Reason, names: Iterable[str] = ()) -> Diagnosis:
    """The text for a reason; ``names`` are those of the sentences that came instead."""
    message, remedy = _TEXTS[reason]
    return Diagnosis(
        reason, "the receiver sends " + message.format(names=" ".join(sorted(names))), remedy
    )
