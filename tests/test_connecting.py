"""Name look-ups and connections, with real sockets and addresses that never answer."""

import contextlib
import math
import resource
import socket
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest
from fakes import FakeClock
from misbehaving import swallowed_syn
from netns import network
from ports import free_port

from telemetry_agent.addresses import (
    Address,
    Resolve,
    Resolver,
    UnreachableError,
    is_loopback,
    resolve,
)
from telemetry_agent.clock import Clock
from telemetry_agent.connecting import Connecting
from telemetry_agent.tasks import Bell

LIMIT_S = 60.0
clock = Clock()


def at(port: int, host: str = "127.0.0.1") -> Address:
    return Address(socket.AF_INET, (host, port))


def resolver(*found: Address) -> Resolver:
    return Resolver(lambda _host, _port: list(found))


def connect(names: Resolver, *, connect_s: float = 5.0) -> tuple[Address, float]:
    """Connect; return the address that answered and the time it took in seconds."""
    began_s = clock.monotonic_s()
    connecting = Connecting(names, "far.example", 80, began_s, connect_s=connect_s)
    with connecting.run(clock, Bell().wait) as sock:
        assert connecting.watched() == []
        return Address(sock.family, sock.getpeername()), clock.monotonic_s() - began_s


@pytest.fixture
def server() -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield at(made.getsockname()[1])


def refusing() -> Address:
    return at(free_port())


def test_four_dead_addresses_cost_about_a_second() -> None:
    with network() as net:
        device = net.namespace("device")
        device.ip("link add hole type veth peer name nobody")
        device.ip("link set hole up")
        device.ip("link set nobody up")
        device.ip("addr add 10.97.0.1/24 dev hole")
        dead = [f"10.97.0.{number}" for number in range(2, 6)]
        for host in dead:
            device.ip(f"neigh add {host} lladdr 02:00:00:00:00:01 dev hole")
        with device.inside(lambda: socket.create_server(("127.0.0.1", 0))) as listening:
            living = at(listening.getsockname()[1])
            names = resolver(*(at(80, host) for host in dead), living)
            reached, took_s = device.inside(lambda: connect(names))
    assert reached == living
    assert 1.0 <= took_s < 15.0  # 30 s if tried one after the other


def test_blackholes_and_refusals_cost_nothing() -> None:
    with network() as net:
        device = net.namespace("device")
        device.ip("route add blackhole 10.96.0.0/24")
        with device.inside(lambda: socket.create_server(("127.0.0.1", 0))) as listening:
            living = at(listening.getsockname()[1])
            dead = [at(80, f"10.96.0.{number}") for number in range(1, 6)]
            names = resolver(*dead, refusing(), living)
            tries = [device.inside(lambda: connect(names)) for _ in range(5)]
            assert {reached for reached, _ in tries} == {living}
            assert min(took_s for _, took_s in tries) < 1.0  # 1.5 s if it waited for each
            with pytest.raises(UnreachableError, match=r"^no route to 10.96.0.1:80, ") as raised:
                device.inside(lambda: connect(resolver(*dead)))
    assert (raised.value.kind, raised.value.state) == ("no-route", "no-route")


def test_the_addresses_share_one_limit_and_the_last_still_has_time(server: Address) -> None:
    with contextlib.ExitStack() as stack:
        dead = [at(stack.enter_context(swallowed_syn())) for _ in range(5)]
        with pytest.raises(UnreachableError, match=r"within 1 s$") as raised:
            connect(resolver(*dead), connect_s=1.0)
        assert raised.value.kind == "silent"
        reached, took_s = connect(resolver(*dead, server), connect_s=6.0)
        assert reached == server
        assert took_s < 6.0


def test_families_take_turns_and_the_one_that_worked_comes_first() -> None:
    four = [at(80, f"192.0.2.{number}") for number in range(1, 11)]
    six = [Address(socket.AF_INET6, (f"2001:db8::{number}", 80, 0, 0)) for number in range(1, 4)]
    names = resolver(*six, *four, *four)
    tried: list[Address] = []

    def try_all() -> None:
        tried.clear()

        def no_route(address: Address) -> bool:
            tried.append(address)
            return False

        connecting = Connecting(names, "far.example", 80, 0, has_route=no_route)
        with pytest.raises(UnreachableError):
            connecting.run(clock, Bell().wait)

    try_all()
    assert tried[:5] == [six[0], four[0], six[1], four[1], six[2]]
    assert tried[5:7] == four[2:4]
    assert len(tried[7:]) == 4, "more would be a volley"
    assert {*tried[7:]} < {*four[4:]}
    names.prefer(socket.AF_INET)
    try_all()
    assert tried[:3] == [four[0], six[0], four[1]]


def test_each_kind_of_failure_is_named_once(server: Address) -> None:
    closed = [refusing(), refusing()]
    with pytest.raises(UnreachableError) as raised:
        connect(resolver(*closed))
    assert str(raised.value) == f"connection refused by {closed[0]}, {closed[1]}"
    assert (raised.value.kind, raised.value.state) == ("refused", "unreachable")
    with pytest.raises(UnreachableError, match="the name has no address"):
        connect(resolver())


def hanging(*answers: list[Address]) -> tuple[Resolve, threading.Event]:
    """A resolver that gives these answers, then hangs until the event is set."""
    left, go_on = list(answers), threading.Event()

    def ask(_host: str, _port: int) -> list[Address]:
        if left:
            return left.pop(0)
        go_on.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    return ask, go_on


