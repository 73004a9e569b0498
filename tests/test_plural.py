"""A message that counts uses ``counted``: "1 fix waits", never "1 fixes wait"."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from once import SOURCE

import telemetry_agent
from telemetry_agent.errors import counted

PACKAGE = Path(telemetry_agent.__file__).parent
_NOUNS = (
    "fixes|positions|files|rows|pages|lines|sentences|satellites|letters|marks|requests|days|ones"
)
_COUNTS = re.compile(
    rf" (?:(?:more|new|short|dead|log|damaged|delivered|undelivered) )?(?:{_NOUNS}|wait)\b"
)
_PERCENT = re.compile(rf"%d(?:{_COUNTS.pattern})")


def faults(source: str) -> Iterator[str]:
    """Each message that has a plural after a number that may be 1."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            for value, text in zip(node.values, node.values[1:], strict=False):
                if (
                    isinstance(value, ast.FormattedValue)
                    and isinstance(text, ast.Constant)
                    and _COUNTS.match(str(text.value))
                    and not ast.unparse(value.value).isupper()  # a constant is not 1
                ):
                    yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Constant):
            said = node.value if isinstance(node.value, str) else ""
            if _PERCENT.search(said):
                yield f"line {node.lineno}: {said}"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 fixes wait"), (1, "1 fix waits"), (2, "2 fixes wait"), (12_346, "12,346 fixes wait")],
)
def test_a_number_its_noun_and_its_verb(number: int, text: str) -> None:
    assert counted(number, "fix waits", "fixes wait") == text


def test_a_noun_alone() -> None:
    assert [counted(n, "fix") for n in (1, 2)] == ["1 fix", "2 fixes"]
    assert [counted(n, "dead letter") for n in (1, 2)] == ["1 dead letter", "2 dead letters"]


def test_the_search_finds_what_it_looks_for() -> None:
    assert list(faults('f"{n} fixes wait"')) == ["line 1: f'{n} fixes wait'"]
    assert list(faults('f"{n:,} dead letters"'))
    assert list(faults('log.info("replayed %d fixes", n)'))
    assert not list(faults('f"{_RATE_HZ} positions per second"'))
    assert not list(faults('f"{name} has its fixes"'))


@SOURCE
@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_message_has_a_plural_after_one(path: Path) -> None:
    assert not list(faults(path.read_text("utf-8")))
