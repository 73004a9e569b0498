"""Options and output that several commands share."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from telemetry_agent.daemon import client
from telemetry_agent.daemon.client import AGE_MAX_S, Answers
from telemetry_agent.errors import JOIN, AgentError

if TYPE_CHECKING:
    from telemetry_agent.config.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

config_option = click.option(
    "--config",
    "config_path",
    type=Path,  # not click.Path, which looks at the file: a dead mount may never answer
    metavar="FILE",
    help="The config file. Default: /etc/telemetry-agent/config.toml, then ./config.toml.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Report as JSON.")


def report_options(function: F) -> F:
    """The options of every command that reads the config and reports: --config and --json."""
    return config_option(_json_option(function))


def ask(config_path: Path | None, question: Mapping[str, Any]) -> Answers:
    """``ask_or_read`` with this config; raises AgentError if that is wrong, too."""
    from telemetry_agent.config import loader  # noqa: PLC0415 - status does not need it

    return ask_or_read(loader.load(config_path).settings, question)


def ask_or_read(settings: "Settings", question: Mapping[str, Any]) -> Answers:
    """Ask the running agent about its queue; if none runs, read the queue at rest.

    Raises:
        AgentError: see ``client.ask`` and ``at_rest.answers``.
    """
    try:
        yield from client.ask(settings.queue.path, question, say)
    except client.NoAgentError:
        # It imports SQLite, which is not needed if an agent answers.
        from telemetry_agent.daemon import at_rest  # noqa: PLC0415

        yield from at_rest.answers(settings, question, say)


def toml_string(value: object) -> str:
    """A value of the config, as text. TOML has no surrogates, so no character is escaped as one."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def say(text: str) -> None:
    """Write a note to standard error."""
    click.echo(f"telemetry-agent: {text}", err=True)


def ask_service(
    error: AgentError, config_path: Path | None, question: Mapping[str, Any]
) -> dict[str, Any]:
    """The one answer of the service, whatever its queue: the config does not work, by ``error``.

    The service may run with its last good config.

    Raises:
        AgentError: ``error``, if the service does not run.
    """
    try:
        (answer,) = client.ask(None, question, say)
    except client.NoAgentError:
        raise error from None
    # Without --config, a config that this user may not read is as it should be.
    if config_path is not None or error.remedy != JOIN:
        say(f"{error}; this is the service, which may use another config")
    return answer


@contextmanager
def progress_bar(text: str, *, shown: bool) -> Iterator[Callable[..., None]]:
    """A function that updates a bar on standard error; if it is not ``shown``, it does nothing."""
    if not shown:
        yield lambda **_fields: None
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.progress import Progress  # noqa: PLC0415 - the same

    with Progress(console=Console(stderr=True), transient=True) as progress:
        yield partial(progress.update, progress.add_task(text, total=None))


def duration(value: str) -> float:
    """The type of an option with a value such as ``30s``: seconds."""
    from telemetry_agent.config.values import DURATION  # noqa: PLC0415 - status does not need it

    try:
        seconds: float = DURATION.read(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}") from None
    return seconds


def day(value: str) -> datetime:
    """The type of an option with a value such as ``2026-11-23``: its beginning, without a zone."""
    with suppress(ValueError):
        found = datetime.fromisoformat(value)
        if 1970 <= found.year < 9999 and found.time() == time():  # so that zones cannot overflow
            return found
    raise click.BadParameter(f"{value!r}: a day such as 2026-11-23")


def instant_callback(
    _context: click.Context, parameter: click.Parameter, value: str | None
) -> dict[str, Any]:
    """The part of a question for an option whose value is a time, or an age of the newest fix."""
    from telemetry_agent.config.values import DURATION  # noqa: PLC0415 - as above

    if value is None:
        return {}
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        with suppress(ValueError):
            if (age_s := DURATION.read(value)) <= AGE_MAX_S:
                return {f"{parameter.name}_age_s": age_s}
        raise click.BadParameter(
            f"{value!r}: a time such as 2026-11-23T12:35:19Z, or an age of at most 50 years, such "
            "as 2h"
        ) from None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return {f"{parameter.name}_ms": round(instant.timestamp() * 1000)}
