"""``run``: the daemon in the foreground."""

from pathlib import Path

import click

from telemetry_agent import config
from telemetry_agent.cli.options import config_option
from telemetry_agent.clock import Clock


@click.command()
@config_option
def command(config_path: Path | None) -> int:
    """The daemon, in the foreground. Ctrl-C or SIGTERM ends it; SIGHUP reads the config anew."""
    config.load(config_path)  # a wrong config is told before all parts are imported
    from telemetry_agent.daemon import service  # noqa: PLC0415

    return service.run(lambda: config.load(config_path).settings, Clock())
