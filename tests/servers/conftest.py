"""The drive that is sent to each server, recorded once."""

from pathlib import Path

import pytest
from drives import FIXES
from rig import record_backlog


@pytest.fixture(scope="session")
def backlog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The queue of an agent that drove for ``FIXES`` seconds without a network."""
    folder = tmp_path_factory.mktemp("drive")
    record_backlog(folder, FIXES)
    return folder
