"""``receive``: the reference endpoint."""

import json
import resource
import signal
from contextlib import closing
from pathlib import Path

import click

from telemetry_agent.cli import ends
from telemetry_agent.errors import StorageError, counted
from telemetry_agent.lab.endpoint import Endpoint, Fault, Tokens
from telemetry_agent.lab.endpoint.audit import lines
from telemetry_agent.lab.endpoint.database import FixDatabase


@click.command("receive")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:8080",
    show_default=True,
    help="Port 0: any free one.",
)
@click.option(
    "--db",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default="received.db",
    show_default=True,
    help="SQLite file; created if it does not exist.",
)
@click.option(
    "--fail",
    "patterns",
    metavar="PATTERN",
    multiple=True,
    help="Inject faults (repeatable): 503 (each request), 503:0.3 (3 of 10), 503x5 (the first 5). "
    "Other faults than a status: drop (store, then close without an answer), hang (never answer).",
)
@click.option(
    "--tokens",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help='TOML with a token for each device: van-07 = "token". Default: everyone may send.',
)
@click.option(
    "--ask-again",
    "asks_again",
    is_flag=True,
    help="Ask agents to send again what the audit misses, as far as they keep it.",
)
@click.option(
    "--audit",
    is_flag=True,
    help="Do not listen: report for each device until when it is complete, or what is missing. "
    "Exit status 1 if fixes are missing.",
)
@click.option("--json", "as_json", is_flag=True, help="With --audit: report as JSON.")
def command(
    listen: str,
    db: Path,
    patterns: tuple[str, ...],
    tokens: Path | None,
    *,
    asks_again: bool,
    audit: bool,
    as_json: bool,
) -> int:
    """The reference endpoint: stores each fix once.

    Prints the URL for fixes. Ctrl-C ends it with a summary. GET /v1/agents lists the newest report
    of each agent, GET /v1/audit says whether all fixes that agents account for are here, and GET
    /openapi.json describes the endpoint.
    """
    if audit:
        return _audit(db, as_json=as_json)
    if as_json:
        raise click.UsageError("--json needs --audit.")
    # Each agent keeps a connection, and the usual limit is 1,024 descriptors.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # Before any thread starts, so that all of them leave these signals to sigwait.
    stops = ends()
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    faults = [Fault.parse(pattern) for pattern in patterns]
    allowed = Tokens(tokens) if tokens else None
    with Endpoint(listen, db, faults, tokens=allowed, asks_again=asks_again) as endpoint:
        click.echo(endpoint.url)
        signal.sigwait(stops)
        seen = endpoint.counters
        click.echo(
            f"{counted(endpoint.count(), 'fix')} in {db}: {seen['stored']:,} new, "
            f"{seen['known']:,} came again, {seen['rejected']:,} rejected; "
            f"{counted(seen['failed'], 'request')} failed by faults",
            err=True,
        )
    return 0


def _audit(db: Path, *, as_json: bool) -> int:
    if not db.exists():
        raise StorageError(f"the database {db} does not exist", "name it with --db")
    with closing(FixDatabase(db, read_only=True)) as database:
        audits = database.audits()
    if as_json:
        click.echo(json.dumps(audits))
    elif not audits:
        click.echo("no agent has sent an account of its streams yet")
    else:
        click.echo("\n".join(line for each in audits for line in lines(each)))
    return 0 if audits and all(each["complete"] for each in audits) else 1
