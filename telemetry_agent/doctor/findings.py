"""What a check finds, in words for somebody who has never seen the program."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    verdict: Verdict
    said: str
    """What was found."""
    remedy: str = ""
    """What to do about it, in one line; empty where there is nothing to do."""


def passed(name: str, said: str) -> Finding:
    """All is well."""
    return Finding(name, "pass", said)


def warned(name: str, said: str, remedy: str) -> Finding:
    """Positions are recorded and delivered, but something will go wrong some day."""
    return Finding(name, "warn", said, remedy)


def failed(name: str, said: str, remedy: str) -> Finding:
    """Positions are not recorded, not delivered, or not safe."""
    return Finding(name, "fail", said, remedy)


def skipped(name: str, why: str) -> Finding:
    """Not looked at, or nothing to say."""
    return Finding(name, "skip", why)
