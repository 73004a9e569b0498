"""The code blocks of the documentation, which tests run as printed."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
LINKING = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "docs/monitoring/README.md"]

_BLOCK = re.compile(
    r"^(?:<!-- shown only: (?P<why>[^\n]+) -->\n+)?```(?P<language>\S*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


def anchors(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub creates them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}


@dataclass(frozen=True)
class Block:
    """A code block. A comment before it may say why no test runs it."""

    page: str
    language: str
    text: str
    shown_only: str | None


def blocks_of(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    return [
        Block(page.name, found["language"], found["text"], found["why"])
        for found in _BLOCK.finditer(page.read_text())
    ]


def every_block() -> list[Block]:
    """The code blocks of all pages."""
    return [block for page in PAGES for block in blocks_of(page)]


def blocks(name: str, language: str) -> list[str]:
    """Every code block in a language, in order."""
    return [
        block.text
        for block in every_block()
        if (block.page, block.language) == (name, language) and block.shown_only is None
    ]
