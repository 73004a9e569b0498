"""What stands in the documentation, to be run as it stands there."""

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
    """The names of its headings in links, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}


@dataclass(frozen=True)
class Block:
    """A block of code, and why no test runs it, where a comment before it says so."""

    page: str
    language: str
    text: str
    shown_only: str | None


def blocks_of(page: Path) -> list[Block]:
    """In the order of the page."""
    return [
        Block(page.name, found["language"], found["text"], found["why"])
        for found in _BLOCK.finditer(page.read_text())
    ]


def every_block() -> list[Block]:
    """Of all pages."""
    return [block for page in PAGES for block in blocks_of(page)]


def blocks(name: str, language: str) -> list[str]:
    """Every code block in a language, in the order of the document."""
    return [
        block.text
        for block in every_block()
        if (block.page, block.language) == (name, language) and block.shown_only is None
    ]
