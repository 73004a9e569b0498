"""Fixtures for the queue tests."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ackqueue.recorded_disk import scratch_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="queue-", dir=scratch_folder()) as name:
        yield Path(name)


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "queue.db"
