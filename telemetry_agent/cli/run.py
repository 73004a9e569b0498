"""``run``: the daemon in the foreground."""

from pathlib import Path

import click

from telemetry_agent.cli import run_daemon
from telemetry_agent.cli.options import config_option


@click.command()
@config_option
def command(config_path: Path | None) -> int:
    """Run the daemon in the foreground. Ctrl-C or SIGTERM ends it; SIGHUP reloads the config."""
    return run_daemon(config_path)
