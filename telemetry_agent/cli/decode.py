"""``decode``: NMEA in, one JSON fix per line out."""

import json
import sys
from collections.abc import Iterator
from datetime import datetime
from io import FileIO

import click

from telemetry_agent.cli.options import day
from telemetry_agent.errors import SourceError, counted
from telemetry_agent.fields import DAY_1970, fix_json
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.diagnosis import Diagnosis
from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy
from telemetry_agent.gnss.sources.protocols import protocol, unreadable
from telemetry_agent.model import Fix

_READ_BYTES = 65536
_UTF_16 = "utf-16", "UTF-16 text: iconv -f UTF-16 -t UTF-8 FILE | telemetry-agent decode"
# First bytes of an input that is not a recording of sentences -> name of the reason, description.
_BEGINNINGS = {
    b"\x1f\x8b": ("compressed", "compressed: zcat FILE | telemetry-agent decode"),
    b"\xff\xfe": _UTF_16,  # PowerShell writes it behind a `>`
    b"\xfe\xff": _UTF_16,
    b'{"class":"': ("gpsd", "a log of gpsd's reports: gpspipe -r records sentences"),
}
_DATE = "`--date YYYY-MM-DD` gives this recording a day"


@click.command(name="decode")
@click.argument("file", default="-")
@click.option("--stats", is_flag=True, help="Count rejected input by reason, on standard error.")
@click.option(
    "--fix-rollover",
    is_flag=True,
    help="Add 1024 weeks to dates older than this release, as the daemon does.",
)
@click.option(
    "--date",
    type=day,
    metavar="YYYY-MM-DD",
    help="The day of the first position, for a recording that carries no date.",
)
def command(*, file: str, stats: bool, fix_rollover: bool, date: datetime | None) -> None:
    """Read NMEA, write one JSON fix per line.

    FILE is a recording of a receiver. Without FILE, or with -, standard input is decoded as it
    arrives.
    """
    days = date.toordinal() - DAY_1970 if date else None
    decoder = Decoder(fix_rollover=fix_rollover, prove_rollover=False, day=days, eager=False)
    sampler = Sampler(SamplingPolicy(interval_s=0))  # for metres and jumps; it keeps all fixes
    fixes, begin = 0, b""
    for data in _read(file):
        begin = begin or data
        # A recording has no time of arrival, so no gap counts as quiet.
        fixes += _write(sampler, decoder.feed(data, 0.0))
    fixes += _write(sampler, decoder.finish())
    why = _why_nothing(decoder, begin) if begin and not fixes else None
    if stats:
        summary: dict[str, object] = {
            "sentences": decoder.sentences,
            "fixes": fixes,
            "rejected": dict(sorted(decoder.counts.items())),
        }
        if why:
            summary["reason"], summary["why"] = why
        if decoder.notices:
            summary["notices"] = decoder.notices
        click.echo(json.dumps(summary), err=True)
    elif why:
        click.echo(why[1], err=True)


def _why_nothing(decoder: Decoder, begin: bytes) -> tuple[str, str] | None:
    """The reason, and its text, why an input has no fix; ``begin`` is its first part."""
    if found := decoder.diagnosis:
        said = str(found)
        if dateless := decoder.counts["no-date"]:
            left_out = counted(dateless, "position left out", "positions left out")
            said = f"{left_out}: {found.message}: {_DATE}"
        return found.reason, said
    if decoder.sentences:
        return None
    for start, (reason, what) in _BEGINNINGS.items():
        if begin.startswith(start):
            return reason, f"no NMEA sentence found, the input is {what}"
    unread = unreadable(begin)
    if isinstance(unread, Diagnosis) and unread.reason != "text":  # it may be the wrong file
        return unread.reason, str(unread)
    if unread == "binary":
        return unread, (
            f"no NMEA sentence found, the receiver sent {protocol(begin)}: switch its NMEA output "
            "on (docs/receivers.md)"
        )
    return "no-nmea", "no NMEA sentence found"


def _read(file: str) -> Iterator[bytes]:
    try:
        with FileIO(0, closefd=False) if file == "-" else FileIO(file) as source:
            while data := source.read(_READ_BYTES):
                yield data
    except OSError as error:
        name = "standard input" if file == "-" else file
        raise SourceError(f"cannot read {name}: {error.strerror}") from error


def _write(sampler: Sampler, fixes: list[Fix]) -> int:
    if fixes:
        lines = [f"{{{fix_json(kept)}}}\n" for fix in fixes for kept in sampler.feed(fix)]
        sys.stdout.write("".join(lines))
        sys.stdout.flush()
    return len(fixes)
