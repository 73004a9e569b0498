"""The end of ``init``: the service runs, and its first position is recorded and delivered."""

import contextlib
import subprocess
import threading
from pathlib import Path

import click

from telemetry_agent.cli.service import UNIT
from telemetry_agent.cli.status import lines, running
from telemetry_agent.clock import Clock
from telemetry_agent.errors import AgentError
from telemetry_agent.snapshot import Snapshot

_LOOK_EVERY_S = 0.5
_LOG = f"`sudo journalctl -u {UNIT}`"


def agent_status(queue_path: Path) -> Snapshot | None:
    """What the running agent with this queue says, if there is one and it answers."""
    with contextlib.suppress(AgentError):
        return running(queue_path)
    return None


def has_unit() -> bool:
    """Whether the service is installed and systemd runs."""
    return Path("/run/systemd/system").is_dir() and _systemctl("cat", UNIT)[0]


def start_service() -> None:
    """Enable it, and start it with the config as it is now.

    Raises:
        AgentError: systemd refused.
    """
    for verb in ("enable", "restart"):
        done, said = _systemctl(verb, UNIT)
        if not done:
            raise AgentError(f"systemctl {verb} {UNIT}: {said}", f"{_LOG} says why")


def wait_for_delivery(queue_path: Path, limit_s: float) -> bool:
    """Show how the first position comes and goes. Returns whether it was delivered."""
    clock, tick = Clock(), threading.Event()
    until_s = clock.monotonic_s() + limit_s
    recorded, said = False, ""
    told: Snapshot | None = None
    while True:
        if (status := agent_status(queue_path)) is not None:
            told = status
            upload, receiver = told.upload, told.receiver
            waits = f"receiver: {receiver.state} ({receiver.source})"
            if not recorded and waits != said:
                said = waits
                click.echo(f"  {said}")
            if not recorded and (told.queue.pending or upload.delivered):
                recorded = True
                click.echo("  recorded: the first position is on the disk")
            if upload.delivered:
                click.echo(f"  delivered: {upload.host} has it")
                return True
        if clock.monotonic_s() > until_s:
            _say_what_is_missing(told, limit_s)
            return False
        tick.wait(_LOOK_EVERY_S)


def _say_what_is_missing(told: Snapshot | None, limit_s: float) -> None:
    click.echo(f"no position was delivered within {limit_s:.0f} s.", err=True)
    if told is None:
        click.echo(f"The service does not run: {_LOG} says why.", err=True)
        return
    for line in lines(told):
        click.echo(f"  {line}", err=True)
    click.echo(
        "It goes on by itself. `sudo telemetry-agent doctor` checks everything, with remedies.",
        err=True,
    )


def _systemctl(*arguments: str) -> tuple[bool, str]:
    try:
        done = subprocess.run(  # noqa: S603 - words of ours
            ["systemctl", *arguments],  # noqa: S607 - where the system has it
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        return False, str(error.strerror)
    return done.returncode == 0, done.stderr.strip()
