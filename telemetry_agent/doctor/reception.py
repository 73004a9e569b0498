"""Listens to a receiver for some seconds, and judges what came.

Most receivers send once a second, some every eight seconds. So the limit is long, and listening
ends earlier if the result is clear: after some seconds of positions, or of bytes that are not text.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from telemetry_agent.clock import Clock, span
from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.fields import rfc3339
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.diagnosis import diagnosis
from telemetry_agent.gnss.framing import MAX_SENTENCE, Framer
from telemetry_agent.gnss.sources import EndOfSourceError, Source
from telemetry_agent.gnss.sources.protocols import protocol, unreadable
from telemetry_agent.model import Fix
from telemetry_agent.snapshot import ReceiverView

LISTENED = ("sentences", "line load", "antenna", "fix", "clock")

_READ_S = 0.25
_PAUSE_S = 0.2  # between the bursts of a receiver that sends all sentences at once
_UNREADABLE_S = 1.2
_KEPT_BYTES = 4096
_DAMAGED_SHARE = 0.02
_HIGH_LOAD = 0.85
_STRONG_DB = 30
_SATELLITES_FOR_A_FIX = 4
_NOT_MEASURED = {"estimated", "manual", "simulated"}
_CLOCK_OFF_MS = 30_000


@dataclass(frozen=True)
class Patience:
    """How long to listen."""

    silent_s: float = 8.5
    """For the first byte."""
    position_s: float = 3.0
    """From the first byte on, if positions come."""
    none_s: float = 5.0
    """The same without positions: a receiver may take several epochs to report its satellites."""


@dataclass
class Heard:
    """What came in."""

    decoder: Decoder
    types: Counter[str] = field(default_factory=Counter)
    """Sentences by the three letters of their type."""
    bytes_by_type: Counter[str] = field(default_factory=Counter)
    unread: bytes = b""
    """The last bytes, if no sentence was found in any."""
    fix: Fix | None = None
    """The last one."""
    behind_ms: int | None = None
    """By how much the system clock was behind the last fix when that came."""
    _bursts: list[list[float]] = field(default_factory=list)  # [start, last byte, bytes]

    @property
    def bytes_per_s(self) -> float:
        """The data rate: bursts are counted from the start of one to the start of the next."""
        first, last = self._bursts[0], self._bursts[-1]
        if len(self._bursts) > 1:
            return sum(burst[2] for burst in self._bursts[:-1]) / (last[0] - first[0])
        return first[2] / max(1.0, first[1] - first[0])

    def add(self, data: bytes, now_s: float, wall_ms: int) -> None:
        """Decode some bytes."""
        if self._bursts and now_s - self._bursts[-1][1] < _PAUSE_S:
            self._bursts[-1][1] = now_s
            self._bursts[-1][2] += len(data)
        else:
            self._bursts.append([now_s, now_s, len(data)])
        self.add_fixes(self.decoder.feed(data, now_s), wall_ms)

    def add_fixes(self, fixes: list[Fix], wall_ms: int) -> None:
        """Keep the last of some fixes."""
        for fix in fixes:
            self.fix, self.behind_ms = fix, fix.time_ms - wall_ms


def hear(source: Source, decoder: Decoder, patience: Patience, clock: Clock) -> Heard:
    """Listen to an open source.

    Raises:
        SourceError: it went away.
    """
    heard = Heard(decoder)
    framer = Framer()
    began_s = now_s = clock.monotonic_s()
    first_s: float | None = None
    while not _is_clear(heard, None if first_s is None else now_s - first_s, patience):
        if first_s is None and now_s - began_s >= patience.silent_s:
            break
        try:
            data = source.read(_READ_S)
        except EndOfSourceError:
            break
        now_s = clock.monotonic_s()
        if not data:
            heard.add_fixes(decoder.tick(now_s), clock.wall_ms())
            continue
        first_s = now_s if first_s is None else first_s
        heard.add(data, now_s, clock.wall_ms())
        for sentence in framer.feed(data):
            kind = sentence[:5] if sentence.startswith("P") else sentence[2:5]
            heard.types[kind] += 1
            heard.bytes_by_type[kind] += len(sentence) + len("$*00\r\n")
        heard.unread = b"" if heard.types else (heard.unread + data)[-_KEPT_BYTES:]
    heard.add_fixes(decoder.finish(), clock.wall_ms())
    return heard


def _is_clear(heard: Heard, since_first_s: float | None, patience: Patience) -> bool:
    if since_first_s is None:
        return False
    if not heard.types:
        unclear = len(heard.unread) <= MAX_SENTENCE or protocol(heard.unread)
        return since_first_s >= (patience.position_s if unclear else _UNREADABLE_S)
    return since_first_s >= (patience.position_s if heard.fix else patience.none_s)


def line_baud(source: Source) -> int | None:
    """The baud rate, if it limits what can come."""
    # A ttyACM is USB up to the receiver's chip, and a pty (`simulate`) no line: it has no effect.
    device = str(Path(source.name).resolve())
    return None if device.startswith(("/dev/ttyACM", "/dev/pts/")) else source.baud


def listened(source: Source, heard: Heard, clock: Clock) -> Iterator[Finding]:
    """A finding for each of ``LISTENED``; ``clock`` is compared with GNSS time."""
    baud = line_baud(source)
    if not heard.types:
        yield _unheard(source, heard)
        return
    yield _sentences(heard, baud)
    yield _line_load(heard, baud)
    yield antenna(heard.decoder.antenna)
    yield _fix(heard)
    if source.live:
        yield _clock(heard, clock)
    else:
        yield skipped("clock", "a recording has no current time")


def _unheard(source: Source, heard: Heard) -> Finding:
    found = unreadable(heard.unread) if heard.unread else "silent"
    if found == "no-checksum":
        why = diagnosis(found)
        return failed("sentences", why.message, why.remedy)
    return failed("sentences", *source.advice(found, heard.unread))


def _sentences(heard: Heard, baud: int | None) -> Finding:
    count = sum(heard.types.values())
    kinds = " ".join(sorted(heard.types))
    speed = f" at {baud} baud" if baud else ""
    damaged = sum(heard.decoder.counts[kind] for kind in ("bad-checksum", "aborted", "too-long"))
    damaged = max(0, damaged - 1)  # the first one was cut: listening began in it
    if damaged > _DAMAGED_SHARE * (count + damaged):
        said = f"{damaged} of {count + damaged} sentences arrive damaged{speed}"
        remedy = (
            "check cable, ground and power; use a shorter or shielded cable, or a lower baud rate"
        )
        return warned("sentences", said, remedy)
    return passed("sentences", f"{count} received{speed}: {kinds}")


def _line_load(heard: Heard, baud: int | None) -> Finding:
    name = "line load"
    if heard.decoder.counts["receiver-overflow"]:
        return _overloaded("the receiver reports that its buffer overflows", heard)
    if baud is None:
        return skipped(name, "no serial line with a known baud rate")
    load = heard.bytes_per_s * 10 / baud  # a byte takes ten bits
    said = f"{load:.0%} of {baud} baud"
    return passed(name, said) if load < _HIGH_LOAD else _overloaded(said, heard)


def _overloaded(said: str, heard: Heard) -> Finding:
    most, amount = heard.bytes_by_type.most_common(1)[0]
    share = amount / sum(heard.bytes_by_type.values())
    advice = "raise the receiver's baud rate, or switch sentences off"
    return warned("line load", said, f"{advice} ({most} is {share:.0%} of the data)")


def antenna(state: str | None) -> Finding:
    """``antenna``, by the state that the receiver reports."""
    match state:
        case "OPEN":
            remedy = "plug the antenna in; if it is, its cable or connector is broken"
            return failed("antenna", "the receiver sees no antenna", remedy)
        case "SHORT":
            remedy = "unplug it, look for water and a crushed cable, replace it"
            return failed("antenna", "the antenna's cable has a short circuit", remedy)
        case None | "INIT" | "DONTKNOW" | "UNKNOWN":
            return skipped("antenna", "the receiver does not report it")
        case _:
            return passed("antenna", f"the receiver reports {state}")


def _fix(heard: Heard) -> Finding:
    decoder = heard.decoder
    if heard.fix is None:
        if why := decoder.diagnosis:
            return failed("fix", why.message, why.remedy)
        signals = [satellite.snr_db or 0 for satellite in decoder.sky().satellites]
        return no_fix(signals, reports_satellites="GSV" in heard.types)
    said = _words(heard.fix)
    if decoder.datum is not None:
        said += f", in the datum {decoder.datum}: it may be off by hundreds of metres"
        return warned("fix", said, "set the receiver to WGS 84")
    return measured(said, heard.fix.quality)


def reported(receiver: ReceiverView) -> Finding:
    """``fix``, by the agent's status."""
    state = receiver.state
    if state in {"2d", "3d"}:
        return passed("fix", f"{state.upper()}, by the agent's status")
    if receiver.message is not None:
        return failed("fix", receiver.message, receiver.remedy or "")
    return failed("fix", f"none: the receiver is {state}, by the agent's status", "use sudo")


