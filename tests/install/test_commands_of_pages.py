"""Everything in the documentation exists: commands, options, targets, files, and an example.

``test_blocks_of_pages.py`` also runs the commands in code blocks.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from documents import LINKING, PAGES, anchors, blocks, blocks_of
from once import SOURCE
from processes import ROOT, environment

from telemetry_agent.cli import PROGRAM
from telemetry_agent.cli.group import cli

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands(page: Path) -> Iterator[list[str]]:
    """Yield every command line in code blocks and between backticks, as words."""
    fenced = [block.text for block in blocks_of(page) if block.language in {"", "sh", "console"}]
    rest = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines: list[str] = []
    for block in fenced:
        whole = block.replace("\\\n", " ").splitlines()
        # If a block has prompts, its lines without a prompt are output.
        lines += [line for line in whole if line.startswith("$ ")] or whole
    for line in lines + re.findall(r"`([^`\n]+)`", rest):
        for part in re.split(r"\s(?:&&|\|\|?)\s", line):
            try:
                words = shlex.split(part.removeprefix("$ "), comments=True)
            except ValueError:
                continue  # prose with an apostrophe
            while words and (words[0] == "sudo" or re.fullmatch(r"[A-Z_]+=\S*", words[0])):
                del words[0]
            if words:
                yield words


def fault(words: list[str]) -> str | None:
    """The part of the command that does not exist."""
    program, *rest = words
    if program.rpartition("/")[2] == PROGRAM:
        return _unknown(rest)
    if program == "make":
        named = [word for word in rest if re.fullmatch(r"[a-z-]+", word)]
        return next((f"make {word}" for word in named if word not in TARGETS), None)
    if re.search(r"\bpython\S*$", program) and rest:
        paths = [word for word in rest if re.match(r"(?:benchmarks|tests|release)/", word)]
        lost = [path for path in paths if not (ROOT / path.partition("::")[0]).exists()]
        if not lost and rest[0].startswith("benchmarks/"):
            source = (ROOT / rest[0]).read_text()
            named = [re.split(r"[= ]", word.strip("[]"))[0] for word in rest[1:]]
            lost = [word for word in named if word.startswith("--") and f'"{word}"' not in source]
        return next(iter(lost), None)
    return None


def _unknown(words: list[str]) -> str | None:
    command: click.Command = cli
    context = click.Context(cli, info_name=PROGRAM)
    options = set(context.help_option_names) | {"--version"}
    for word in words:
        if isinstance(command, click.Group) and re.fullmatch(r"[a-z]+", word):
            inner = command.get_command(context, word)
            if inner is None:
                return f"{context.command_path} {word}"
            command, context = inner, click.Context(inner, parent=context, info_name=word)
            names = [(*p.opts, *p.secondary_opts) for p in command.get_params(context)]
            options = {name for group in names for name in group} | {"--help", "-h"}
        elif re.match(r"--[a-z]", word) and re.split(r"[=\]]", word)[0] not in options:
            return f"{context.command_path} {word}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_is_there(page: Path) -> None:
    faults = [(" ".join(words), fault(words)) for words in commands(page)]
    assert [(line, what) for line, what in faults if what] == []


@SOURCE
@pytest.mark.parametrize("page", LINKING, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_file_and_heading_that_a_page_links_to_is_there(page: Path) -> None:
    text = page.read_text()
    linked = re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)
    linked += re.findall(r'(?:src|srcset|href)="(?!https?:)([^"]+)"', text)
    assert [link for link in linked if not _leads_somewhere(page, link)] == []


def _leads_somewhere(page: Path, link: str) -> bool:
    name, _, heading = link.partition("#")
    target = page.parent / name if name else page
    return target.exists() and (not heading or heading in anchors(target))


BENCHMARKS = [
    path
    for path in sorted((ROOT / "benchmarks").glob("*.py"))
    if 'if __name__ == "__main__"' in path.read_text()
]


@pytest.mark.once("who runs a benchmark has one Python; the tests run what it measures")
@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda path: path.stem)
def test_each_benchmark_says_what_it_takes(benchmark: Path) -> None:
    done = subprocess.run(
        [sys.executable, benchmark, "--help"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.partition(" ")[0]) == (0, "usage:"), done.stderr


@SOURCE
def test_the_reader_sees_a_running_device_within_60_lines() -> None:
    head = "\n".join((ROOT / "README.md").read_text().splitlines()[:60])
    assert "telemetry-agent init" in head
    assert "$ telemetry-agent status" in head
    assert "## Four doors" in head


def test_the_example_of_the_queue_runs_as_printed(tmp_path: Path) -> None:
    (example, *_) = blocks("ackqueue.md", "python")
    for _ in range(2):  # a second run also works
        done = subprocess.run(
            [sys.executable, "-c", example],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(" 1 48.1173 11.516667\n")
