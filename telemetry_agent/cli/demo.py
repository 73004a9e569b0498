"""``demo``: simulated receiver -> agent -> local endpoint, with the device page."""

import itertools
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import textwrap
import threading
from contextlib import suppress
from pathlib import Path

import click

from telemetry_agent.cli import on_end
from telemetry_agent.cli.options import duration
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import (
    ConnectivitySettings,
    GpsSettings,
    PageSettings,
    QueueSettings,
    SamplingSettings,
    Settings,
    UploadSettings,
)
from telemetry_agent.daemon.app import Agent
from telemetry_agent.daemon.status import pending
from telemetry_agent.errors import AgentError, counted
from telemetry_agent.lab.drive import Drive
from telemetry_agent.lab.endpoint import Endpoint, Fault
from telemetry_agent.lab.simulator import Simulator
from telemetry_agent.page.libraries import browser_missing, server_missing
from telemetry_agent.tasks import Bell

_RATE_HZ = 6
_START_MS = 1_795_435_200_000  # 2026-11-23T12:00:00Z
_ROUND_S = 45.0  # once round the town
_CUT_S, _AWAY_S = 8.0, 12.0
_SETTLE_S = 15.0
_READ_S = 5.0
_BAR = 14
_PORT = 8077
_BATCH = 8  # small, so that the backlog shrinks visibly
_URL_EVERY_S = 15
_ANSWER_S = 0.3
_DISK = "/var/tmp"  # noqa: S108 - /tmp is often memory, of which the agent would warn


@click.command()
@click.option(
    "--for",
    "length_s",
    type=duration,
    help="How long it runs. Default: until Ctrl-C with the page and a terminal, else 45s.",
)
@click.option("--no-page", is_flag=True, help="Print lines only.")
def command(length_s: float | None, *, no_page: bool) -> int:
    """Run a simulated receiver, the agent and an endpoint on this machine, without any setup.

    The page shows them. The network is cut once when the page is open, and whenever you use the
    switch on the page. Ctrl-C ends the demo. The exit status is 0 if every position arrived
    exactly once.
    """
    logging.basicConfig(level=logging.INFO, handlers=[_Log()])
    logging.getLogger("telemetry_agent.page").setLevel(logging.WARNING)  # the demo shows its URL
    on_end(signal.default_int_handler)
    missing = server_missing()
    port = None if no_page or missing else _free_port()
    if length_s is None and not (port and sys.stdout.isatty()):
        length_s = _ROUND_S
    click.echo(f"A receiver sends {_RATE_HZ} positions per second.")
    url = f"http://127.0.0.1:{port}/" if port is not None else ""
    if url:
        click.echo(f"Look at {url}: amber is only on the disk, green is delivered.")
        if length_s is None:
            click.echo(f"When the page is open, the network is cut for {_AWAY_S:.0f} s.")
            click.echo("Ctrl-C ends it.")
        if bare := browser_missing():
            click.echo(bare)
    elif not no_page:
        click.echo(f"No page to watch it on: {missing}.")
    drive = Drive(_START_MS, tunnel=True)
    with (
        tempfile.TemporaryDirectory(prefix="telemetry-agent-demo-", dir=_folder()) as folder,
        Endpoint(
            "127.0.0.1:0", Path(folder) / "received.db", [Fault("503", 0)], _slow_line
        ) as endpoint,
        Simulator(
            itertools.islice(drive, None if length_s is None else round(length_s * _RATE_HZ)),
            rate_hz=_RATE_HZ,
            link=Path(folder) / "gps",
        ) as simulator,
    ):
        network = _Network(endpoint)
        agent = Agent(_settings(folder, simulator, endpoint, port), Clock(), switch=network)
        agent.start()

        def sent() -> int:
            return sum(map(drive.has_fix, range(simulator.sent)))

        try:
            with suppress(KeyboardInterrupt):
                try:
                    _watch(agent, simulator, network, length_s, url)
                except KeyboardInterrupt:
                    click.echo("Ending after the backlog is delivered. Ctrl-C again ends at once.")
                simulator.hush()
                network.cut(False)
                endpoint.wait_for(sent(), _SETTLE_S)
                with suppress(AgentError):  # the cut may have lost the answer to what is there
                    list(agent.delivery.drain({}, Bell()))
        finally:
            on_end(lambda *_: None)  # the end takes seconds at most
            simulator.hush()
            simulator.done.wait(_READ_S)  # else the last position is on its way to the agent
            agent.stop()
        click.echo(_line(agent, network))
        stats = agent.queue.stats()
        return _summary(sent(), endpoint.received(), delivered=stats.acked, waiting=pending(stats))


