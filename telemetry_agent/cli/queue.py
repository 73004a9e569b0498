"""``queue stats``: look at the queue of an agent that does not run."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from telemetry_agent import config
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.cli.options import config_option, json_option
from telemetry_agent.errors import StorageError


@click.group()
def command() -> None:
    """Look at the queue of an agent that does not run."""


@command.command()
@config_option
@json_option
def stats(config_path: Path | None, as_json: bool) -> None:
    """How many fixes are ready, unack, acked and ack_failed."""
    path = config.load(config_path).settings.queue.path
    if not path.exists():
        raise StorageError(f"there is no queue at {path}: nothing was recorded yet")
    with AckQueue(path) as queue:
        counts = asdict(queue.stats())
    if as_json:
        click.echo(json.dumps(counts))
        return
    for name, value in counts.items():
        click.echo(f"{name:<18} {value}")
