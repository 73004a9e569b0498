"""What holds for every test."""

import contextlib
import signal
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Four tests at a time on two cores, and others' work beside them: an example may take its time.
# What hangs is ended by pytest-timeout.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")

# Started in the background by a shell, pytest and all that it starts would ignore Ctrl-C, of which
# some tests are about.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def usual_port_of_the_page() -> Iterator[None]:
    """Two demos that begin at once would both find it free. Here each looks for another."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            held.enter_context(socket.create_server(("127.0.0.1", 8077)))
        yield
