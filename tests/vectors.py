"""The test vectors of ``docs/protocol.md``, read from the document itself."""

import re
from dataclasses import dataclass

from documents import ROOT, blocks

DOCUMENT = ROOT / "docs" / "protocol.md"


@dataclass(frozen=True)
class Exchange:
    """A request and the answer below it."""

    headers: dict[str, str]
    body: str
    status: int
    answer: str


def exchanges() -> list[Exchange]:
    """Each pair of ``http`` blocks, in order."""
    shown = blocks("protocol.md", "http")
    found = []
    for request, answer in zip(shown[::2], shown[1::2], strict=True):
        head, _, body = request.partition("\n\n")
        first, *lines = head.splitlines()
        assert first.startswith("POST "), first
        headers = dict(line.split(": ", 1) for line in lines)
        status, _, said = answer.partition("\n\n")
        found.append(Exchange(headers, body.strip(), int(status.split()[1]), said.strip()))
    return found


def answers() -> list[tuple[int, str, str]]:
    """Status, body and outcome of the fixes, from each row of the table of answers."""
    rows = re.findall(r"^\| `(\d+)` \| `?(.*?)`? \| (.*?) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert rows
    return [(int(status), "" if body == "none" else body, means) for status, body, means in rows]
