"""``config show | check | forget | schema``: the config as the daemon would see it."""

import json
from pathlib import Path

import click

from telemetry_agent.cli.options import config_option, json_option, say
from telemetry_agent.config import last_good, loader
from telemetry_agent.config.effective import shown
from telemetry_agent.daemon.ownership import become_owner
from telemetry_agent.errors import StorageError


@click.group()
def command() -> None:
    """Look at the config: what is in effect, whether it is right, what there is."""


@command.command()
@config_option
@json_option
def show(config_path: Path | None, as_json: bool) -> None:
    """The config in effect, secrets masked, and where values came from."""
    loaded = loader.load(config_path)
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
    lines = {key: f"{key} = {json.dumps(row['value'])}" for key, row in rows.items()}
    width = max(map(len, lines.values()))
    for key, line in lines.items():
        click.echo(f"{line:<{width}}  # {rows[key]['from']}")


@command.command()
@config_option
@json_option
def check(config_path: Path | None, as_json: bool) -> None:
    """Whether the config is right; exit status 78 and the reason where it is not."""
    loaded = loader.load(config_path)
    for note in loaded.notes:
        say(note)
    files = [str(file) for file in loaded.files]
    if as_json:
        click.echo(json.dumps({"ok": True, "files": files}))
    else:
        click.echo(f"the config is right: {', '.join(files) or 'environment only'}")


@command.command()
def forget() -> None:
    """Remove the copy of the last good config, before an image of this machine is cloned.

    The service keeps it, and records by it when the config does not work. It is kept again at the
    next start or reload.
    """
    state = Path("/var/lib/telemetry-agent")
    try:
        if state.exists():
            become_owner(state)
        found = last_good.forget()
    except OSError as error:
        raise StorageError(
            f"cannot remove {error.filename}: {error.strerror}", "use sudo"
        ) from None
    click.echo("the last good config is forgotten" if found else "there is no last good config")


@command.command()
def schema() -> None:
    """The JSON Schema of the config, for editors."""
    click.echo(json.dumps(loader.json_schema(), indent=2))
