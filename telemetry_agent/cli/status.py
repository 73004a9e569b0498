"""``status``: the running agent at a glance."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import click

from telemetry_agent import __version__, snapshot
from telemetry_agent.cli.options import ask_service, report_options, say
from telemetry_agent.clock import span
from telemetry_agent.config.files import queue_path
from telemetry_agent.daemon import client
from telemetry_agent.disks import size
from telemetry_agent.errors import AgentError, QueueLockedError, counted
from telemetry_agent.snapshot import (
    AtRest,
    Counts,
    QueueView,
    ReceiverView,
    Snapshot,
    UploadView,
    read,
)

_QUESTION = {"ask": "status"}
_WATCH_EVERY_S = 1.0
_ASK_WITH_SUDO = "sudo shows why"


@click.command()
@report_options
@click.option(
    "--watch",
    is_flag=True,
    help="Refresh every second until Ctrl-C. Without a terminal, or on one that cannot move the "
    "cursor, print one line per update.",
)
def command(config_path: Path | None, *, as_json: bool, watch: bool) -> None:
    """Show the state of the running agent: its receiver, its uploads, its queue.

    If no agent runs, show what waits in the queue.
    """
    path: Path | None = None
    view: Snapshot | AtRest = AtRest()
    try:
        path = queue_path(config_path)
    except AgentError as error:
        view = _of_service(error, config_path)
    if watch:
        _watch(path, as_json=as_json)
    if path is not None:
        view = running(path) or _at_rest(path, config_path)
    click.echo(_text(view, in_json=as_json))


def running(path: Path | None) -> Snapshot | None:
    """The snapshot of the agent with this queue, or of the service; ``None`` if none runs."""
    try:
        return read(Snapshot, next(client.ask(path, _QUESTION)))
    except client.NoAgentError:
        return None


def _of_service(error: AgentError, config_path: Path | None) -> Snapshot:
    return read(Snapshot, ask_service(error, config_path, _QUESTION))


def _at_rest(path: Path, config_path: Path | None) -> Snapshot | AtRest:
    from telemetry_agent.config import loader  # noqa: PLC0415 - takes 0.1 s
    from telemetry_agent.daemon import at_rest  # noqa: PLC0415 - only needed here
    from telemetry_agent.daemon.status import queue_view  # noqa: PLC0415 - the same

    notes: list[str] = []
    try:
        loader.load(config_path)
    except AgentError as error:
        try:
            return _of_service(error, config_path)  # with the queue of its last good config
        except AgentError:
            say(f"{error}; this is its queue, {path}")
    try:
        at_rest.check(path, os.R_OK)
        (stats,) = at_rest.look(path, notes.append, lambda queue: iter([queue.stats()]))
        view = queue_view(stats, path.parent)
    except AgentError as error:
        return AtRest(note=str(error), busy=isinstance(error, QueueLockedError))
    return AtRest(queue=view, note=notes[0] if notes else None)


def _text(view: Snapshot | AtRest, end: str = "\n", *, in_json: bool) -> str:
    return json.dumps(snapshot.as_json(view)) if in_json else end.join(lines(view))


def _watch(path: Path | None, *, as_json: bool) -> None:
    """Refresh until Ctrl-C. Never opens the queue, but looks whether an agent holds it."""
    from telemetry_agent.ackqueue.file.lock import check_at_rest  # noqa: PLC0415 - imports SQLite

    def view() -> Snapshot | AtRest:
        try:
            if (found := running(path)) is not None:
                return found
            if path is not None:
                check_at_rest(path)
        except AgentError as error:  # it ended while it answered, it is frozen, it starts
            return AtRest(note=str(error), busy=True)
        return AtRest()

    tick = threading.Event()
    in_lines = as_json or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb"
    while True:
        if not in_lines:
            click.clear()
        click.echo(_text(view(), "; " if in_lines else "\n", in_json=as_json))
        tick.wait(_WATCH_EVERY_S)


def lines(view: Snapshot | AtRest) -> Iterator[str]:
    """A snapshot in plain words. What is unknown is left out."""
    if isinstance(view, Snapshot):
        yield f"telemetry-agent {view.version}, {view.device}, running for {span(view.uptime_s)}"
        if view.version != __version__:
            yield f"note:      restart the service to run {__version__}, which is installed"
        if (note := snapshot.other_protocol(view.protocol)) is not None:
            yield f"note:      {note}"
        yield from _troubles(view)
        yield f"recording: {_receiver(view.receiver)}"
        yield f"uploading: {_upload(view.upload)}"
        if view.upload.complete_until is not None:
            yield f"complete:  at the endpoint until {view.upload.complete_until}"
        if view.page is not None and view.page.state == "held":
            yield f"page:      held: {view.page.last_error or _ASK_WITH_SUDO}"
    else:
        yield "no agent answers" if view.busy else "no agent runs"
        if view.note is not None:
            yield view.note
    if view.queue is not None:
        yield f"queue:     {_queue(view.queue)}"
        for counts, title in ((view.queue.dead_letters, "refused"), (view.queue.lost, "lost")):
            for reason, count in counts.items():
                yield f"{title + ':':<10} {count:,}: {reason}"


def _troubles(view: Snapshot) -> Iterator[str]:
    if view.config is not None:
        why = view.config.last_error or _ASK_WITH_SUDO
        yield f"config:    the last good config is in effect: {why}"
    if view.storage is not None:
        meaning = {
            "forgets": "a power cut loses everything",
            "runtime": "the state directory fails",
            "covered": "the disk of the queue is not mounted any more",
        }
        said = str(view.storage) or f"{meaning[view.storage.state]}; {_ASK_WITH_SUDO}"
        yield f"storage:   {said}"
    if view.queue.disk_error is not None:
        yield f"storage:   {view.queue.disk_error}; new fixes wait in memory"
    if view.receiver.message is not None:
        yield f"receiver:  {view.receiver.message}: {view.receiver.remedy}"
    if view.receiver.notice is not None:
        yield f"receiver:  {view.receiver.notice}"


def _receiver(receiver: ReceiverView) -> str:
    if receiver.has_position:
        said = [f"{receiver.state} fix"]
        if receiver.sats is not None:
            said.append(counted(receiver.sats, "satellite"))
        if receiver.quality not in {None, "gps"}:
            said.append(str(receiver.quality))
        if receiver.hdop is not None:
            said.append(f"hdop {receiver.hdop:g}")
    else:
        is_open = receiver.state == "absent" and receiver.message is None
        said = [f"{'no sentence yet' if is_open else receiver.state} for {span(receiver.state_s)}"]
    if receiver.fix_age_s is not None:
        said.append(f"{'' if receiver.has_position else 'last fix '}{span(receiver.fix_age_s)} ago")
    text = ", ".join(said)
    if receiver.antenna not in {None, "OK"}:
        text += f"; antenna {receiver.antenna}"
    if receiver.rate_hz:
        text += f"; {pace(receiver.rate_hz)}"
    if receiver.rejected:
        text += f"; dropped {_by_reason(receiver.rejected)}"
    if receiver.not_recorded:
        text += f"; not recorded {_by_reason(receiver.not_recorded)}"
    return f"{text} ({receiver.source})"


def _by_reason(counts: Counts) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())


def _upload(upload: UploadView) -> str:
    if upload.state == "ok" and not upload.requests:
        return f"not tried yet ({upload.host})"
    text = f"{upload.state} for {span(upload.state_s)}"
    if upload.state != "ok":
        text += f": {upload.last_error or _ASK_WITH_SUDO}"
        if upload.next_attempt_s is not None:
            text += f"; next attempt in {span(upload.next_attempt_s)}"
    text += f"; {upload.delivered:,} delivered"
    if upload.rate_hz:
        text += f", {pace(upload.rate_hz)}"
    if upload.last_delivery_s is not None:
        text += f", last {span(upload.last_delivery_s)} ago"
    if upload.unknown_names:
        unknown = counted(upload.unknown_names, "fix")
        text += f"; answers named {unknown} that their requests did not hold"
    if upload.state == "ok" and upload.backlog_error is not None:
        text += f"; the backlog is refused: {upload.backlog_error}"
    elif upload.state == "ok" and upload.last_error is not None:
        text += f"; last error {span(upload.last_error_s or 0.0)} ago: {upload.last_error}"
    return f"{text}; {size(upload.sent_bytes_24h)} sent in 24 h ({upload.host})"


def _queue(queue: QueueView) -> str:
    text = f"{queue.pending:,} pending"
    if queue.oldest_pending is not None:
        text += f", oldest from {queue.oldest_pending}"
    dead = sum(queue.dead_letters.values())
    lost = sum(queue.lost.values())
    text += f"; {counted(dead, 'dead letter')}" if dead else ""
    text += f"; {lost:,} lost" if lost else "; nothing lost"
    text += "; full" if queue.full else ""
    text += "; more is carried over from a damaged file" if queue.carrying_over else ""
    return f"{text}; {size(queue.file_bytes)}, {size(queue.disk_free_bytes)} free on its disk"


def pace(rate_hz: float) -> str:
    """``0.017 a second``, ``9.9 a second``, ``12,346 a second``."""
    return f"{rate_hz:.2g} a second" if rate_hz < 10 else f"{rate_hz:,.0f} a second"
