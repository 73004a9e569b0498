"""Fixture: the packages that the tests in this folder install, built once."""

import fcntl
import pickle

import pytest
from packages.built import Built, build
from packages.roots import require


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Built:
    """This checkout as ``make deb`` builds it, and an older version."""
    require()
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "built"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # only one worker builds
        found = folder / "found"
        if not found.exists():
            folder.mkdir()
            found.write_bytes(pickle.dumps(build(folder)))
    built: Built = pickle.loads(found.read_bytes())
    return built
