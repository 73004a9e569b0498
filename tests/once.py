"""Marks for tests that CI runs on one Python: ``make check SELECT='-m "not once"'`` skips them."""

from collections.abc import Sequence
from typing import Any

import pytest

DRAWN = pytest.mark.once("Chromium draws the page, whose files are the same on every Python")
SOURCE = pytest.mark.once("it reads files of this repository, which are the same on every Python")
TEETH = pytest.mark.once("it shows that a proof can fail, and not what the agent does")
FURTHER = pytest.mark.once("more cases of a proof whose first cases run on every Python")


def mostly_once(
    cases: Sequence[Any], first: int, mark: pytest.MarkDecorator = FURTHER
) -> list[Any]:
    """Parameters: the ``first`` cases run on every Python, the others once."""
    return [*cases[:first], *(pytest.param(case, marks=mark) for case in cases[first:])]
