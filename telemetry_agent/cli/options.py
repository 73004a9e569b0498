"""Options that several commands share."""

from pathlib import Path

import click

from telemetry_agent.config.values import duration_s

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="The config file. Default: /etc/telemetry-agent/config.toml, then ./config.toml.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Report as JSON.")


def duration_callback(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> float | None:
    """For an option whose value is like ``30s``: seconds."""
    if value is None:
        return None
    try:
        return duration_s(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}") from None
