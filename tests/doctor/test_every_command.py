"""Each command that a message of the package advises was tried; this is the complete list."""

import ast
import re
from collections.abc import Iterator

from packages.test_commands_of_remedies import TRIED
from processes import ROOT

ELSEWHERE = {
    "sudo pipx install --global '{}[page]'": "tests/packages/test_pip.py",
    "sudo {} service install": "tests/packages/test_pip.py",
    "telemetry-agent run": "tests/packages/test_pip.py",
    "telemetry-agent run{}": "tests/outside/test_commands.py",
    "ALTER TABLE {} MODIFY SETTING non_replicated_deduplication_window = 10000": (
        "tests/servers/test_clickhouse.py"
    ),
}
"""Command -> the test that runs it for another reason."""

BY_HAND = {
    # Tried: the script of Raspberry Pi OS changed the boot files of a Raspberry Pi as described.
    "sudo raspi-config nonint do_overlayfs 1",
    "sudo raspi-config nonint do_serial_cons 1",
    "sudo raspi-config nonint do_serial_hw 0",
}

NO_COMMANDS = {
    *("--date YYYY-MM-DD", "Accept-Encoding: gzip", "other reasons", "receive", "received"),
    *("queue list", "queue list --state ack_failed", "service install", "service uninstall"),
    *("pmtiles extract", "telemetry-agent service install", "apt purge", "apt remove"),
}
"""Other texts between backticks: names and help texts."""


def text(node: ast.AST) -> str | None:
    """Return a string, with {} for each inserted value."""
    if isinstance(node, ast.JoinedStr):
        return "".join(text(part) or "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def advised() -> Iterator[str]:
    for file in (ROOT / "telemetry_agent").rglob("*.py"):
        tree = ast.parse(file.read_text())
        left_out = {part for node in ast.walk(tree) for part in inside(node)}
        for node in ast.walk(tree):
            if node not in left_out and (said := text(node)) is not None:
                yield from re.findall("`([^`]+)`", said)


def inside(node: ast.AST) -> Iterator[ast.AST]:
    """Parts of a formatted string, and docstrings."""
    if isinstance(node, ast.JoinedStr):
        yield from (part for part in ast.walk(node) if part is not node)
    elif isinstance(node, ast.Expr):
        yield node.value


def test_every_command_that_is_advised_was_tried() -> None:
    assert set(advised()) == TRIED.keys() | ELSEWHERE.keys() | BY_HAND | NO_COMMANDS


def test_the_tests_that_try_them_are_there() -> None:
    assert all((ROOT / file).exists() for file in ELSEWHERE.values())
