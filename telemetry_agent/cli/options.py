"""Options that several commands share."""

from pathlib import Path

import click

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="The config file. Default: /etc/telemetry-agent/config.toml, then ./config.toml.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
