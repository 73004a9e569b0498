"""Which receiver ``init`` writes into the config: ask the user, and listen to it."""

from pathlib import Path

import click

from telemetry_agent.clock import Clock
from telemetry_agent.doctor.reception import Patience, hear
from telemetry_agent.errors import SourceError
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.sources.machine import Candidate, find_receivers
from telemetry_agent.gnss.sources.serial import SerialSource

_PATIENCE = Patience(silent_s=5.0, position_s=1.5, none_s=5.0)


def choose_receiver(*, asks: bool) -> str:
    """The value for ``gps.source``: the best receiver that the user agrees to."""
    found = find_receivers()
    for place, candidate in enumerate(found, 1):
        note = "" if candidate.safe else f"  ({candidate.blocked or 'may be something else'})"
        click.echo(f"{place}. {candidate.path}: {candidate.label}{note}")
    number = _best(found)
    if found and asks:
        number = click.prompt(
            "Which one is the receiver? (0: none of these)",
            type=click.IntRange(0, len(found)),
            default=number,
        )
    if number:
        return str(found[number - 1].path)
    why = "no receiver was chosen" if found else "no receiver is plugged in"
    click.echo(f"{why}: the agent looks for one when it runs")
    return "auto"


def _best(found: list[Candidate]) -> int:
    """The number of the first port that certainly has a receiver; 0: ask, open none."""
    return next((n for n, candidate in enumerate(found, 1) if candidate.safe), 0)


def listen(path: Path, baud: int | None) -> int | None:
    """Show what the receiver sends; return its baud rate, or None if it is unknown."""
    click.echo(f"listening to {path} …")
    source = SerialSource(path, baud)
    try:
        source.open()
        decoder = Decoder(fix_rollover=True, baud=source.baud)
        heard = hear(source, decoder, _PATIENCE, Clock())
    except SourceError as error:
        click.echo(f"  {error}")
        return baud
    finally:
        source.close()
    speed = f" at {source.baud} baud" if source.baud else ""
    if heard.fix is not None:
        fix = heard.fix
        click.echo(
            f"  {fix.mode}D fix{speed}: {fix.lat_e9 / 1e9:.5f}, {fix.lon_e9 / 1e9:.5f}, "
            f"{fix.sats or 0} satellites"
        )
    elif heard.types:
        click.echo(f"  it sends NMEA{speed} and has no fix yet; under open sky that takes a minute")
    else:
        click.echo("  nothing that can be read yet; telemetry-agent decode shows what comes")
    return source.baud
