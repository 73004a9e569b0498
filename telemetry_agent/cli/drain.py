"""``drain``: send the backlog now."""

import json
import sys
from pathlib import Path

import click

from telemetry_agent.cli.options import ask, progress_bar, report_options


@click.command()
@report_options
def command(config_path: Path | None, *, as_json: bool) -> None:
    """Send the backlog now, without waiting for more fixes or for a backoff.

    The exit status is 0 when it is sent, 69 if the endpoint cannot be reached, 74 if the disk
    refuses the rest, and 1 if uploads are held or fixes are still being carried over. A wait that
    the endpoint asked for is kept. Ctrl-C loses nothing.
    """
    answers = ask(config_path, {"ask": "drain"})
    if as_json:
        for answer in answers:
            click.echo(json.dumps(answer))
        return
    delivered = total = 0
    with progress_bar("sending", shown=sys.stderr.isatty()) as show:
        for answer in answers:
            total = max(total, answer["pending"])
            delivered = answer["delivered"]
            show(total=total, completed=total - answer["pending"], description=answer["state"])
    click.echo(f"nothing is left: {delivered:,} delivered")
