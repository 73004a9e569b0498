"""The commands by name: the module of a command is imported only when the command runs."""

import importlib
import os
import sys
from types import FrameType
from typing import Any

import click

from telemetry_agent import __version__
from telemetry_agent.cli import INTERRUPTED, PROGRAM, on_end
from telemetry_agent.errors import AgentError

_COMMANDS = {
    "init": "Find the receiver, try the endpoint, write the config.",
    "service": "Install the systemd service after pip, pipx or uv.",
    "run": "Run the daemon in the foreground.",
    "doctor": "Check everything from the receiver to the endpoint.",
    "status": "Show the running agent; --watch: refresh every second.",
    "queue": "Look at the queue, send again, delete.",
    "drain": "Send the backlog now.",
    "export": "Write the stored track as GPX, GeoJSON, KML, CSV or NDJSON.",
    "tap": "Show what the receiver sends, from the running agent.",
    "config": "Show and check the config, or remove its kept copy.",
    "demo": "Run everything on this machine: receiver, agent, endpoint.",
    "decode": "Read NMEA, write one JSON fix per line.",
    "receive": "Run the reference endpoint, which stores each fix once.",
    "simulate": "Simulate a GNSS receiver on a pty.",
}


class _LazyGroup(click.Group):
    """A group that lists its commands without importing them."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if super().get_command(ctx, cmd_name) is None:
            return None
        module = importlib.import_module(f"{__package__}.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            resolved = super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib  # noqa: PLC0415 - only a wrong command needs it

            close = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            if not close:
                raise
            raise click.UsageError(
                f"No such command {args[0]!r}. Did you mean {close[0]!r}?", ctx
            ) from error
        on_end(_end)  # what is left in temporary files is removed
        return resolved

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.command(
    cls=_LazyGroup,
    commands={name: click.Command(name) for name in _COMMANDS},
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name=PROGRAM)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Record GNSS positions and deliver every one of them."""
    # https://no-color.org; click knows neither.
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        ctx.color = False


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def run(args: list[str]) -> Any:
    """Run one command, and return what it returns; if the command line is wrong, exit."""
    try:
        return cli.main(args, prog_name=PROGRAM, standalone_mode=False)
    except click.Abort:
        sys.exit(INTERRUPTED)
    except click.UsageError as error:
        text = error.format_message()
        path = error.ctx.command_path if error.ctx else PROGRAM
        # Without a subcommand, click raises an error whose text is the help.
        is_help = text.startswith("Usage:")
        end = "" if text.endswith((".", "?")) else "."
        click.echo(text if is_help else f"{PROGRAM}: {text}{end} See '{path} --help'.", err=True)
        sys.exit(error.exit_code)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        from telemetry_agent.daemon import client  # noqa: PLC0415 - many commands do not ask

        if not client.answered or isinstance(error, UnicodeError):  # ``main`` reports that
            raise
        raise AgentError(
            f"this command does not understand the agent's answer: {error!r}",
            "restart the service, so that both have one version",
        ) from error
