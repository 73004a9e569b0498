"""``queue stats | list | retry | resend | discard | verify``: look at the queue, and change it."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from telemetry_agent.ackqueue.recovery.verify import described
from telemetry_agent.cli.options import (
    ask,
    ask_or_read,
    ask_service,
    instant_callback,
    report_options,
)
from telemetry_agent.config import loader
from telemetry_agent.errors import AgentError, StorageError, counted
from telemetry_agent.fields import rfc3339

_STATES = ("ready", "unack", "acked", "ack_failed")
_NAME = re.compile(r"([0-9a-f]{16}):(\d{1,18})")

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def command() -> None:
    """Look at the queue, of a running agent or at rest.

    A fix is named STREAM:SEQ, as `queue list` shows it.
    """


@command.command()
@report_options
def stats(config_path: Path | None, *, as_json: bool) -> None:
    """Count the fixes that are ready, unack, acked and ack_failed."""
    question = {"ask": "queue stats"}
    try:
        settings = loader.load(config_path).settings
    except AgentError as error:
        counts = ask_service(error, config_path, question)
    else:
        (counts,) = ask_or_read(settings, question)
    if as_json:
        click.echo(json.dumps(counts))
        return
    known = {name: value for name, value in counts.items() if value is not None}
    oldest_ms = known.pop("oldest_pending_ms", None)
    for name, value in known.items():
        texts = [("no", "yes")[value] if isinstance(value, bool) else value]
        if isinstance(value, dict):
            texts = [f"{n}: {why}" for why, n in value.items()] or ["0"]
        for text in texts:
            click.echo(f"{name:<18} {text}")
    if oldest_ms is not None:  # the last line: an agent of another version may give another kind
        click.echo(f"{'oldest_pending':<18} {rfc3339(oldest_ms)}")


@command.command("list")
@report_options
@click.option("--state", type=click.Choice(_STATES), help="Only fixes in this state. Default: all.")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="How many to show; 0: all.",
)
def fixes(config_path: Path | None, *, as_json: bool, state: str | None, limit: int) -> None:
    """List the fixes, the oldest first: name, time, state, reason."""
    question = {"ask": "queue list", "state": state, "limit": limit + 1 if limit else None}
    for shown, fix in enumerate(ask(config_path, question)):
        if shown and shown == limit:
            click.echo(f"… and more: --limit {10 * limit}, or 0 for all", err=True)
            break
        if as_json:
            click.echo(json.dumps(fix))
        else:
            name = f"{fix['stream']}:{fix['seq']}"
            click.echo(
                f"{name:<24} {fix['time']} {fix['state']:<10} {fix.get('reason', '')}".rstrip()
            )


def _named(function: F) -> F:
    """Dead letters by name, or all of them."""
    names = click.argument("names", nargs=-1, metavar="[NAME…]", type=_name)
    return names(
        click.option("--all", "everything", is_flag=True, help="All dead letters.")(function)
    )


def _name(value: str) -> tuple[str, int]:
    if (match := _NAME.fullmatch(value)) is None:
        raise click.BadParameter(f"{value!r} is not a name: give STREAM:SEQ, as in `queue list`")
    return match[1], int(match[2])


@command.command()
@report_options
@_named
@click.option("--reason", metavar="TEXT", help="All dead letters whose reason has this text in it.")
def retry(
    config_path: Path | None,
    *,
    as_json: bool,
    names: tuple[tuple[str, int], ...],
    everything: bool,
    reason: str | None,
) -> None:
    """Put dead letters back: they are sent again."""
    which = _which(names, everything=everything, reason=reason)
    _change(config_path, "retry", "retried", which, as_json=as_json)


@command.command()
@report_options
@_named
@click.option("--yes", is_flag=True, help="Do not ask.")
def discard(
    config_path: Path | None,
    *,
    as_json: bool,
    names: tuple[tuple[str, int], ...],
    everything: bool,
    yes: bool,
) -> None:
    """Delete dead letters, which count as lost from then on."""
    which = _which(names, everything=everything)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("Without a terminal, --yes is needed.")
        named = counted(len(which.get("names", ())), "dead letter")
        what = "all dead letters" if everything else named
        if not click.confirm(f"Delete {what} for good?", err=True):
            raise AgentError("nothing was deleted")
    _change(config_path, "discard", "discarded", which, as_json=as_json)


def _which(
    names: tuple[tuple[str, int], ...], *, everything: bool, reason: str | None = None
) -> dict[str, Any]:
    """The part of a question that names dead letters."""
    ways = {"names": list(map(list, dict.fromkeys(names))), "all": everything, "reason": reason}
    given = {way: value for way, value in ways.items() if value}
    if len(given) != 1:
        raise click.UsageError(
            "Name the dead letters (`queue list --state ack_failed`), or give one option for them."
        )
    return given


def _change(
    config_path: Path | None, act: str, done: str, which: dict[str, Any], *, as_json: bool
) -> None:
    (answer,) = ask(config_path, {"ask": f"queue {act}", **which})
    click.echo(json.dumps(answer) if as_json else f"{counted(answer[done], 'fix')} {done}")
    missing = len(which.get("names", ())) - answer[done]
    if missing > 0:
        raise AgentError(f"dead letters not found: {missing} of these names")


@command.command()
@report_options
@click.option("--since", metavar="TIME", callback=instant_callback, help="From this time on.")
@click.option("--until", metavar="TIME", callback=instant_callback, help="Default: the newest fix.")
@click.option("--stream", metavar="STREAM", help="Of this stream, by seq.")
@click.option("--from", "first", metavar="SEQ", type=click.IntRange(1), help="The first seq.")
@click.option("--to", "last", metavar="SEQ", type=click.IntRange(1), help="The last seq.")
def resend(
    config_path: Path | None,
    *,
    as_json: bool,
    since: dict[str, Any],
    until: dict[str, Any],
    stream: str | None,
    first: int | None,
    last: int | None,
) -> None:
    """Send delivered fixes again, as far as they are kept.

    They keep their names, so an endpoint that has them already ignores them. Choose them by time
    (--since, --until), or by name (--stream, --from, --to) as `receive --audit` lists what an
    endpoint misses. TIME is a fix's own time such as 2026-11-23T12:35:19Z, or a time before the
    newest fix: 2h.
    """
    names = {"stream": stream, "from": first, "to": last}
    given = [value for value in names.values() if value is not None]
    if bool(given) == bool(since) or len(given) not in {0, len(names)} or (given and until):
        raise click.UsageError("Give --since, or --stream with --from and --to.")
    question = {"ask": "queue resend", **since, **until, **(names if given else {})}
    (answer,) = ask(config_path, question)
    said = counted(answer["resent"], "fix is sent again", "fixes are sent again")
    click.echo(json.dumps(answer) if as_json else said)


@command.command()
@report_options
def verify(config_path: Path | None, *, as_json: bool) -> None:
    """Check that all fixes are as they were stored. Changes nothing.

    The exit status is 0 if they are, and 74 if something is damaged or is still to be carried over.
    """
    settings = loader.load(config_path).settings
    *_, report = ask_or_read(settings, {"ask": "queue verify"})
    click.echo(json.dumps(report) if as_json else "\n".join(_findings(report)))
    if report.get("newer"):
        raise AgentError(
            f"the queue {settings.queue.path} was written by a newer telemetry-agent",
            "install that version again; this one sets the file aside when it starts, and carries "
            "over what it can read",
        )
    if not report["sound"]:
        raise StorageError(
            f"the queue {settings.queue.path} is damaged: the agent continues with what can be "
            "read, but the disk loses data: replace it"
        )


def _findings(report: dict[str, Any]) -> Iterator[str]:
    """The lines of a report."""
    yield f"structure: {report['structure']}"
    if "rows" in report:
        yield (
            f"fixes:     {report['rows']:,}, {report['damaged']:,} of them damaged; "
            f"{report['missing']:,} missing"
        )
        yield f"marks:     {report['damaged_marks']:,} damaged"
    for file in report["set_aside"]:
        yield f"set aside: {file['file']}, {counted(file['bytes'], 'byte')}, {file['state']}"
    for loss in report["lost"]:
        yield f"lost:      {described(loss)}"
