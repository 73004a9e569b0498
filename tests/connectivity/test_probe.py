"""Probes with real sockets on loopback; the calls get the time as an argument."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from ports import free_port

from telemetry_agent.addresses import Address, UnreachableError
from telemetry_agent.connecting import Connecting
from telemetry_agent.connectivity.monitor import Probe
from telemetry_agent.connectivity.routes import Path
from telemetry_agent.tasks import Bell


def address_of(server: socket.socket) -> Address:
    return Address(server.family, server.getsockname())


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def refusing() -> Address:
    """An address where nothing listens."""
    return Address(socket.AF_INET, ("127.0.0.1", free_port()))


@pytest.fixture
def silent() -> Iterator[Address]:
    """An address that does not answer, like a network that drops all packets."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        waiting = stack.enter_context(socket.create_connection(full.getsockname(), 60))
        assert waiting.getpeername() == full.getsockname()
        yield address_of(full)


class Names:
    """A resolver that returns the given answers in order, when the test allows it."""

    def __init__(self, *answers: list[Address] | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.open = threading.Event()
        self.open.set()
        self.began = threading.Event()

    def __call__(self, host: str, port: int) -> list[Address]:
        self.asked += 1
        self.began.set()
        assert self.open.wait(60)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


UP = ("up", "")


def poll(running: Connecting, now_s: float) -> tuple[str, str] | None:
    """The result of a probe, or ``None`` while it runs."""
    try:
        connected = running.poll(now_s)
    except UnreachableError as error:
        return error.state, str(error)
    if connected is None:
        return None
    connected.close()
    return UP


def run(probe: Probe, now_s: float = 0.0) -> tuple[str, str]:
    """Start a probe and follow it to its end."""
    return follow(probe.begin(now_s), now_s)


def follow(running: Connecting, now_s: float = 0.0) -> tuple[str, str]:
    """Poll a probe to its end. The fake clock advances by each wait."""
    while True:
        verdict = poll(running, now_s)
        if verdict is not None:
            assert running.watched() == [], "a probe that ended left sockets"
            return verdict
        if not Bell().wait(min(max(0, running.due_s() - now_s), 0.3), running.watched()):
            now_s += 0.3


def until_resolved(running: Connecting, now_s: float) -> None:
    assert Bell().wait(60, running.watched())
    assert poll(running, now_s) is None


def test_a_listening_endpoint_is_up(server: socket.socket) -> None:
    host, port = server.getsockname()
    probe = Probe(host, port)
    assert run(probe) == UP
    assert [*probe.paths()] == [address_of(server)]


def test_a_refusal_names_the_address_and_the_reason(refusing: Address) -> None:
    probe = Probe("endpoint.test", 80, resolve=Names([refusing]))
    assert run(probe) == ("unreachable", f"connection refused by {refusing}")


def test_silence_is_unreachable_after_its_deadline(silent: Address) -> None:
    probe = Probe("endpoint.test", 80, resolve=Names([silent]))
    running = probe.begin(100.0)
    until_resolved(running, 101.0)
    assert running.due_s() == 106.0
    assert poll(running, 105.9) is None
    assert poll(running, 106.0) == ("unreachable", f"no connection to {silent} within 5 s")


def test_a_silent_address_does_not_hold_up_another(silent: Address, refusing: Address) -> None:
    with socket.create_server(("127.0.0.1", 0)) as living:
        names = Names([refusing, silent, address_of(living)])
        assert run(Probe("endpoint.test", 80, resolve=names)) == UP


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (socket.gaierror(-3, "Temporary failure"), "no name server answers for endpoint.test"),
        (UnicodeError("label"), "name endpoint.test does not resolve"),
    ],
)
def test_a_name_that_cannot_be_resolved_is_unreachable(error: Exception, says: str) -> None:
    probe = Probe("endpoint.test", 80, resolve=Names(error))
    assert run(probe) == ("unreachable", says)


