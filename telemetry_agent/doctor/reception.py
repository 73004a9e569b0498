"""Listens to a receiver for some seconds, and judges what came.

Most receivers send once a second, some every eight seconds. So the limit is long, and listening
ends earlier if the result is clear: after some seconds of positions, or of unreadable bytes.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from telemetry_agent.clock import Clock, span
from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.errors import Advice, SourceError, counted
from telemetry_agent.fields import rfc3339
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.diagnosis import Diagnosis
from telemetry_agent.gnss.framing import Framer
from telemetry_agent.gnss.sources import EndOfSourceError, ForbiddenError, Source
from telemetry_agent.gnss.sources.protocols import unreadable
from telemetry_agent.model import Fix, ReceiverState
from telemetry_agent.snapshot import ReceiverView

LISTENED = ("sentences", "line load", "antenna", "fix", "clock")

_READ_S = 0.25
_PAUSE_S = 0.2  # between the bursts of a receiver that sends all sentences at once
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
    """From the first byte on, if positions or unreadable bytes come."""
    none_s: float = 5.0
    """The same without positions: a receiver may take several epochs to report its satellites."""


class Reception:
    """Listens, and judges what came.

    Args:
        name: of the source.
        baud: of its line, if it is one.
        clock: compared with GNSS time.
        live: whether the positions are current.
    """

    def __init__(self, name: str, baud: int | None, clock: Clock, *, live: bool) -> None:
        self._baud = line_baud(name, baud)
        self.decoder = Decoder(
            wall_clock=lambda: clock.wall_ms() if clock.synchronised() else None,
            fix_rollover=live,
            baud=self._baud,
        )
        self.fix: Fix | None = None
        """The last one."""
        self.bytes_by_type: Counter[str] = Counter()
        """Of the sentences, by the three letters of their type."""
        self._clock = clock
        self._live = live
        self._behind_ms = 0  # the system clock behind the last fix when that came
        self._framer = Framer()
        self._unread = b""  # the last bytes, if no sentence was found in any
        self._bytes = 0
        self._bursts: list[tuple[float, int]] = []  # when each began, and the bytes before it
        self._last_s = 0.0

    def listen(self, read: Callable[[float], bytes], patience: Patience) -> None:
        """Listen until the result is clear; ``read``: as ``Source.read``.

        Raises:
            AgentError: the source went away.
        """
        now_s = self._clock.monotonic_s()
        until_s = now_s + patience.silent_s
        while now_s < until_s:
            try:
                data = read(_READ_S)
            except EndOfSourceError:
                break
            now_s = self._clock.monotonic_s()
            if data:
                self._add(data, now_s)
            self._keep([*self.decoder.feed(data, now_s), *self.decoder.tick(now_s)])
            if self._bursts:
                is_clear = self.fix is not None or not self.bytes_by_type
                until_s = self._bursts[0][0] + (
                    patience.position_s if is_clear else patience.none_s
                )
        self._keep(self.decoder.finish())

    def _add(self, data: bytes, now_s: float) -> None:
        if not self._bursts or now_s - self._last_s >= _PAUSE_S:
            self._bursts.append((now_s, self._bytes))
        self._last_s = now_s
        self._bytes += len(data)
        for sentence in self._framer.feed(data):
            kind = sentence[:5] if sentence.startswith("P") else sentence[2:5]
            self.bytes_by_type[kind] += len(sentence) + len("$*00\r\n")
        self._unread = b"" if self.bytes_by_type else (self._unread + data)[-_KEPT_BYTES:]

    def _keep(self, fixes: list[Fix]) -> None:
        for fix in fixes:
            self.fix, self._behind_ms = fix, fix.time_ms - self._clock.wall_ms()

    def findings(
        self,
        advice: Callable[[ReceiverState, bytes], Advice],
        antenna_before: str | None = None,
    ) -> Iterator[Finding]:
        """A finding for each of ``LISTENED``.

        Args:
            advice: as ``Source.advice``.
            antenna_before: what the receiver reported of its antenna before.
        """
        if not self.bytes_by_type:
            found = unreadable(self._unread) if self._unread else "silent"
            known = found if isinstance(found, Diagnosis) else advice(found, self._unread)
            yield failed(known.message, known.remedy)
            return
        yield self._sentences()
        yield self._line_load()
        yield antenna(self.decoder.antenna or antenna_before)
        yield self._fix()
        yield self._gnss_time() if self._live else skipped("a recording has no current time")

    def _sentences(self) -> Finding:
        count, counts = self.decoder.sentences, self.decoder.counts
        speed = f" at {self._baud} baud" if self._baud else ""
        damaged = sum(counts[kind] for kind in ("bad-checksum", "aborted"))
        damaged = max(0, damaged - 1)  # the first one was cut: listening began in it
        total = count + damaged
        if damaged > _DAMAGED_SHARE * total:
            arrive = counted(total, "sentence arrives", "sentences arrive")
            return warned(
                f"{damaged:,} of {arrive} damaged{speed}",
                "check the receiver's cable, ground and power; use a shorter or shielded cable, or "
                "a lower baud rate",
            )
        return passed(f"{count} received{speed}: {' '.join(sorted(self.bytes_by_type))}")

    def _line_load(self) -> Finding:
        if self.decoder.counts["receiver-overflow"]:
            said = "the receiver reports that its buffer overflows"
        elif self._baud is None:
            return skipped("no serial line with a known baud rate")
        else:
            load = self._bytes_per_s() * 10 / self._baud  # a byte takes ten bits
            said = f"{load:.0%} of {self._baud} baud"
            if load < _HIGH_LOAD:
                return passed(said)
        most, amount = self.bytes_by_type.most_common(1)[0]
        share = amount / self.bytes_by_type.total()
        advice = "raise the receiver's baud rate, or switch sentences off"
        return warned(said, f"{advice} ({most} is {share:.0%} of the data)")

    def _fix(self) -> Finding:
        decoder, fix = self.decoder, self.fix
        if fix is None:
            if why := decoder.diagnosis:
                return failed(why.message, why.remedy)
            signals = [satellite.snr_db or 0 for satellite in decoder.satellites()]
            return no_fix(signals, reports_satellites="GSV" in self.bytes_by_type)
        said = f"{fix.mode}D"
        if fix.sats is not None:
            said += f", {counted(fix.sats, 'satellite')}"
        if fix.hdop_e2 is not None:
            said += f", HDOP {fix.hdop_e2 / 100:g}"
        if decoder.datum is not None:
            said += f", in the datum {decoder.datum}: it may be off by hundreds of metres"
            return warned(said, "set the receiver to WGS 84")
        return measured(said, fix.quality)

    def _gnss_time(self) -> Finding:
        if self.fix is None or "date" in self.fix.flags:
            return skipped("no GNSS time to compare with")
        off_ms = abs(self._behind_ms)
        if off_ms < _CLOCK_OFF_MS:
            return passed(f"the system clock differs from GNSS time by {off_ms / 1000:.0f} s")
        gap, gnss = span(off_ms / 1000), rfc3339(self.fix.time_ms)
        direction = "behind" if self._behind_ms > 0 else "ahead of"
        if self._clock.synchronised():
            return warned(
                f"the synchronised system clock is {gap} {direction} GNSS time ({gnss})",
                "the receiver's date may have rolled over: update its firmware, or replace it",
            )
        return warned(
            f"the system clock is {gap} {direction} GNSS time ({gnss}); positions carry GNSS time, "
            "but certificates are checked against the system clock",
            "`sudo timedatectl set-ntp true`, or give the machine a battery clock",
        )

    def _bytes_per_s(self) -> float:
        """Bursts are counted from the start of one to the start of the next."""
        (first_s, _), (last_s, before) = self._bursts[0], self._bursts[-1]
        if len(self._bursts) > 1:
            return before / (last_s - first_s)
        return self._bytes / max(1.0, self._last_s - first_s)


def listened(source: Source, clock: Clock, patience: Patience) -> Iterator[Finding]:
    """Open a source, listen to it, and close it: a finding for each of ``LISTENED``."""
    with contextlib.closing(source):
        try:
            source.open()
            heard = Reception(source.name, source.baud, clock, live=source.live)
            heard.listen(source.read, patience)
        except SourceError as error:
            if isinstance(error, ForbiddenError) and os.geteuid():  # the agent's user may read it
                yield warned(f"not listened to: {error.message}", "use sudo")
            else:
                yield failed(error.message, error.remedy or "see the check of the device")
            return
    yield from heard.findings(source.advice)


def line_baud(name: str, baud: int | None) -> int | None:
    """The baud rate of the source ``name``, if it limits what can come."""
    # A ttyACM is USB up to the receiver's chip, and a pty (`simulate`) no line: it has no effect.
    device = str(Path(name).resolve())
    return None if device.startswith(("/dev/ttyACM", "/dev/pts/")) else baud


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
        have = counted(strong, "satellite has", "satellites have")
        return warned(
            f"none yet: {have} a strong signal (best {heard_db[0]} dB-Hz)",
            "wait: a receiver needs up to 1 minute after power-on, up to 15 after long storage",
        )
    remedy = (
        f"move the antenna under open sky; it needs {_SATELLITES_FOR_A_FIX} satellites above "
        f"{_STRONG_DB} dB-Hz"
    )
    if heard_db:
        heard = counted(len(heard_db), "satellite is heard", "satellites are heard")
        said = f"{heard}, the best at {heard_db[0]} dB-Hz"
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
                receiver.remedy or "check the receiver, its connection and power, and gps.source",
            )
