"""Which receiver ``init`` writes down: asked, and listened to."""

from pathlib import Path

import click

from telemetry_agent.clock import Clock
from telemetry_agent.errors import SourceError
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.sources import EndOfSourceError
from telemetry_agent.gnss.sources.machine import Candidate, find_receivers
from telemetry_agent.gnss.sources.serial import SerialSource
from telemetry_agent.model import Fix

_LISTEN_S = 5.0


def choose_receiver(*, asks: bool) -> str:
    """What ``gps.source`` should be: the best receiver that the user agrees to."""
    found = find_receivers()
    for number, candidate in enumerate(found, 1):
        note = "" if candidate.safe else f"  ({candidate.blocked or 'may be something else'})"
        click.echo(f"{number}. {candidate.path}: {candidate.label}{note}")
    if not found:
        click.echo("no receiver is plugged in: the agent will look for one when it runs")
        return "auto"
    if not asks:
        safe = [candidate for candidate in found if candidate.safe]
        return str(safe[0].path) if safe else "auto"
    number = click.prompt(
        "Which one is the receiver? (0: none of these)",
        type=click.IntRange(0, len(found)),
        default=_best(found),
    )
    return str(found[number - 1].path) if number else "auto"


def _best(found: list[Candidate]) -> int:
    """The first that is surely a receiver; none is opened unasked."""
    return next((n for n, candidate in enumerate(found, 1) if candidate.safe), 0)


def listen(path: Path, baud: int | None) -> int | None:
    """Show what the receiver says; returns its speed, if it is known."""
    click.echo(f"listening to {path} …")
    source = SerialSource(path, baud)
    try:
        source.open()
        decoder = Decoder(fix_rollover=True, baud=source.baud)
        fix = _first_fix(source, decoder)
    except (SourceError, EndOfSourceError) as error:
        click.echo(f"  {error}")
        return baud
    finally:
        source.close()
    speed = f" at {source.baud} baud" if source.baud else ""
    if fix is not None:
        click.echo(
            f"  {fix.mode}D fix{speed}: {fix.lat_e9 / 1e9:.5f}, {fix.lon_e9 / 1e9:.5f}, "
            f"{fix.sats or 0} satellites"
        )
    elif decoder.sentences:
        click.echo(f"  it speaks{speed}, and has no fix yet; under open sky that takes a minute")
    else:
        click.echo("  nothing that can be read yet; telemetry-agent decode shows what comes")
    return source.baud


def _first_fix(source: SerialSource, decoder: Decoder) -> Fix | None:
    clock = Clock()
    until_s = clock.monotonic_s() + _LISTEN_S
    while (left_s := until_s - clock.monotonic_s()) > 0:
        data = source.read(min(left_s, 0.25))
        now_s = clock.monotonic_s()
        fixes = decoder.feed(data, now_s) if data else decoder.tick(now_s)
        if fixes:
            return fixes[0]
    return None
