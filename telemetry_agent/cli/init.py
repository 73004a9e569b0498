"""``init``: find the receiver, try the endpoint, write the config."""

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

import click

from telemetry_agent.cli.server_presets import SERVERS, completed
from telemetry_agent.clock import Clock
from telemetry_agent.config import loader
from telemetry_agent.config.settings import Settings
from telemetry_agent.daemon.builders import build_credentials
from telemetry_agent.doctor.endpoint import asked
from telemetry_agent.errors import ConfigError, SourceError, UsageError
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.sources import EndOfSourceError
from telemetry_agent.gnss.sources.machine import Candidate, find_receivers
from telemetry_agent.gnss.sources.serial import SerialSource
from telemetry_agent.model import Fix
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import FormatName

_LISTEN_S = 5.0
_MODE = 0o640  # it may come to hold secrets
_GROUP = "telemetry-agent"


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=loader.DEFAULT_PATHS[0],
    show_default=True,
    help="The file to write.",
)
@click.option("--device", help="This device's name.")
@click.option("--source", help="The receiver, as gps.source.")
@click.option("--baud", type=int, help="Its speed; found out if it is not given.")
@click.option(
    "--server",
    type=click.Choice(list(SERVERS)),
    default="native",
    show_default=True,
    help="What kind of server the endpoint is: see docs/servers.md.",
)
@click.option("--url", help="The endpoint; of a known kind of server its address is enough.")
@click.option("--force", is_flag=True, help="Overwrite the file if it is there.")
def command(
    path: Path,
    device: str | None,
    source: str | None,
    baud: int | None,
    server: str,
    url: str | None,
    force: bool,
) -> None:
    """Find the receiver, try the endpoint, write the config.

    Asks at most four questions; each is also an option, and without a terminal nothing is asked.
    """
    asks = sys.stdin.isatty()
    _may_write(path, asks=asks, force=force)
    source = source or _choose_receiver(asks=asks)
    device = device or _ask("This device's name", "{hostname}", asks=asks)
    if url is None and not asks:
        raise UsageError("init needs --url, the endpoint that fixes go to")
    url = completed(server, url or _ask("The endpoint's URL", None, asks=asks))
    if source.startswith("/"):
        baud = _listen(Path(source), baud)
    text = _text(device, source, baud, SERVERS[server].format, url)
    settings = _write(path, text)
    click.echo(f"wrote {path}")
    _try_endpoint(settings)
    if hint := SERVERS[server].hint.format(device=settings.device):
        click.echo(f"To do: {hint}")
    click.echo(f"Next: telemetry-agent run --config {path}")


def _may_write(path: Path, *, asks: bool, force: bool) -> None:
    if not path.exists() or force:
        return
    if not asks:
        raise ConfigError(f"{path} is there already: --force overwrites it")
    if not click.confirm(f"{path} is there already. Overwrite it?", default=False):
        raise ConfigError(f"{path} stays as it was")


def _ask(question: str, default: str | None, *, asks: bool) -> str:
    answer: str = click.prompt(question, default=default) if asks else default or ""
    return answer


def _choose_receiver(*, asks: bool) -> str:
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


def _listen(path: Path, baud: int | None) -> int | None:
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


def _text(device: str, source: str, baud: int | None, format_: FormatName, url: str) -> str:
    lines = [
        "# Written by telemetry-agent init. Every key there is stands in config.example.toml.",
        f"device = {json.dumps(device)}",
        "",
        "[gps]",
        f"source = {json.dumps(source)}",
    ]
    if baud is not None:
        lines.append(f"baud = {baud}")
    lines += ["", "[upload]", f"url = {json.dumps(url)}"]
    if format_ != "native":
        lines.append(f'format = "{format_}"')
    return "\n".join([*lines, ""])


def _write(path: Path, text: str) -> Settings:
    """Write it whole or not at all, and only if it is right."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.touch(_MODE)
        draft.chmod(_MODE)
        draft.write_text(text, "utf-8")
        with contextlib.suppress(LookupError, PermissionError):
            shutil.chown(draft, group=_GROUP)  # so that the service can read it
        settings = loader.load(draft).settings
        draft.replace(path)
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(draft), f"{path}, not written")) from None
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}: run init as root, or name another --config"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return settings


def _try_endpoint(settings: Settings) -> None:
    """Send a request without any position, and say what came back."""
    upload = settings.upload
    credentials = build_credentials(upload, set())
    credentials.prepare()
    transport = Transport(upload.url, credentials=credentials, proxy=upload.proxy)
    try:
        findings = list(asked(transport, upload, settings.device, None))
    finally:
        transport.close()
    for found in findings:
        if found.verdict == "skip":
            continue
        remedy = f"; {found.remedy}" if found.remedy else ""
        click.echo(f"the endpoint: {found.name}: {found.said}{remedy}")
