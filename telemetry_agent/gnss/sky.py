"""The satellites in view.

Most sentences of a modern receiver are GSV, and a fix does not need them. So the last ones are kept
as they came, and read only on request. A series may take several epochs.

A satellite is identified by its system and its number. Receivers number satellites in several ways
(a GLONASS satellite is 8 or 72, one of SBAS 36 or 123); here they get one number, so that a
satellite is the same in GSV, of any signal, and in GSA.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from telemetry_agent.gnss.epoch import Gsa
from telemetry_agent.gnss.framing import Sentence
from telemetry_agent.gnss.sentences import SYSTEM_IDS
from telemetry_agent.model import Constellation, Satellite

_STALE_S = 30.0
_KEPT = 200  # three epochs of all systems and signals

# By the system's id in GSA.
_SYSTEMS: dict[str, Constellation] = {
    "2": "GLONASS",
    "3": "Galileo",
    "4": "BeiDou",
    "5": "QZSS",
    "6": "NavIC",
}
# First number, last number, system, and what is added to its own numbers. Where two overlap, the
# talker decides; for a talker of all systems the first one counts.
_RANGES: tuple[tuple[int, int, Constellation, int], ...] = (
    (1, 32, "GPS", 0),
    (33, 64, "SBAS", -87),
    (65, 96, "GLONASS", 64),
    (120, 158, "SBAS", 0),
    (101, 136, "Galileo", 100),
    (193, 202, "QZSS", 192),
    (201, 263, "BeiDou", 200),
    (101, 163, "BeiDou", 100),
    (301, 336, "Galileo", 300),
    (401, 463, "BeiDou", 400),
)
_SIGNALS = frozenset("0123456789ABCDEF")


class InView:
    """Keeps the last GSV sentences. One thread may add some, any thread may read them."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, Sentence]] = deque(maxlen=_KEPT)
        self.keep = self._kept.append
        """Store the time of arrival and one GSV sentence of any talker."""

    def satellites(self, used: Iterable[Gsa], now_s: float) -> tuple[Satellite, ...]:
        """Each satellite once, with its best signal, by system and number.

        Args:
            used: the GSA of the last fix.
            now_s: when the last sentence came; much older ones are ignored.
        """
        in_use = {
            _identity(system, int(number))
            for gsa in used
            for system, number in gsa.satellites
            if number.isdecimal()
        }
        fresh = [sentence for heard_s, sentence in list(self._kept) if now_s - heard_s < _STALE_S]
        seen: dict[tuple[Constellation, int], Satellite] = {}
        for talker, sentences in _whole_series(fresh):
            for number, elevation_deg, azimuth_deg, snr_db in _groups(sentences):
                identity = _identity(talker, number)
                if identity is None:
                    continue
                before = seen.get(identity)
                if before is None or (snr_db or 0) > (before.snr_db or 0):
                    seen[identity] = Satellite(
                        *identity, elevation_deg, azimuth_deg, snr_db, identity in in_use
                    )
        return tuple(seen[identity] for identity in sorted(seen))


def _whole_series(sentences: list[Sentence]) -> Iterator[tuple[str, list[Sentence]]]:
    """The last whole series of each talker and signal."""
    begun: dict[str, list[Sentence]] = {}
    whole: dict[str, list[Sentence]] = {}
    last: dict[str, str] = {}  # talker -> its last key in ``begun``
    for sentence in sentences:
        number = (sentence[6:] + ",,").split(",", 2)[1]
        talker, key = sentence[:2], sentence[:2] + _signal(sentence)
        if talker not in SYSTEM_IDS or not number.isdecimal():
            continue
        place = int(number)
        # Most receivers number the sentences of each signal, others those of all signals together.
        if place > 1 and len(begun.get(key, ())) != place - 1:
            key = last.get(talker, key)
        last[talker] = key
        series = [*begun.pop(key, []), sentence] if place > 1 else [sentence]
        if len(series) != place:
            continue  # one is missing: wait for the next series
        # In the standard only the first sentence must have the total.
        total = series[0][6:].partition(",")[0]
        if total.isdecimal() and place == int(total):
            whole[key] = series
        else:
            begun[key] = series
    for key, series in whole.items():
        yield key[:2], series


def _signal(sentence: Sentence) -> str:
    """The signal's id, if there is one field more than four for each satellite."""
    signal = sentence[-1]
    return signal if sentence.count(",") % 4 == 0 and signal in _SIGNALS else ""


def _groups(sentences: list[Sentence]) -> Iterator[tuple[int, int | None, int | None, int | None]]:
    """Number, elevation, azimuth and signal to noise of each satellite."""
    for sentence in sentences:
        fields = sentence.split(",")
        for first in range(4, len(fields), 4):
            number, elevation, azimuth, snr, *_ = *fields[first : first + 4], "", "", ""
            if len(fields) - first > 1 and number.isdecimal() and number.strip("0"):
                yield (
                    int(number),
                    _at_most(90, elevation),
                    _at_most(360, azimuth),
                    _at_most(99, snr),
                )


def _at_most(most: int, text: str) -> int | None:
    whole = text.partition(".")[0]
    return int(whole) if whole.isdecimal() and len(whole) < 4 and int(whole) <= most else None


def _identity(source: str, number: int) -> tuple[Constellation, int] | None:
    """The satellite's system, and its number there; ``source`` is a talker, or an id in GSA."""
    own = _SYSTEMS.get(SYSTEM_IDS.get(source, source))
    for first, last, system, offset in _RANGES:
        if first <= number <= last and own in {None, system}:
            return system, number - offset
    return None if own is None or number > 64 else (own, number)
