"""``run``: the daemon in the foreground."""

from pathlib import Path

import click

from telemetry_agent.cli.options import config_option


@click.command()
@config_option
def command(config_path: Path | None) -> int:
    """Run the daemon in the foreground. Ctrl-C or SIGTERM ends it; SIGHUP reloads the config."""
    from telemetry_agent.cli.daemon import run  # noqa: PLC0415 - it takes its time

    return run(config_path)
