"""``export``: the stored track as a file."""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from telemetry_agent.cli.options import (
    ask_or_read,
    config_option,
    day,
    instant_callback,
    progress_bar,
)
from telemetry_agent.clock import Clock
from telemetry_agent.config import loader
from telemetry_agent.errors import StorageError, counted
from telemetry_agent.export import FORMATS, file_name


@click.command()
@config_option
@click.option(
    "--format",
    "name",
    type=click.Choice(list(FORMATS)),
    help="Default: by the suffix of the output.",
)
@click.option("--since", metavar="TIME", callback=instant_callback, help="Default: the oldest fix.")
@click.option("--until", metavar="TIME", callback=instant_callback, help="Default: the newest fix.")
@click.option(
    "--day", "of", metavar="YYYY-MM-DD", type=day, help="One day in this machine's time zone."
)
@click.option(
    "--trip",
    metavar="N",
    type=click.IntRange(1),
    help="One trip: 1 is the newest. A trip ends when the device parks.",
)
@click.option(
    "--output",
    metavar="PATH",
    type=lambda value: None if value == "-" else Path(value),
    help="A file, or a folder: then device and date name the file. Default: standard output.",
)
def command(
    config_path: Path | None,
    *,
    name: str | None,
    since: dict[str, Any],
    until: dict[str, Any],
    of: datetime | None,
    trip: int | None,
    output: Path | None,
) -> None:
    """Write the fixes in the queue to a file: pending, refused, and delivered ones still kept.

    TIME is a fix's own time such as 2026-11-23T12:35:19Z, or a time before the newest fix: 2h.
    An existing file is replaced when the new one is complete.
    """
    chosen = bool(since or until) + (of is not None) + (trip is not None)
    if chosen > 1:
        raise click.UsageError("Give only one of --day, --trip, or --since with --until.")
    if of is not None:
        since = {"since_ms": round(of.timestamp() * 1000)}
        until = {"until_ms": round((of + timedelta(days=1)).timestamp() * 1000)}
    if name is None:
        name = output.suffix[1:].lower() if output else ""
        if name not in FORMATS:
            raise click.UsageError(f"--format is needed: one of {', '.join(FORMATS)}.")
    settings = loader.load(config_path).settings
    question = {"ask": "export", "format": name, "trip": trip, **since, **until}
    if output is not None and output.is_dir():
        device = settings.device + (f"-trip-{trip}" if trip else "")
        first_ms = since.get("since_ms", Clock().wall_ms())  # unknown: today's date
        last_ms = until.get("until_ms")
        if of is not None:  # a day of this machine's zone, and names have dates in UTC
            first_ms, last_ms = round(of.replace(tzinfo=UTC).timestamp() * 1000), None
        output /= file_name(device, name, first_ms, last_ms)
    fixes = 0
    shows_bar = sys.stderr.isatty() and not (output is None and sys.stdout.isatty())
    with (
        closing(ask_or_read(settings, question)) as answers,
        _opened(output) as write,
        progress_bar("exporting", shown=shows_bar) as show,
    ):
        for answer in answers:
            write(answer["text"].encode())
            show(total=answer["stored"], completed=answer["read"])
            fixes = answer["fixes"]
    if output is not None:
        click.echo(f"{counted(fixes, 'fix is', 'fixes are')} in {output}")
    elif not fixes:
        click.echo(f"the queue has no fix{' of that time' if since or until else ''}", err=True)


@contextmanager
def _opened(path: Path | None) -> Iterator[Callable[[bytes], object]]:
    """A function that writes to standard output or to a file, which changes only when complete.

    Raises:
        StorageError: the file cannot be written.
    """
    if path is None:
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            with path.open("wb") as device:  # a pipe or /dev/stdout cannot be replaced
                yield device.write
            return
        path = path.resolve()
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        file = beside.open("xb")  # what is there already is not deleted
        try:
            with file:
                yield file.write
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
