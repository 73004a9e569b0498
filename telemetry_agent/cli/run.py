"""``run``: the daemon in the foreground."""

import logging
from pathlib import Path

import click

from telemetry_agent import config
from telemetry_agent.cli.options import config_option
from telemetry_agent.clock import Clock


@click.command()
@config_option
def command(config_path: Path | None) -> int:
    """The daemon, in the foreground. Ctrl-C or SIGTERM ends it; nothing is lost."""
    settings = config.load(config_path).settings
    logging.basicConfig(
        level=settings.log.level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    from telemetry_agent.daemon import app  # noqa: PLC0415 - a wrong config is told at once

    return app.run(settings, Clock())
