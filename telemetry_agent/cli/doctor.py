"""``doctor``: what is wrong, and what to do about it."""

import json
import logging
import shutil
import sys
import textwrap
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from telemetry_agent.cli.options import report_options
from telemetry_agent.doctor.checks import NAMES, examine
from telemetry_agent.doctor.findings import Finding, Verdict

_SIGNS: dict[Verdict, tuple[str, str]] = {
    "pass": ("✔", "green"),
    "warn": ("!", "yellow"),
    "fail": ("✘", "red"),
    "skip": ("-", "bright_black"),
}
_NAME_WIDTH = max(map(len, NAMES))
_INDENT = " " * (len("✔ pass  ") + _NAME_WIDTH + 2)


@click.command()
@report_options
@click.option(
    "--send", is_flag=True, help="Send the endpoint one position, and requests that it must refuse."
)
def command(config_path: Path | None, *, as_json: bool, send: bool) -> int:
    """Check everything from the receiver to the endpoint; report faults and their remedies.

    It takes less than 15 s, with or without a running agent, and changes nothing. The endpoint
    gets a request without a position. Exit status 1 if a check failed.
    """
    logging.disable()  # the findings report what the parts log
    counts: Counter[Verdict] = Counter()
    found: list[Finding] = []
    for finding in examine(config_path, send=send):
        counts[finding.verdict] += 1
        found.append(finding)
        if not as_json:
            _write(finding)
    verdict: Verdict = "fail" if counts["fail"] else "warn" if counts["warn"] else "pass"
    if as_json:
        said = {"verdict": verdict, "checks": [asdict(finding) for finding in found]}
        click.echo(json.dumps(said, indent=2, ensure_ascii=False))
    else:
        click.echo(f"\n{_summary(counts)}")
    return 1 if counts["fail"] else 0


def _write(finding: Finding) -> None:
    sign, colour = _SIGNS[finding.verdict]
    word = click.style(f"{sign} {finding.verdict}", fg=colour)
    said = _fitted(finding.said, _INDENT).lstrip()
    click.echo(f"{word}  {finding.name:<{_NAME_WIDTH}}  {said}")
    if finding.remedy:
        click.echo(_fitted(f"→ {finding.remedy}", _INDENT, "  "))


def _fitted(text: str, indent: str, more: str = "") -> str:
    """The text, wrapped to the width of the terminal; in a file it is one line."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    return textwrap.fill(
        text,
        max(width, 2 * len(indent)),
        initial_indent=indent,
        subsequent_indent=indent + more,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _summary(counts: Counter[Verdict]) -> str:
    passed = f"{counts['pass']} passed"
    if counts["fail"]:
        return f"{counts['fail']} failed, {counts['warn']} to look at, {passed}: begin at the top."
    if counts["warn"]:
        return f"Nothing failed, {counts['warn']} to look at, {passed}."
    return f"All is well: {passed}."
