"""``tap``: what the receiver sends, from the running agent."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from telemetry_agent.cli.options import duration, report_options, say
from telemetry_agent.config import loader
from telemetry_agent.daemon import client
from telemetry_agent.errors import AgentError, counted

_LINE_MAX = 4096  # a binary protocol has no lines


@click.command()
@report_options
@click.option("--for", "for_s", type=duration, help="How long, such as 60s. Default: until Ctrl-C.")
def command(config_path: Path | None, *, as_json: bool, for_s: float | None) -> None:
    """Show what the receiver sends, line by line.

    The agent continues to record. If you read too slowly, lines are left out, with a note.
    """
    path = loader.load(config_path).settings.queue.path
    try:
        for line in _lines(client.ask(path, {"ask": "tap", "for_s": for_s}, say)):
            if as_json:
                click.echo(json.dumps({"line": line.rstrip("\r\n")}))
            else:
                _write(line)
    except client.NoAgentError as error:
        raise AgentError(
            "no agent is running, and tap shows what a running agent reads: start it, "
            "or read the receiver with cat"
        ) from error


def _lines(answers: Iterator[dict[str, Any]]) -> Iterator[str]:
    begun = ""
    for answer in answers:
        if "state" in answer:
            click.echo(f"tap: {answer['source']}: {answer['state']}", err=True)
        if "dropped_bytes" in answer:
            dropped = counted(answer["dropped_bytes"], "byte is", "bytes are")
            click.echo(f"tap: reading too slowly, {dropped} left out", err=True)
        *whole, begun = (begun + answer.get("raw", "")).split("\n")
        yield from (f"{line}\n" for line in whole)
        if len(begun) > _LINE_MAX:
            yield begun
            begun = ""
    if begun:
        yield begun


def _write(line: str) -> None:
    """Write byte for byte; on a terminal replace control characters."""
    if sys.stdout.isatty():
        line = "".join(c if c.isascii() and c.isprintable() else "." for c in line.rstrip()) + "\n"
    sys.stdout.buffer.write(line.encode("latin-1"))
    sys.stdout.buffer.flush()
