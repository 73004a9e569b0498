"""The end of ``init``: watch the agent until its first fix is delivered."""

import contextlib
import threading
from pathlib import Path

import click

from telemetry_agent.cli.status import lines, running
from telemetry_agent.clock import Clock
from telemetry_agent.errors import AgentError
from telemetry_agent.snapshot import AtRest, Snapshot

_LOOK_EVERY_S = 0.5


def agent_status(queue_path: Path) -> Snapshot | None:
    """The status of the running agent with this queue; ``None`` if none answers."""
    with contextlib.suppress(AgentError):
        return running(queue_path)
    return None


def shows_delivery(queue_path: Path, limit_s: float) -> bool:
    """Show how the first position is recorded and delivered. Returns whether it was delivered."""
    clock, tick = Clock(), threading.Event()
    until_s = clock.monotonic_s() + limit_s
    last: Snapshot | AtRest = AtRest()
    said = ""
    while clock.monotonic_s() <= until_s:
        if (status := agent_status(queue_path)) is not None:
            last = status
            if status.queue.pending or status.upload.delivered:
                line = "recorded: the first position is on the disk"
            else:
                line = f"receiver: {status.receiver.state} ({status.receiver.source})"
            if line != said:
                click.echo(f"  {line}")
            said = line
            if status.upload.delivered:
                click.echo(f"  delivered: {status.upload.host} has it")
                return True
        tick.wait(_LOOK_EVERY_S)
    click.echo(f"no position was delivered within {limit_s:.0f} s.", err=True)
    for line in lines(last):
        click.echo(f"  {line}", err=True)
    click.echo("`sudo telemetry-agent doctor` finds the cause and the remedy.", err=True)
    return False
