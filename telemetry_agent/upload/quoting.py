"""What a peer wrote, fit for a log line."""

from http.client import responses

from telemetry_agent.model import Answer
from telemetry_agent.secrecy import CUT

_WORDS_MAX = 200
_QUOTED = 1000  # characters


def coding(answer: Answer) -> str:
    """How the body is compressed; empty: it is not."""
    name = words(answer.headers.get("content-encoding", ""))
    return "" if name.lower() == "identity" else name


def words(text: str) -> str:
    """What a server wrote, fit for a log line."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    said = " ".join(printable.split())
    return said if len(said) <= _WORDS_MAX else said[: _WORDS_MAX - 1] + CUT


def quoted(text: bytes) -> str:
    """What a body says, fit for a log line."""
    said = text.decode("utf-8", "replace")
    # The mark of the cut: part of a secret may be in front of it.
    return words(said[:_QUOTED] + CUT * (len(said) > _QUOTED))


def said_by(answer: Answer) -> str:
    """What the server wrote beside the status; empty: nothing, or a web page."""
    body = "" if coding(answer) else quoted(answer.body)
    return "" if body.startswith("<") else body


def reason_of(answer: Answer) -> str:
    """The status, and what the server wrote beside it; else what the status means."""
    if said := said_by(answer):
        return f"{answer.status}: {said}"
    return f"{answer.status} {responses.get(answer.status, '')}".rstrip()
