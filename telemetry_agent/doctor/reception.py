"""Listens to a receiver for some seconds, and judges what came.

Most receivers send once a second, some every eight seconds. So the limit is long, and listening
ends earlier if the result is clear: after some seconds of positions, or of bytes that are not text.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from telemetry_agent.clock import Clock, span
from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.errors import Advice
from telemetry_agent.fields import rfc3339
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.diagnosis import diagnosis
from telemetry_agent.gnss.framing import MAX_SENTENCE, Framer
from telemetry_agent.gnss.sources import EndOfSourceError
from telemetry_agent.gnss.sources.protocols import protocol, unreadable
from telemetry_agent.model import Fix, ReceiverState
from telemetry_agent.snapshot import ReceiverView

LISTENED = ("sentences", "line load", "antenna", "fix", "clock")

READ_S = 0.25
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


class Heard:
    """What came in.

    Args:
        decoder: decodes it.
        baud: of the line, if it limits what can come.
    """

    def __init__(self, decoder: Decoder, baud: int | None) -> None:
        self.decoder = decoder
        self.baud = baud
        self.bytes_by_type: Counter[str] = Counter()
        """Of the sentences, by the three letters of their type."""
        self.unread = b""
        """The last bytes, if no sentence was found in any."""
        self.fix: Fix | None = None
        """The last one."""
        self.behind_ms = 0
        """By how much the system clock was behind the last fix when that came."""
        self._framer = Framer()
        self._bytes = 0
        self._bursts: list[tuple[float, int]] = []  # when each began, and the bytes before it
        self._last_s = 0.0

    @property
    def bytes_per_s(self) -> float:
        """The data rate: bursts are counted from the start of one to the start of the next."""
        (first_s, _), (last_s, before) = self._bursts[0], self._bursts[-1]
        if len(self._bursts) > 1:
            return before / (last_s - first_s)
        return self._bytes / max(1.0, self._last_s - first_s)

    def add(self, data: bytes, now_s: float, wall_ms: int) -> None:
        """Decode some bytes."""
        if not self._bursts or now_s - self._last_s >= _PAUSE_S:
            self._bursts.append((now_s, self._bytes))
        self._last_s = now_s
        self._bytes += len(data)
        self.add_fixes(self.decoder.feed(data, now_s), wall_ms)
        for sentence in self._framer.feed(data):
            kind = sentence[:5] if sentence.startswith("P") else sentence[2:5]
            self.bytes_by_type[kind] += len(sentence) + len("$*00\r\n")
        self.unread = b"" if self.bytes_by_type else (self.unread + data)[-_KEPT_BYTES:]

    def add_fixes(self, fixes: list[Fix], wall_ms: int) -> None:
        """Keep the last of some fixes."""
        for fix in fixes:
            self.fix, self.behind_ms = fix, fix.time_ms - wall_ms

    def enough_s(self, patience: Patience) -> float:
        """How long after the first byte the result is clear."""
        if self.bytes_by_type:
            return patience.position_s if self.fix else patience.none_s
        unclear = len(self.unread) <= MAX_SENTENCE or protocol(self.unread)
        return patience.position_s if unclear else _UNREADABLE_S


def hear(read: Callable[[float], bytes], heard: Heard, patience: Patience, clock: Clock) -> Heard:
    """Listen until the result is clear.

    Args:
        read: as ``Source.read``.
        heard: takes what comes.
        patience: how long to listen.
        clock: measures that.

    Raises:
        AgentError: the source went away.
    """
    now_s = clock.monotonic_s()
    until_s = now_s + patience.silent_s
    first_s: float | None = None
    while now_s < until_s:
        try:
            data = read(READ_S)
        except EndOfSourceError:
            break
        now_s = clock.monotonic_s()
        if data:
            first_s = now_s if first_s is None else first_s
            heard.add(data, now_s, clock.wall_ms())
        else:
            heard.add_fixes(heard.decoder.tick(now_s), clock.wall_ms())
        if first_s is not None:
            until_s = first_s + heard.enough_s(patience)
    heard.add_fixes(heard.decoder.finish(), clock.wall_ms())
    return heard


def line_baud(name: str, baud: int | None) -> int | None:
    """The baud rate of the source ``name``, if it limits what can come."""
    # A ttyACM is USB up to the receiver's chip, and a pty (`simulate`) no line: it has no effect.
    device = str(Path(name).resolve())
    return None if device.startswith(("/dev/ttyACM", "/dev/pts/")) else baud


def listened(
    heard: Heard,
    advice: Callable[[ReceiverState, bytes], Advice],
    clock: Clock,
    *,
    live: bool,
) -> Iterator[Finding]:
    """A finding for each of ``LISTENED``.

    Args:
        heard: what came.
        advice: as ``Source.advice``.
        clock: compared with GNSS time.
        live: whether the positions are current.
    """
    if not heard.bytes_by_type:
        found = unreadable(heard.unread) if heard.unread else "silent"
        known = diagnosis(found) if found == "no-checksum" else advice(found, heard.unread)
        yield failed(known.message, known.remedy)
        return
    yield _sentences(heard)
    yield _line_load(heard)
    yield antenna(heard.decoder.antenna)
    yield _fix(heard)
    yield _clock(heard, clock) if live else skipped("a recording has no current time")


def _sentences(heard: Heard) -> Finding:
    count, counts = heard.decoder.sentences, heard.decoder.counts
    speed = f" at {heard.baud} baud" if heard.baud else ""
    damaged = sum(counts[kind] for kind in ("bad-checksum", "aborted", "too-long"))
    damaged = max(0, damaged - 1)  # the first one was cut: listening began in it
    if damaged > _DAMAGED_SHARE * (count + damaged):
        return warned(
            f"{damaged} of {count + damaged} sentences arrive damaged{speed}",
            "check cable, ground and power; use a shorter or shielded cable, or a lower baud rate",
        )
    return passed(f"{count} received{speed}: {' '.join(sorted(heard.bytes_by_type))}")


def _line_load(heard: Heard) -> Finding:
    if heard.decoder.counts["receiver-overflow"]:
        said = "the receiver reports that its buffer overflows"
    elif heard.baud is None:
        return skipped("no serial line with a known baud rate")
    else:
        load = heard.bytes_per_s * 10 / heard.baud  # a byte takes ten bits
        said = f"{load:.0%} of {heard.baud} baud"
        if load < _HIGH_LOAD:
            return passed(said)
    most, amount = heard.bytes_by_type.most_common(1)[0]
    share = amount / heard.bytes_by_type.total()
    advice = "raise the receiver's baud rate, or switch sentences off"
    return warned(said, f"{advice} ({most} is {share:.0%} of the data)")


def antenna(state: str | None) -> Finding:
    """``antenna``, by the state that the receiver reports."""
    match state:
        case "OPEN":
            remedy = "plug the antenna in; if it is, its cable or connector is broken"
            return failed("the receiver sees no antenna", remedy)
        case "SHORT":
            remedy = "unplug it, look for water and a crushed cable, replace it"
            return failed("the antenna's cable has a short circuit", remedy)
        case None | "INIT" | "DONTKNOW" | "UNKNOWN":
            return skipped("the receiver does not report it")
        case _:
            return passed(f"the receiver reports {state}")


def _fix(heard: Heard) -> Finding:
    decoder, fix = heard.decoder, heard.fix
    if fix is None:
        if why := decoder.diagnosis:
            return failed(why.message, why.remedy)
        signals = [satellite.snr_db or 0 for satellite in decoder.sky().satellites]
        return no_fix(signals, reports_satellites="GSV" in heard.bytes_by_type)
    said = f"{fix.mode}D"
    if fix.sats is not None:
        said += f", {fix.sats} satellites"
    if fix.hdop_e2 is not None:
        said += f", HDOP {fix.hdop_e2 / 100:g}"
    if decoder.datum is not None:
        said += f", in the datum {decoder.datum}: it may be off by hundreds of metres"
        return warned(said, "set the receiver to WGS 84")
    return measured(said, fix.quality)


def measured(said: str, quality: str | None) -> Finding:
    """``fix``, if there is a position: was it measured."""
    if quality not in _NOT_MEASURED:
        return passed(said)
    remedy = "wait for open sky; if it stays so, drop such positions with sampling.drop_quality"
    return warned(f"{said}, but {quality}", remedy)


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
    return failed(f"none: {said}", remedy)


def reported(receiver: ReceiverView) -> tuple[str, Finding]:
    """What the agent's status says of the receiver, with the name of the check that would."""
    match receiver.state:
        case "2d" | "3d" as state:
            return "fix", measured(state.upper(), receiver.quality)
        case "no-fix" | "no-date" if receiver.message:
            return "fix", failed(receiver.message, receiver.remedy or "")
        case "no-fix":
            signals = [one.snr_db or 0 for one in receiver.satellites]
            return "fix", no_fix(signals, reports_satellites=True)
        case "no-date":
            said = "the receiver sends positions, but no date"
            remedy = "wait until it has received satellites for some minutes"
            return "fix", failed(said, remedy)
        case state:
            name = "sentences" if state in {"silent", "wrong-baud", "binary"} else "device"
            return name, failed(
                receiver.message or f"{receiver.source} is {state}",
                receiver.remedy or "check the receiver's wiring and power, and gps.source",
            )


def _clock(heard: Heard, clock: Clock) -> Finding:
    if heard.fix is None or "date" in heard.fix.flags:
        return skipped("no GNSS time to compare with")
    off_ms = abs(heard.behind_ms)
    if off_ms < _CLOCK_OFF_MS:
        return passed(f"the system clock differs from GNSS time by {off_ms / 1000:.0f} s")
    gap, gnss = span(off_ms / 1000), rfc3339(heard.fix.time_ms)
    direction = "behind" if heard.behind_ms > 0 else "ahead of"
    if clock.synchronised():
        return warned(
            f"the synchronised system clock is {gap} {direction} GNSS time ({gnss})",
            "the receiver's date may have rolled over: update its firmware, or replace it",
        )
    return warned(
        f"the system clock is {gap} {direction} GNSS time ({gnss}); positions carry GNSS time, "
        "but certificates are checked against the system clock",
        "`sudo timedatectl set-ntp true`, or give the machine a battery clock",
    )