def test_known_addresses_serve_while_the_name_cannot_be_resolved(server: socket.socket) -> None:
    names = Names([address_of(server)], socket.gaierror(-3, "Temporary failure"))
    probe = Probe("endpoint.test", 80, resolve=names)
    assert run(probe) == UP
    assert run(probe) == UP
    assert run(probe) == UP


def test_one_resolution_at_a_time(refusing: Address) -> None:
    names = Names([refusing])
    names.open.clear()
    probe = Probe("endpoint.test", 80, resolve=names)
    for now_s in (0.0, 30.0, 60.0):
        running = probe.begin(now_s)
        assert poll(running, now_s) is None
        assert running.due_s() == now_s + 5
        assert poll(running, now_s + 5) == (
            "unreachable",
            "no name server answered for endpoint.test within 5 s",
        )
    assert names.began.wait(60)
    assert names.asked == 1
    names.open.set()
    assert run(probe, 90.0) == ("unreachable", f"connection refused by {refusing}")


def test_a_resolution_that_failed_in_the_dead_network_is_repeated(server: socket.socket) -> None:
    names = Names(socket.gaierror(-3, "Temporary failure"), [address_of(server)])
    names.open.clear()
    probe = Probe("endpoint.test", 80, resolve=names)
    assert poll(probe.begin(0.0), 5.0) is not None
    running = probe.begin(30.0)
    names.open.set()
    assert follow(running, 30.0) == UP
    assert names.asked == 2


def test_a_name_that_moved_is_followed(server: socket.socket, silent: Address) -> None:
    names = Names([silent], [address_of(server)])
    probe = Probe("endpoint.test", 80, resolve=names)
    running = probe.begin(0.0)
    until_resolved(running, 0.0)
    assert poll(running, 5.0) is not None
    assert run(probe, 30.0) == UP
    assert [*probe.paths()] == [address_of(server)]


def test_a_resolution_that_came_after_the_try_is_not_taken_for_news(
    server: socket.socket, silent: Address
) -> None:
    names = Names([silent], [silent], [address_of(server)])
    probe = Probe("endpoint.test", 80, resolve=names)
    first = probe.begin(0.0)
    until_resolved(first, 0.0)
    first.cancel()
    second = probe.begin(1.0)
    assert Bell().wait(60, second.watched())  # the second answer is there, unread
    second.cancel()
    assert run(probe, 3600.0) == UP


def no_way(_: Address) -> Path | None:
    return None


def test_without_a_way_nothing_is_sent(server: socket.socket) -> None:
    address = address_of(server)
    probe = Probe("endpoint.test", 80, resolve=Names([address]), path=no_way)
    assert run(probe) == ("no-route", f"no route to {address}")
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.accept()


def test_a_try_that_is_begun_anew_forgets_the_first(server: socket.socket, silent: Address) -> None:
    ways: dict[Address, Path] = {silent: Path("127.0.0.1")}
    probe = Probe("endpoint.test", 80, resolve=Names([silent]), path=ways.get)
    first = probe.begin(0.0)
    until_resolved(first, 0.0)
    first.cancel()
    ways.clear()
    assert run(probe, 1.0) == ("no-route", f"no route to {silent}")


def test_a_name_with_many_addresses_is_no_volley() -> None:
    many = [Address(socket.AF_INET, (f"127.0.0.{n}", 9)) for n in range(1, 30)]
    many += [Address(socket.AF_INET6, (f"::{n}", 9, 0, 0)) for n in range(1, 30)]
    probe = Probe("endpoint.test", 80, resolve=Names(many + many), path=no_way)
    tried: set[Address] = set()
    for _ in range(200):
        run(probe)
        addresses = [*probe.paths()]
        ipv4, ipv6 = addresses[::2], addresses[1::2]
        assert (len(ipv4), len(ipv6)) == (8, 8)
        assert (ipv4[:4], ipv6[:4]) == (many[:4], many[29:33])
        tried |= {*addresses}
    assert tried == {*many}  # the first ones may all be dead
