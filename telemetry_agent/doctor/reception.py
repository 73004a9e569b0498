"""What was heard of a receiver, as findings."""

from collections.abc import Iterator, Sequence

from telemetry_agent.clock import Clock, span
from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.doctor.listening import Heard
from telemetry_agent.fields import rfc3339
from telemetry_agent.gnss.diagnosis import diagnosis
from telemetry_agent.gnss.sources import Source
from telemetry_agent.gnss.sources.protocols import unreadable
from telemetry_agent.model import Fix
from telemetry_agent.snapshot import ReceiverView

LISTENED = ("sentences", "line load", "antenna", "fix", "clock")

_DAMAGED_SHARE = 0.02
_HIGH_LOAD = 0.85
_STRONG_DB = 30
_SATELLITES_FOR_A_FIX = 4
_UNREAL = {"estimated", "manual", "simulated"}
_CLOCK_OFF_MS = 30_000


def listened(
    source: Source, heard: Heard, baud: int | None, clock: Clock, *, live: bool
) -> Iterator[Finding]:
    """A finding for each of ``LISTENED``.

    Args:
        source: what was listened to.
        heard: what came.
        baud: the speed of the line, where that limits what can come.
        clock: what GNSS time is compared with.
        live: whether it was a receiver; the times of a recording are long ago.
    """
    if not heard.types:
        yield _unheard(source, heard)
        return
    yield _sentences(heard, baud)
    yield _line_load(heard, baud)
    yield antenna(heard.decoder.antenna)
    yield _fix(heard)
    yield _clock(heard, clock) if live else skipped("clock", "a recording has no current time")


def _unheard(source: Source, heard: Heard) -> Finding:
    found = unreadable(heard.unread) if heard.anything else "silent"
    if found == "no-checksum":
        why = diagnosis(found)
        return failed("sentences", why.message, why.remedy)
    return failed("sentences", *source.advice(found, heard.unread))


def _sentences(heard: Heard, baud: int | None) -> Finding:
    count = sum(heard.types.values())
    kinds = " ".join(sorted(heard.types))
    speed = f" at {baud} baud" if baud else ""
    damaged = sum(heard.decoder.counts[kind] for kind in ("bad-checksum", "aborted", "too-long"))
    damaged = max(0, damaged - 1)  # the first is cut by our coming in
    if damaged > _DAMAGED_SHARE * (count + damaged):
        said = f"{damaged} of {count + damaged} sentences arrive damaged{speed}"
        remedy = "check cable, ground and power; a shorter or shielded cable, or a lower baud rate"
        return warned("sentences", said, remedy)
    return passed("sentences", f"{count} heard{speed}: {kinds}")


def _line_load(heard: Heard, baud: int | None) -> Finding:
    name = "line load"
    if heard.decoder.counts["receiver-overflow"]:
        return _overloaded("the receiver says that its buffer overflows", heard)
    if baud is None:
        return skipped(name, "no serial line of known speed")
    load = heard.bytes_per_s * 10 / baud  # a byte takes ten bits
    said = f"{load:.0%} of {baud} baud"
    return passed(name, said) if load < _HIGH_LOAD else _overloaded(said, heard)


def _overloaded(said: str, heard: Heard) -> Finding:
    most, amount = heard.bytes_by_type.most_common(1)[0]
    share = amount / sum(heard.bytes_by_type.values())
    advice = "raise the receiver's baud rate, or switch sentences off"
    return warned("line load", said, f"{advice} ({most} is {share:.0%} of them)")


def antenna(told: str | None) -> Finding:
    """``antenna``, by what the receiver tells of it."""
    match told:
        case "OPEN":
            remedy = "plug the antenna in; if it is, its cable or connector is broken"
            return failed("antenna", "the receiver sees no antenna", remedy)
        case "SHORT":
            remedy = "unplug it, look for water and a crushed cable, replace it"
            return failed("antenna", "the antenna's cable has a short circuit", remedy)
        case None | "INIT" | "DONTKNOW" | "UNKNOWN":
            return skipped("antenna", "the receiver does not report it")
        case state:
            return passed("antenna", f"the receiver says {state}")


