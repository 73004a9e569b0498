"""``run``: the daemon in the foreground."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from telemetry_agent.cli.options import config_option
from telemetry_agent.clock import Clock
from telemetry_agent.config import subprocess_loader
from telemetry_agent.config.last_good import StartConfig

if TYPE_CHECKING:
    from telemetry_agent.doctor.house_call import HouseCall


@click.command()
@config_option
def command(config_path: Path | None) -> int:
    """Run the daemon in the foreground. Ctrl-C or SIGTERM ends it; SIGHUP reloads the config."""
    from telemetry_agent.daemon import service  # noqa: PLC0415

    def load(*, fall_back: bool) -> StartConfig:
        return subprocess_loader.load(config_path, fall_back=fall_back)

    def doctor() -> "HouseCall":
        from telemetry_agent.doctor.house_call import HouseCall  # noqa: PLC0415 - for the page only

        return HouseCall(config_path)

    return service.run(load, config_path, Clock(), doctor)