def test_a_bell_ends_the_wait_for_a_name_at_once() -> None:
    class Rung(Exception):  # noqa: N818 - not an error
        pass

    bell, (ask, go_on) = Bell(), hanging()

    def wait(timeout_s: float, watched: list[tuple[int, int]]) -> None:
        if not bell.wait(timeout_s, watched):
            raise Rung

    threading.Timer(0.05, bell.ring).start()
    began_s = clock.monotonic_s()
    with pytest.raises(Rung):
        Connecting(Resolver(ask), "far.example", 80, began_s).run(clock, wait)
    assert clock.monotonic_s() - began_s < 20
    go_on.set()


def test_known_addresses_serve_while_the_name_server_is_silent(server: Address) -> None:
    ask, go_on = hanging([server])
    names = Resolver(ask)
    assert connect(names)[0] == server
    first = Connecting(names, "far.example", 80, 0.0, known_after_s=3.0)
    assert first.poll(2.9) is None
    assert first.watched(), "it waits for the name"
    assert first.due_s() == 3.0
    connected = first.poll(3.0)
    while connected is None:
        assert Bell().wait(LIMIT_S, first.watched())
        connected = first.poll(3.0)
    connected.close()
    go_on.set()


def test_a_silent_name_server_is_not_waited_for_where_the_known_addresses_refuse() -> None:
    ask, go_on = hanging([refusing()])
    names = Resolver(ask)
    with pytest.raises(UnreachableError, match="connection refused"):
        connect(names)
    again = Connecting(names, "far.example", 80, 0.0, look_up_s=math.inf)
    assert again.poll(4.9) is None
    with pytest.raises(UnreachableError, match="connection refused"):
        again.poll(5.0)
    go_on.set()


def test_a_look_up_under_way_is_joined_and_its_failure_asked_again(server: Address) -> None:
    asked: list[str] = []
    began, go_on = threading.Event(), threading.Event()

    def ask(host: str, _port: int) -> list[Address]:
        asked.append(host)
        began.set()
        if len(asked) > 1:
            return [server]
        go_on.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "the network was dead")

    names = Resolver(ask)
    for now_s in (0.0, 60.0):
        given_up = Connecting(names, "far.example", 80, now_s)
        assert given_up.poll(now_s) is None
        with pytest.raises(UnreachableError, match=r"no name server answered .* within 5 s"):
            given_up.poll(now_s + 5)
    joining = Connecting(names, "far.example", 80, clock.monotonic_s())
    assert began.wait(LIMIT_S)
    assert asked == ["far.example"]
    go_on.set()
    joining.run(clock, Bell().wait).close()
    assert len(asked) == 2


def test_a_look_up_that_hangs_is_not_waited_for_and_the_hanging_ones_stay_few(
    server: Address,
) -> None:
    began: list[float] = []
    end, time = threading.Event(), FakeClock()

    def ask(_host: str, _port: int) -> list[Address]:
        end.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "the name server of yesterday")

    names = Resolver(ask, time)
    try:
        for _ in range(24 * 360):
            _, joined = names.begin("far.example", 80)
            if not joined:
                began.append(time.now_s)
            time.advance(10)
        assert [late - soon for soon, late in pairwise(began)][:4] == [10, 20, 40, 80]
        assert len(began) == 14
        names._ask = lambda _host, _port: [server]
        time.advance(90_000)
        assert connect(names)[0] == server  # the current network
    finally:
        end.set()


def test_a_look_up_for_which_there_is_no_thread_fails_and_the_next_one_works(
    server: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = resolver(server)

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(UnreachableError, match=r"cannot look up far\.example: Resource"):
            connect(names)
    assert connect(names)[0] == server


def test_a_look_up_for_which_no_descriptor_is_left_fails_and_the_next_one_works(
    server: Address,
) -> None:
    names = resolver(server)
    connecting: list[Connecting] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        connecting.append(Connecting(names, "far.example", 80, 0.0))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (connecting[0].due_s(), connecting[0].watched()) == (0.0, [])
    with pytest.raises(
        UnreachableError, match=r"cannot look up far\.example: the system refuses fi"
    ):
        connecting[0].poll(0.0)
    assert connect(names)[0] == server
    # The result of an earlier look-up is used.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        connecting.append(Connecting(names, "far.example", 80, clock.monotonic_s()))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    connecting[1].run(clock, Bell().wait).close()


def test_a_look_up_without_a_limit_is_waited_for_without_polling() -> None:
    go_on = threading.Event()

    def ask(_host: str, _port: int) -> list[Address]:
        go_on.wait()
        return []

    connecting = Connecting(Resolver(ask), "far.example", 80, 0.0, look_up_s=math.inf)
    assert connecting.poll(1.0) is None
    assert connecting.due_s() == math.inf
    assert connecting.watched()
    go_on.set()


def test_an_address_reads_as_users_write_it() -> None:
    assert str(at(80, "10.0.0.9")) == "10.0.0.9:80"
    assert str(Address(socket.AF_INET6, ("fd00::9", 80, 0, 0))) == "[fd00::9]:80"
    assert resolve("127.0.0.1", 80) == [at(80)]


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "localhost.example", "10.0.0.1", "::", "0.0.0.0"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)