def _fix(heard: Heard) -> Finding:
    decoder = heard.decoder
    if heard.fix is None:
        if why := decoder.diagnosis:
            return failed("fix", why.message, why.remedy)
        signals = [satellite.snr_db or 0 for satellite in decoder.sky().satellites]
        return no_fix(signals, tells="GSV" in heard.types)
    said = _words(heard.fix)
    if decoder.datum is not None:
        said += f", in the datum {decoder.datum}: it may be off by hundreds of metres"
        return warned("fix", said, "set the receiver to WGS 84")
    return unreal(said, heard.fix.quality)


def reported(receiver: ReceiverView) -> Finding:
    """``fix``, as the agent reports it in its status."""
    state = receiver.state
    if state in {"2d", "3d"}:
        return passed("fix", f"{state.upper()}, says the agent")
    if receiver.message is not None:
        return failed("fix", receiver.message, receiver.remedy or "")
    return failed("fix", f"none: the agent finds the receiver {state}", "use sudo to see why")


def _words(fix: Fix) -> str:
    said = [f"{fix.mode}D"]
    if fix.sats is not None:
        said.append(f"{fix.sats} satellites")
    if fix.hdop_e2 is not None:
        said.append(f"HDOP {fix.hdop_e2 / 100:g}")
    return ", ".join(said)


def unreal(said: str, quality: str | None) -> Finding:
    """``fix``, where that is not measured; else it is well."""
    if quality not in _UNREAL:
        return passed("fix", said)
    remedy = "wait for open sky; where it stays, drop them: sampling.drop_quality"
    return warned("fix", f"{said}, but {quality}", remedy)


def no_fix(signals: Sequence[float], *, tells: bool) -> Finding:
    """``fix``, where there is none.

    Args:
        signals: of the satellites in view, in dB-Hz; 0: not heard.
        tells: whether the receiver reports satellites.
    """
    heard_db = sorted((snr for snr in signals if snr), reverse=True)
    strong = sum(snr >= _STRONG_DB for snr in heard_db)
    if strong >= _SATELLITES_FOR_A_FIX:
        return warned(
            "fix",
            f"none yet: {strong} satellites have a strong signal (best {heard_db[0]} dB-Hz)",
            "wait: after power-on a receiver needs up to a minute, after long storage 15",
        )
    if heard_db:
        seen = f"{len(heard_db)} satellites are heard, the best at {heard_db[0]} dB-Hz"
    elif tells:
        seen = "not one satellite is heard"
    else:
        seen = "the receiver does not report satellites"
    return failed(
        "fix",
        f"none: {seen}",
        f"move the antenna under open sky; it needs {_SATELLITES_FOR_A_FIX} satellites above "
        f"{_STRONG_DB} dB-Hz"
        + ("" if heard_db else "; hearing none at all is often an unplugged antenna"),
    )


def _clock(heard: Heard, clock: Clock) -> Finding:
    if heard.fix is None or heard.behind_ms is None or "date" in heard.fix.flags:
        return skipped("clock", "no GNSS time to compare with")
    off_ms = abs(heard.behind_ms)
    if off_ms < _CLOCK_OFF_MS:
        return passed("clock", f"the system clock agrees with GNSS to {off_ms / 1000:.0f} s")
    gap, gnss = span(off_ms / 1000), rfc3339(heard.fix.time_ms)
    direction = "behind" if heard.behind_ms > 0 else "ahead of"
    if clock.synchronised():
        said = f"GNSS says {gnss}; a synchronised system clock is {gap} {direction} it"
        remedy = "the receiver's date may have rolled over: replace it, or its firmware"
    else:
        said = (
            f"the system clock is {gap} {direction} GNSS time ({gnss}); positions carry GNSS time, "
            "but certificates are judged by the clock"
        )
        remedy = "`sudo timedatectl set-ntp true`, or give the machine a battery clock"
    return warned("clock", said, remedy)
