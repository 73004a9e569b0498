"""``demo``: simulated receiver -> agent -> local endpoint, with one network cut in the middle."""

import itertools
import logging
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import click

from telemetry_agent.cli.options import duration_callback
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import Settings
from telemetry_agent.daemon.app import Agent
from telemetry_agent.endpoint import Endpoint
from telemetry_agent.simulator import Drive, Simulator

_RATE_HZ = 5
_START_MS = 1_795_435_200_000  # 2026-11-23T12:00:00Z: a made-up drive needs no right clock
_SETTLE_S = 15.0
_BAR = 50


@click.command()
@click.option(
    "--for",
    "length_s",
    metavar="DURATION",
    callback=duration_callback,
    default="60s",
    show_default=True,
    help="How long the drive takes; the network is away in its middle third.",
)
def command(length_s: float) -> int:
    """A simulated receiver, the agent and an endpoint on this machine; nothing to set up.

    Ctrl-C ends it early. The exit status is 0 if every position arrived exactly once.
    """
    logging.basicConfig(level=logging.INFO, format="          %(message)s", stream=sys.stdout)
    epochs = max(3, round(length_s * _RATE_HZ))
    drive = Drive(_START_MS, interval_ms=1000 // _RATE_HZ)
    with (
        tempfile.TemporaryDirectory(prefix="telemetry-agent-demo-") as name,
        Endpoint("127.0.0.1:0", Path(name) / "received.db") as endpoint,
        Simulator(
            itertools.islice(drive, epochs), rate_hz=_RATE_HZ, link=Path(name) / "gps"
        ) as simulator,
    ):
        agent = Agent(_settings(Path(name), simulator, endpoint), Clock())
        agent.start()
        try:
            click.echo(f"A receiver sends {_RATE_HZ} positions a second. Watch the network go.")
            with suppress(KeyboardInterrupt):
                _drive(agent, simulator, endpoint, length_s)
            simulator.hush()
            endpoint.reconnect()
            with suppress(KeyboardInterrupt):
                endpoint.wait_for(simulator.sent, _SETTLE_S)
        finally:
            agent.stop()
        click.echo(_line(agent, endpoint))
        return _summary(simulator.sent, Counter(time for _, _, time in endpoint.received()))


def _settings(folder: Path, simulator: Simulator, endpoint: Endpoint) -> Settings:
    return Settings.model_validate(
        {
            "device": "demo",
            "gps": {"source": str(simulator.device)},
            "sampling": {"interval": "0s"},
            "queue": {"path": folder / "queue.db", "commit_every": "200ms"},
            "upload": {
                "url": endpoint.url,
                "flush_every": "1s",
                "backoff_max": "2s",
                "resume_spread": "100ms",
            },
            "connectivity": {"probe_every": "500ms"},
            "page": {},
            "log": {},
        }
    )


def _drive(agent: Agent, simulator: Simulator, endpoint: Endpoint, length_s: float) -> None:
    """One line a second until the drive is over."""
    cut_s, return_s = round(length_s / 3), round(length_s * 2 / 3)
    for second in itertools.count(1):
        if simulator.done.wait(1):
            return
        click.echo(f"{second:4} s    {_line(agent, endpoint)}")
        if second == cut_s:
            endpoint.disconnect()
        elif second == return_s:
            endpoint.reconnect()


def _line(agent: Agent, endpoint: Endpoint) -> str:
    stats = agent.queue.stats()
    pending = stats.ready + stats.unack + stats.uncommitted
    recorded = pending + stats.acked + stats.ack_failed
    amber = round(_BAR * pending / max(recorded, 1))
    green = _BAR - amber if recorded else 0
    bar = click.style("█" * green, fg="green") + click.style("░" * amber, fg="yellow")
    network = "network up  " if endpoint.reachable else "NETWORK AWAY"
    counts = f"recorded {recorded:4}   pending {pending:4}   delivered {stats.acked:4}"
    return f"{counts}   {network}  {bar}"


def _summary(sent: int, arrived: Counter[str]) -> int:
    twice = sum(arrived.values()) - len(arrived)
    missing = sent - len(arrived)
    if missing or twice:
        click.echo(f"{sent} positions were sent: {missing} are missing, {twice} arrived twice.")
        return 1
    click.echo(f"{sent} positions were sent, and each arrived exactly once. None was lost.")
    return 0
