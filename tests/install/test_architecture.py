"""Everything that docs/architecture.md names exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "telemetry_agent"
PAGE = (ROOT / "docs/architecture.md").read_text("utf-8")
INDEX = PAGE.split("## Where is it decided?")[1].split("\n## ")[0]
ROWS = [line for line in INDEX.splitlines() if line.startswith("| ") and "`" in line]
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)` `([\w.]+)`", INDEX)))


def defined(module: Path) -> set[str]:
    """The functions and classes of a module, and its methods as ``Class.method``."""
    names = set()
    for node in ast.parse(module.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{one.name}" for one in node.body if hasattr(one, "name")}
    return names


@pytest.mark.parametrize(("module", "name"), NAMED)
def test_each_decision_is_where_the_index_says(module: str, name: str) -> None:
    assert name in defined(PACKAGE / module)


def test_each_question_has_its_answer_in_at_most_two_files() -> None:
    assert len(ROWS) >= 25
    for row in ROWS:
        files = {*re.findall(r"`([\w/]+\.py)`", row), *re.findall(r"[A-Z]+\.md", row)}
        assert 1 <= len(files) <= 2, row


@pytest.mark.parametrize("module", sorted(set(re.findall(r"`([\w/]+\.py)`", PAGE))))
def test_each_named_module_exists(module: str) -> None:
    assert (PACKAGE / module).exists() or (ROOT / module).exists()


def test_a_class_name_has_one_meaning() -> None:
    places: dict[str, list[str]] = {}
    for module in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(module.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(module.relative_to(PACKAGE)))
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}
