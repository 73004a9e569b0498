"""``run``: the daemon in the foreground."""

from pathlib import Path

import click

from telemetry_agent.cli.options import config_option
from telemetry_agent.clock import Clock
from telemetry_agent.config import subprocess_loader
from telemetry_agent.config.last_good import StartConfig


@click.command()
@config_option
def command(config_path: Path | None) -> int:
    """Run the daemon in the foreground. Ctrl-C or SIGTERM ends it; SIGHUP reloads the config."""
    from telemetry_agent.daemon import service  # noqa: PLC0415
    from telemetry_agent.doctor.house_call import HouseCall  # noqa: PLC0415

    def load(*, fall_back: bool) -> StartConfig:
        return subprocess_loader.load(config_path, fall_back=fall_back)

    return service.run(load, config_path, Clock(), HouseCall(config_path))