def _words(fix: Fix) -> str:
    said = [f"{fix.mode}D"]
    if fix.sats is not None:
        said.append(f"{fix.sats} satellites")
    if fix.hdop_e2 is not None:
        said.append(f"HDOP {fix.hdop_e2 / 100:g}")
    return ", ".join(said)


def measured(said: str, quality: str | None) -> Finding:
    """``fix``, if there is a position: was it measured."""
    if quality not in _NOT_MEASURED:
        return passed("fix", said)
    remedy = "wait for open sky; if it stays so, drop such positions with sampling.drop_quality"
    return warned("fix", f"{said}, but {quality}", remedy)


def no_fix(signals: Sequence[float], *, reports_satellites: bool) -> Finding:
    """``fix``, if there is no position.

    Args:
        signals: of the satellites in view, in dB-Hz; 0: not heard.
        reports_satellites: whether the receiver sends them at all.
    """
    heard_db = sorted((snr for snr in signals if snr), reverse=True)
    strong = sum(snr >= _STRONG_DB for snr in heard_db)
    if strong >= _SATELLITES_FOR_A_FIX:
        return warned(
            "fix",
            f"none yet: {strong} satellites have a strong signal (best {heard_db[0]} dB-Hz)",
            "wait: a receiver needs up to 1 minute after power-on, up to 15 after long storage",
        )
    remedy = (
        f"move the antenna under open sky; it needs {_SATELLITES_FOR_A_FIX} satellites above "
        f"{_STRONG_DB} dB-Hz"
    )
    if heard_db:
        said = f"{len(heard_db)} satellites are heard, the best at {heard_db[0]} dB-Hz"
    else:
        said = "the receiver does not report satellites"
        if reports_satellites:
            said = "no satellite is heard"
        remedy += "; if none is heard at all, the antenna is often unplugged"
    return failed("fix", f"none: {said}", remedy)


def _clock(heard: Heard, clock: Clock) -> Finding:
    if heard.fix is None or heard.behind_ms is None or "date" in heard.fix.flags:
        return skipped("clock", "no GNSS time to compare with")
    off_ms = abs(heard.behind_ms)
    if off_ms < _CLOCK_OFF_MS:
        return passed("clock", f"the system clock differs from GNSS time by {off_ms / 1000:.0f} s")
    gap, gnss = span(off_ms / 1000), rfc3339(heard.fix.time_ms)
    direction = "behind" if heard.behind_ms > 0 else "ahead of"
    if clock.synchronised():
        said = f"the synchronised system clock is {gap} {direction} GNSS time ({gnss})"
        remedy = "the receiver's date may have rolled over: update its firmware, or replace it"
    else:
        said = (
            f"the system clock is {gap} {direction} GNSS time ({gnss}); positions carry GNSS time, "
            "but certificates are checked against the system clock"
        )
        remedy = "`sudo timedatectl set-ntp true`, or give the machine a battery clock"
    return warned("clock", said, remedy)