class _Log(logging.Handler):
    """The agent's log, indented between the lines of the demo, in 80 columns."""

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler.emit``."""
        wrapped = textwrap.wrap(record.getMessage(), 72, break_on_hyphens=False)
        click.echo(textwrap.indent("\n".join(wrapped), " " * 7))


def _folder() -> str | None:
    """Where the demo's files are: on a disk. ``None``: in the usual place of temporary files."""
    return None if os.environ.get("TMPDIR") or not os.access(_DISK, os.W_OK) else _DISK


def _slow_line() -> float:
    """Answer as slowly as over a mobile network, so that the backlog shrinks visibly."""
    threading.Event().wait(_ANSWER_S)
    return 1.0  # no request fails


class _Network:
    """The network between agent and endpoint. The page's switch cuts it, and the demo once."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self.used = False
        """Whether a viewer has used the switch."""

    def is_away(self) -> bool:
        return not self._endpoint.reachable

    def set_away(self, away: bool) -> None:
        self.used = True
        self.cut(away)

    def cut(self, away: bool) -> None:
        """Cut or restore it, as the demo does by itself."""
        with self._lock:
            if away:
                self._endpoint.disconnect()
            else:
                self._endpoint.reconnect()


def _settings(folder: str, simulator: Simulator, endpoint: Endpoint, port: int | None) -> Settings:
    return Settings(
        device="demo",
        gps=GpsSettings(source=str(simulator.device)),
        sampling=SamplingSettings(interval_s=0),
        queue=QueueSettings(path=Path(folder, "queue.db"), commit_every_s=0.2),
        upload=UploadSettings(
            url=endpoint.url,
            flush_every_s=1,
            max_batch=_BATCH,
            backoff_max_s=2,
            resume_spread_s=0.1,
        ),
        connectivity=ConnectivitySettings(probe_every_s=0.5),
        page=PageSettings(listen=("127.0.0.1", port) if port else None),
    )


def _free_port() -> int:
    """The usual port of the page, or any free one."""
    for wanted in (_PORT, 0):
        with suppress(OSError), socket.create_server(("127.0.0.1", wanted)) as listener:
            port: int = listener.getsockname()[1]
            return port
    raise AgentError("no port is free on 127.0.0.1: use --no-page")


def _watch(
    agent: Agent, simulator: Simulator, network: _Network, length_s: float | None, url: str
) -> None:
    """Print one line a second until the drive is over.

    The network is cut once, some seconds after the first viewer has come, so that a late viewer
    sees it. Without a page, or if the demo would end before, it is cut anyway.
    """
    third_s = _ROUND_S if length_s is None else length_s / 3
    wait_s, away_s = round(min(_CUT_S, third_s)), round(min(_AWAY_S, third_s))
    cut_s = wait_s if not url else math.inf if length_s is None else round(third_s)
    for second in itertools.count(1):
        if simulator.done.wait(1):
            return
        click.echo(f"{second:3} s  {_line(agent, network)}")
        if url and second % _URL_EVERY_S == 0:
            click.echo(f"       {url} shows it on a map")
        if agent.page.task.viewers:
            cut_s = min(cut_s, second + wait_s)
        if second in {cut_s, cut_s + away_s} and not network.used:
            network.cut(second == cut_s)


def _line(agent: Agent, network: _Network) -> str:
    """At most 80 columns with the seconds before it."""
    stats = agent.queue.stats()
    waiting = pending(stats)
    recorded = waiting + stats.acked + stats.ack_failed
    amber = round(_BAR * waiting / max(recorded, 1))
    green = _BAR - amber if recorded else 0
    full, light = "█░" if "utf" in sys.stdout.encoding.lower() else "#."
    bar = click.style(full * green, fg="green") + click.style(light * amber, fg="yellow")
    counts = f"recorded {recorded:4}  waiting {waiting:4}  delivered {stats.acked:4}"
    return f"{counts}  {_way(agent, network):<12}  {bar}"


def _way(agent: Agent, network: _Network) -> str:
    """The state of network and receiver."""
    if network.is_away():
        return "no network"
    receiver = agent.recording.receiver().state
    return "in a tunnel" if receiver == "no-fix" else "network up"


def _summary(
    sent: int, received: list[tuple[str, int, str]], *, delivered: int, waiting: int
) -> int:
    """Print the result. In a drive no two positions have the same time."""
    arrived = {time for *_, time in received}
    twice = len(received) - len(arrived)
    missing = sent - len(arrived)
    # After a second Ctrl-C some pending fixes may have arrived without an answer.
    if waiting and missing <= waiting and sent == delivered + waiting and not twice:
        wait = counted(waiting, "still waits", "still wait")
        status, how = 1, f": {wait} on the disk, none is lost."
    elif missing or twice:
        status, how = 1, f": {counted(missing, 'is', 'are')} missing, {twice:,} arrived twice."
    else:
        status, how = 0, ", and each arrived exactly once. None was lost."
    click.echo(f"{counted(sent, 'position was sent', 'positions were sent')}{how}")
    return status
