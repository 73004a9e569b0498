"""``config show | check | forget | schema``: the config as the daemon reads it."""

import json
from pathlib import Path

import click

from telemetry_agent.cli.options import report_options, say, toml_string
from telemetry_agent.config import last_good, loader
from telemetry_agent.config.files import STATE_DIRECTORY
from telemetry_agent.config.settings import LoadedConfig, shown
from telemetry_agent.errors import StorageError
from telemetry_agent.secrecy import see_service_credentials


@click.group()
def command() -> None:
    """Show and check the config, or remove its kept copy."""


def _loaded(config_path: Path | None) -> LoadedConfig:
    """The config, after its notes on standard error."""
    see_service_credentials()
    loaded = loader.load(config_path)
    for note in loaded.notes:
        say(note)
    return loaded


@command.command()
@report_options
def show(config_path: Path | None, as_json: bool) -> None:
    """Show the config in effect and where each value comes from. Secrets are masked."""
    loaded = _loaded(config_path)
    rows = {
        key: {
            "value": str(value) if isinstance(value, Path) else value,
            "from": loaded.origins.get(key, "default"),
        }
        for key, value in shown(loaded.settings).items()
    }
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    lines = {key: f"{key} = {toml_string(row['value'])}" for key, row in rows.items()}
    width = max(map(len, lines.values()))
    for key, line in lines.items():
        click.echo(f"{line:<{width}}  # {rows[key]['from']}")


@command.command()
@report_options
def check(config_path: Path | None, as_json: bool) -> None:
    """Check the config. If it is invalid, print the reason and exit with status 78."""
    files = [*_loaded(config_path).texts]
    if as_json:
        click.echo(json.dumps({"ok": True, "files": files}))
    else:
        click.echo(f"the config is valid: {', '.join(files) or 'environment only'}")


@command.command()
def forget() -> None:
    """Remove the copy of the last good config.

    Do this before an image of this machine is cloned. The service uses the copy while the config is
    invalid. The next start or reload makes it again.
    """
    from telemetry_agent.daemon.at_rest import become_owner  # noqa: PLC0415 - imports SQLite

    try:
        if STATE_DIRECTORY.exists():
            become_owner(STATE_DIRECTORY)
        found = last_good.forget()
    except OSError as error:
        raise StorageError(
            f"cannot remove {error.filename}: {error.strerror}", "use sudo"
        ) from None
    click.echo("removed the last good config" if found else "there is no last good config")


@command.command()
def schema() -> None:
    """Print the JSON Schema of the config, for editors."""
    click.echo(json.dumps(loader.json_schema(), indent=2))
