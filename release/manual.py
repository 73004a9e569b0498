"""The manual pages and the completions of shells, made from the command line itself."""

from collections.abc import Iterator
from datetime import UTC, datetime

import click
from click.shell_completion import get_completion_class

from telemetry_agent.cli import PROGRAM
from telemetry_agent.cli.group import cli

_FILES = """\
.SH FILES
.TP
.I /etc/telemetry-agent/config.toml
The config. Every key is in /usr/share/doc/telemetry-agent/examples/config.toml.
.TP
.I /etc/telemetry-agent/config.d/*.toml
Override it, in the order of their names.
.TP
.I /var/lib/telemetry-agent/queue.db
The queue of the service.
.SH EXIT STATUS
.TS
tab(|);
l l.
0|done
1|it failed at run time
2|the command line is wrong
69|the endpoint cannot be reached
71|the system refused something that may work next time
74|the disk or the device failed
75|another daemon holds the queue
78|the config is wrong
.TE
"""
_SEE_ALSO = f".SH SEE ALSO\n.BR {PROGRAM} (1)"


def pages(version: str, date_s: int) -> Iterator[tuple[str, str]]:
    """File name and text of each manual page: one for the program, one for each command."""
    group = click.Context(cli, info_name=PROGRAM)
    for command, context in _walk(cli, group):
        name = context.command_path.replace(" ", "-")
        yield f"{name}.1", _page(command, context, name, version, date_s)


def completions() -> dict[str, str]:
    """Path in the file system -> the text that the shell reads there."""
    paths = {
        "bash": f"usr/share/bash-completion/completions/{PROGRAM}",
        "zsh": f"usr/share/zsh/vendor-completions/_{PROGRAM}",
        "fish": f"usr/share/fish/vendor_completions.d/{PROGRAM}.fish",
    }
    found = {}
    for shell, path in paths.items():
        kind = get_completion_class(shell)
        assert kind is not None
        # Not ``source()``: that of bash asks the machine's bash for its version.
        made = kind(cli, {}, PROGRAM, f"_{PROGRAM.upper().replace('-', '_')}_COMPLETE")
        found[path] = made.source_template % made.source_vars()
    return found


def _walk(
    command: click.Command, context: click.Context
) -> Iterator[tuple[click.Command, click.Context]]:
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _walk(inner, click.Context(inner, parent=context, info_name=name))


def _page(
    command: click.Command, context: click.Context, name: str, version: str, date_s: int
) -> str:
    day = datetime.fromtimestamp(date_s, UTC).strftime("%Y-%m-%d")
    paragraphs = (command.help or "").split("\n\n")
    summary = " ".join(paragraphs[0].split()).rstrip(".")
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [
        "'\\\" t",
        f'.TH {_said(name.upper())} 1 {day} "{PROGRAM} {version}" "User Commands"',
        ".SH NAME",
        f"{_said(name)} \\- {_said(summary)}",
        ".SH SYNOPSIS",
        f".B {_said(context.command_path)}",
        _said(usage),
        ".SH DESCRIPTION",
    ]
    for paragraph in paragraphs:
        lines += [".PP", _said(" ".join(paragraph.split()))]
    records = [p.get_help_record(context) for p in command.get_params(context)]
    if options := [record for record in records if record]:
        lines.append(".SH OPTIONS")
        for option, said in options:
            lines += [".TP", f".B {_said(option)}", _said(said) or "\\&"]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for inner_name in command.list_commands(context):
            inner = command.get_command(context, inner_name)
            assert inner is not None
            lines += [".TP", f".B {_said(inner_name)}", _said(inner.get_short_help_str(200))]
    lines.append(_FILES.rstrip() if context.parent is None else _SEE_ALSO)
    return "\n".join(lines) + "\n"


def _said(text: str) -> str:
    """As roff expects it: a backslash, a leading dot and a dash have a meaning there."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in {".", "'"} else escaped
