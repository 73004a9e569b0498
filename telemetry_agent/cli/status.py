"""``status``: the running agent at a glance."""

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from telemetry_agent.cli.ask import check_queue
from telemetry_agent.cli.options import config_option, json_option
from telemetry_agent.config import loader
from telemetry_agent.daemon import client
from telemetry_agent.errors import AgentError

_WATCH_EVERY_S = 1.0
_WITH_POSITION = {"2d", "3d"}


@click.command()
@config_option
@json_option
@click.option("--watch", is_flag=True, help="Live, until Ctrl-C; not on a terminal: a line each.")
def command(config_path: Path | None, *, as_json: bool, watch: bool) -> None:
    """How the agent does: its receiver, its uploads, its queue.

    Where none runs, it says so, and tells what waits in the queue.
    """
    path = loader.load(config_path).settings.queue.path
    if watch:
        _watch(path, as_json=as_json)
        return
    told = _running(path)
    if not told["running"]:
        told |= _at_rest(path)
    click.echo(json.dumps(told) if as_json else "\n".join(lines(told)))


def _running(path: Path) -> dict[str, Any]:
    try:
        return next(client.ask(path, {"ask": "status"}))
    except client.NoAgentError:
        return {"running": False}


def _at_rest(path: Path) -> dict[str, Any]:
    """What can be told without an agent."""
    from telemetry_agent.ackqueue.queue import AckQueue  # noqa: PLC0415 - only needed here
    from telemetry_agent.daemon.status import queue_fields  # noqa: PLC0415 - the same

    try:
        check_queue(path)
    except AgentError as error:
        return {"note": str(error)}
    with AckQueue(path) as queue:
        return {"queue": queue_fields(queue.stats(), path.parent)}


def _watch(path: Path, *, as_json: bool) -> None:
    """It never opens the queue: that would keep an agent from starting."""
    tick = threading.Event()
    if as_json or not sys.stdout.isatty():
        while True:
            told = _running(path)
            click.echo(json.dumps(told) if as_json else "; ".join(lines(told)))
            tick.wait(_WATCH_EVERY_S)
    from rich.live import Live  # noqa: PLC0415 - slow to import, and not needed elsewhere
    from rich.text import Text  # noqa: PLC0415 - the same

    with Live(auto_refresh=False, screen=False) as live:
        while True:
            live.update(Text("\n".join(lines(_running(path)))), refresh=True)
            tick.wait(_WATCH_EVERY_S)


def lines(told: dict[str, Any]) -> Iterator[str]:
    """A snapshot in plain words, without a word about what is not known."""
    if not told["running"]:
        yield "no agent runs"
        if "note" in told:
            yield told["note"]
    else:
        yield (
            f"telemetry-agent {told['version']}, {told['device']}, "
            f"running for {span(told['uptime_s'])}"
        )
        yield f"recording: {_receiver(told['receiver'])}"
        yield f"uploading: {_upload(told['upload'])}"
        if told.get("page", {}).get("state") == "held":
            yield f"page:      held: {told['page']['last_error']}"
    if "queue" in told:
        yield f"queue:     {_queue(told['queue'])}"
        for name, title in (("dead_letters", "refused"), ("lost", "lost")):
            for reason, count in told["queue"][name].items():
                yield f"{title + ':':<10} {count:,}: {reason}"


def _receiver(receiver: dict[str, Any]) -> str:
    state = receiver["state"]
    said = [f"{state} fix" if state in _WITH_POSITION else state]
    if state in _WITH_POSITION:
        if "sats" in receiver:
            said.append(f"{receiver['sats']} satellites")
        if receiver.get("quality", "gps") != "gps":
            said.append(receiver["quality"])
        if "hdop" in receiver:
            said.append(f"hdop {receiver['hdop']:g}")
    else:
        said[0] += f" for {span(receiver['state_s'])}"
    if "fix_age_s" in receiver:
        said.append(
            f"{'' if state in {'2d', '3d'} else 'last fix '}{span(receiver['fix_age_s'])} ago"
        )
    text = ", ".join(said)
    if receiver.get("antenna", "OK") != "OK":
        text += f"; antenna {receiver['antenna']}"
    if receiver["rate_hz"]:
        text += f"; {pace(receiver['rate_hz'])}"
    if receiver["rejected"]:
        dropped = ", ".join(f"{count:,} {why}" for why, count in receiver["rejected"].items())
        text += f"; dropped {dropped}"
    if receiver["not_recorded"]:
        spared = ", ".join(f"{count:,} {why}" for why, count in receiver["not_recorded"].items())
        text += f"; not recorded {spared}"
    return f"{text} ({receiver['source']})"


def _upload(upload: dict[str, Any]) -> str:
    text = f"{upload['state']} for {span(upload['state_s'])}"
    if upload["state"] != "ok":
        text += f": {upload['last_error']}" if "last_error" in upload else ""
        if "next_attempt_s" in upload:
            text += f"; next attempt in {span(upload['next_attempt_s'])}"
    text += f"; {upload['delivered']:,} delivered"
    if upload["rate_hz"]:
        text += f", {pace(upload['rate_hz'])}"
    if "last_delivery_s" in upload:
        text += f", last {span(upload['last_delivery_s'])} ago"
    if upload["state"] == "ok" and "last_error" in upload:
        text += f"; last error {span(upload['last_error_s'])} ago: {upload['last_error']}"
    return f"{text}; {size(upload['sent_bytes_24h'])} sent in 24 h ({upload['host']})"


def _queue(queue: dict[str, Any]) -> str:
    text = f"{queue['pending']:,} pending"
    if "oldest_pending" in queue:
        text += f", oldest from {queue['oldest_pending']}"
    dead = sum(queue["dead_letters"].values())
    lost = sum(queue["lost"].values())
    text += f"; {dead:,} dead letters" if dead else ""
    text += f"; {lost:,} lost" if lost else "; nothing lost"
    text += "; full" if queue["full"] else ""
    text += "; more is carried over from a damaged file" if queue["carrying_over"] else ""
    return f"{text}; {size(queue['file_bytes'])}, {size(queue['disk_free_bytes'])} free on its disk"


def pace(rate_hz: float) -> str:
    """``0.017 a second``, ``9.9 a second``, ``12,346 a second``."""
    return f"{rate_hz:.2g} a second" if rate_hz < 10 else f"{rate_hz:,.0f} a second"


def span(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``5 min``, ``3 h 20 min``, ``4 d 2 h``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def size(count: float) -> str:
    """``512 B``, ``1.4 MB``."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
