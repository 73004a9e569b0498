"""Commands to a receiver: their form in the config, their bytes, and when they are sent.

They are sent after each open, and again when the receiver reports a start: most receivers lose
their settings without power.
"""

import logging
import re
from collections.abc import Sequence

from telemetry_agent.clock import Clock
from telemetry_agent.gnss.sources.protocols import nmea_sentence, ubx_checksum

_SENTENCE = re.compile(r"\$([ -#%-)+-~]+)(?:\*([0-9A-Fa-f]{2}))?")
# u-blox, MediaTek and SiRF receivers send this once, when they start.
_STARTED = re.compile(
    rb"\$(?:G.TXT,\d+,\d+,\d+,u-blox AG|PMTK010,001\*|PSRF150,1\*)", re.IGNORECASE
)
_LONGEST_MARK = 32
_EVERY_S = 10.0  # a command that restarts the receiver must not cause an endless loop

_log = logging.getLogger(__name__)


def command_bytes(text: str) -> bytes:
    """Return the bytes of ``$PMTK220,200`` (adds checksum and line end) or ``ubx:06 08 …``.

    ``ubx:`` is followed by class, id, length and payload in hex, as u-center and the manuals show
    them; the two sync bytes and the checksum are added.

    Raises:
        ValueError: the text is not such a command; says why.
    """
    if text.startswith("ubx:"):
        return _ubx(text.removeprefix("ubx:"))
    match = _SENTENCE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'{text!r} must be like "$PMTK220,200" or "ubx:06 08 06 00 C8 00 …"')
    sentence = nmea_sentence(match[1])
    if match[2] and match[2].upper().encode() != sentence[-4:-2]:
        raise ValueError(f"{text!r} has a wrong checksum: leave it out, it is added")
    return sentence


def _ubx(digits: str) -> bytes:
    try:
        body = bytes.fromhex(digits)
    except ValueError:
        raise ValueError(f"ubx:{digits} must be bytes in hex, such as ubx:06 08 …") from None
    if body.startswith(b"\xb5\x62"):
        raise ValueError(f"ubx:{digits}: leave out the sync bytes B5 62 and the checksum")
    declared, actual = int.from_bytes(body[2:4], "little"), len(body) - 4
    if declared != actual:
        raise ValueError(
            f"ubx:{digits} must hold class, id, length (2 bytes) and payload: "
            f"its length says {declared} bytes of payload, {max(actual, 0)} follow"
        )
    return b"\xb5\x62" + body + ubx_checksum(body)


class OnConnect:
    """Decides when a source must send its commands.

    Args:
        name: of the receiver in messages.
        commands: the bytes of each.
        clock: limits how often they are sent.
    """

    def __init__(self, name: str, commands: Sequence[bytes], clock: Clock) -> None:
        self._name = name
        self._commands = commands
        self._clock = clock
        self._tail = b""
        self._sent_s = float("-inf")

    def opened(self) -> Sequence[bytes]:
        """Return what to send after an open."""
        self._sent_s = self._clock.monotonic_s()
        return self._commands

    def heard(self, data: bytes) -> Sequence[bytes]:
        """Return what to send after these bytes: all commands if the receiver has just started."""
        if not self._commands:
            return ()
        text = self._tail + data
        starts = list(_STARTED.finditer(text))
        # A mark that was seen must not be found again together with the next bytes.
        self._tail = (text[starts[-1].end() :] if starts else text)[-_LONGEST_MARK:]
        if not starts or self._clock.monotonic_s() - self._sent_s < _EVERY_S:
            return ()
        self._sent_s = self._clock.monotonic_s()
        _log.info("%s has restarted: sending gps.on_connect again", self._name)
        return self._commands
