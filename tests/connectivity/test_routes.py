import resource
import select
import socket
import threading

import pytest

from telemetry_agent.addresses import Address
from telemetry_agent.connectivity.routes import KernelBell, Path, path


@pytest.fixture
def bell(monkeypatch: pytest.MonkeyPatch) -> KernelBell:
    """Without the kernel's news: the machine's network may change at any time."""
    monkeypatch.setattr("telemetry_agent.connectivity.routes._listen", lambda: None)
    return KernelBell()


def test_loopback_has_a_way() -> None:
    way = path(Address(socket.AF_INET, ("127.0.0.1", 80)))
    assert way is not None
    assert way.source == "127.0.0.1"
    assert way.route


def test_a_process_out_of_files_takes_that_for_no_lack_of_a_route() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        way = path(Address(socket.AF_INET, ("127.0.0.1", 80)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert way == Path("")


def test_a_ring_ends_the_next_wait_and_arming_forgets_it(bell: KernelBell) -> None:
    for _ in range(100_000):  # more than any buffer holds
        bell.ring()
    bell.wait(None)
    bell.clear()
    bell.wait(0.001)
    bell.ring()
    bell.wait(None)
    assert not bell.heard()


def test_a_ring_from_another_thread_ends_a_wait(bell: KernelBell) -> None:
    waiting = threading.Thread(target=bell.wait, args=(None,))
    waiting.start()
    bell.ring()
    waiting.join(5)
    assert not waiting.is_alive()


def test_a_watched_socket_that_is_done_ends_a_wait(bell: KernelBell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as connecting:
        connecting.setblocking(False)
        connecting.connect_ex(server.getsockname())
        bell.watch([(connecting.fileno(), select.POLLOUT)])
        bell.wait(None)


def test_rings_after_the_end_are_ignored(bell: KernelBell) -> None:
    bell.close()
    bell.close()
    bell.ring()
