"""What stands in the documentation, to be run as it stands there."""

import re
from pathlib import Path

_DOCS = Path(__file__).parent.parent / "docs"


def blocks(name: str, language: str) -> list[str]:
    """Every code block in a language, in the order of the document."""
    text = (_DOCS / name).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
