"""A machine on which all is well, in a folder that every user can look into."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from bench import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    with TemporaryDirectory(dir="/var/tmp") as folder, contextlib.ExitStack() as cleanup:
        Path(folder).chmod(0o755)
        yield Bench(Path(folder), cleanup)
