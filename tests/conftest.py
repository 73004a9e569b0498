"""Settings and fixtures for every test."""

import contextlib
import itertools
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from telemetry_agent.disks import mount_of

# Six tests run at a time on two cores, beside other work: an example may be slow.
# pytest-timeout ends tests that hang.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("here"), max_examples=10_000)
settings.load_profile("here")

# If a shell starts pytest in the background, or with nohup, then pytest and its child processes
# ignore Ctrl-C, Ctrl-\ or the end of the terminal. Some tests need these signals.
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
for _end in _ENDS:
    signal.signal(_end, signal.default_int_handler if _end is signal.SIGINT else signal.SIG_DFL)

# The services of a booted systemd, and other users, read files that tests write.
os.umask(0o022)

# pytest's folder contains sockets, whose paths are limited to 107 bytes, and queues, which the
# agent reports if they are in memory.
_given = tempfile.gettempdir()
if len(_given) > 20 or ((mount := mount_of(Path(_given))) is not None and mount.kind == "tmpfs"):
    os.environ["TMPDIR"] = tempfile.tempdir = "/var/tmp"


def _waits_long(test_file: Path) -> bool:
    return test_file.parent.name == "packages" or test_file.name == "test_slow_disk.py"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let half of the workers of ``--dist worksteal`` start with the tests that wait long.

    Each worker gets an equal part of the list, in order, and takes tests from the end of another
    part when its own is done. The packages and the slow disk have the longest tests: if one started
    last, the run would wait for it. These tests mostly wait, especially while root file systems are
    created; meanwhile the other half of the workers runs the other tests.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    parts: list[list[pytest.Item]] = [[] for _ in range(workers)]
    beginning = max(workers // 2, 1)
    long = [item for item in items if _waits_long(item.path)]
    for number, (_, file) in enumerate(itertools.groupby(long, lambda item: item.path)):
        parts[number % beginning] += file
    others = [item for item in items if not _waits_long(item.path)]
    left = len(items)
    for part, workers_left in zip(parts, range(workers, 0, -1), strict=True):
        size = max(left // workers_left - len(part), 0)
        part.extend(others[:size])
        del others[:size]
        left -= len(part)
    items[:] = [*itertools.chain.from_iterable(parts), *others]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Require a reason for each mark that excludes a test from a run."""
    if any(not mark.args for mark in item.iter_markers("once")):
        raise pytest.UsageError(f"{item.nodeid}: say why it runs once")


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """Restore the signal handlers: a command that runs in this process replaces them."""
    before = {one: signal.getsignal(one) for one in _ENDS}
    yield
    for one, act in before.items():
        signal.signal(one, act)


@pytest.fixture(scope="session", autouse=True)
def usual_port_of_the_page() -> Iterator[None]:
    """Avoid the usual port: two demos that start together would both find it free."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            held.enter_context(socket.create_server(("127.0.0.1", 8077)))
        yield
