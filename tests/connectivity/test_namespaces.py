"""The monitor as a real process in its own network, which the tests break in every way.

A far machine listens and counts connections. There are none while the network is up.
"""

import contextlib
import pathlib
import re
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping

import pytest
from netns import Namespace, Network, network
from processes import Running, running

from telemetry_agent.addresses import Address, resolve
from telemetry_agent.clock import Clock
from telemetry_agent.connectivity.routes import Path, path, route_bell
from telemetry_agent.tasks import KernelBell

clock = Clock()

PROBE_EVERY_S = 2.0
RARELY_S = 600.0  # the next probe is far away: only the kernel can report sooner
LIMIT_S = 60.0
SCRIPT = str(pathlib.Path(__file__).parent / "monitor_process.py")
PORT = 8080
NEAR, FAR = "10.91.0.1", "10.91.0.2"
NEAR6, FAR6 = "fd91::1", "fd91::2"
BEYOND, BEYOND6 = "10.92.0.1", "fd92::1"  # on the loopback of the far machine: needs a route


class Endpoint:
    """A listener on all addresses of a namespace. Closing it simulates a stopped process."""

    def __init__(self, where: Namespace) -> None:
        self._where = where
        self._peers: list[int] = []
        self._accepts = threading.Condition()
        self._listening = where.inside(
            lambda: socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
        )
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, peer = self._listening.accept()
                connection.close()
                with self._accepts:
                    self._peers.append(peer[1])
                    self._accepts.notify_all()

    def accepted(self) -> int:
        """Count the connections so far. Our own connection after them is not counted."""
        last = self._where.inside(lambda: socket.create_connection(("::1", PORT), LIMIT_S))
        with last, self._accepts:
            ours = last.getsockname()[1]
            assert self._accepts.wait_for(lambda: ours in self._peers, LIMIT_S)
            self._peers.remove(ours)
            return len(self._peers)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # ends accept()
        self._thread.join(60)
        self._listening.close()


class Watched:
    """A running monitor. ``wait`` finds its next line and the time of that line."""

    def __init__(self, process: Running) -> None:
        self.process = process
        self._read = 0

    def wait(self, pattern: str, limit_s: float = LIMIT_S) -> float:
        """The monotonic time of the next line that matches; lines before it are skipped."""
        line = re.compile(rf"^(?:{pattern}).* (\d+\.\d+)$")
        with self.process._news:
            self.process._news.wait_for(lambda: self._next(line) is not None, limit_s)
        at = self._next(line)
        assert at is not None, f"no {pattern!r} after line {self._read}:\n{self.process.text()}"
        self._read = at + 1
        match = line.match(self.process.out[at])
        assert match
        return float(match[1])

    def _next(self, line: re.Pattern[str]) -> int | None:
        lines = self.process.out
        return next((i for i in range(self._read, len(lines)) if line.match(lines[i])), None)

    def away(self, word: str) -> float:
        return self.wait(f"log .* {word}: ")

    def back(self, since_s: float) -> None:
        """Wait for the return of the network; print how long after ``since_s`` it came."""
        took_s = self.wait("return") - since_s
        sys.stdout.write(f"return after {took_s * 1000:.0f} ms\n")
        self.wait("idle up")

    def said(self, word: str) -> int:
        return sum(line.startswith(word) for line in self.process.out)


@contextlib.contextmanager
def monitor(
    device: Namespace,
    host: str = FAR,
    *,
    probe_every_s: float = RARELY_S,
    env: Mapping[str, str] = {},
) -> Iterator[Watched]:
    """Run a monitor in the namespace; check that it ends without errors."""
    args = (sys.executable, SCRIPT, host, str(PORT), str(probe_every_s))
    with running(*device.command(*args), env=env) as process:
        watched = Watched(process)
        yield watched
        assert process.end() == 0, process.text()
        assert process.err == []


class Wire:
    """A device and a far machine, connected by one cable, with IPv4 and IPv6."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.device, self.far = net.namespace("device"), net.namespace("far")
        for each in (self.device, self.far):
            each.sysctl("ipv6.conf.all.keep_addr_on_down", "1")
            each.sysctl("ipv6.conf.default.keep_addr_on_down", "1")
        net.cable(self.device, "eth0", self.far, "eth0")
        self.device.ip(f"addr add {NEAR}/24 dev eth0")
        self.device.ip(f"addr add {NEAR6}/64 dev eth0 nodad")
        self.far.ip(f"addr add {FAR}/24 dev eth0")
        self.far.ip(f"addr add {FAR6}/64 dev eth0 nodad")
        self.far.ip(f"addr add {BEYOND}/32 dev lo")
        self.far.ip(f"addr add {BEYOND6}/128 dev lo nodad")
        self.endpoint = Endpoint(self.far)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with network() as net:
        made = Wire(net)
        try:
            yield made
        finally:
            made.endpoint.close()


BREAKS = {
    "link down": ("device", "link set eth0 down", "link set eth0 up"),
    "carrier lost": ("far", "link set eth0 down", "link set eth0 up"),
    "address removed": ("device", f"addr del {NEAR}/24 dev eth0", f"addr add {NEAR}/24 dev eth0"),
    "blackhole": ("device", f"route add blackhole {FAR}", f"route del blackhole {FAR}"),
    "unreachable": ("device", f"route add unreachable {FAR}", f"route del unreachable {FAR}"),
    "prohibit": ("device", f"route add prohibit {FAR}", f"route del prohibit {FAR}"),
    "throw": ("device", f"route add throw {FAR}", f"route del throw {FAR}"),
}


@pytest.mark.parametrize("fault", BREAKS)
def test_a_fault_that_the_kernel_sees_is_no_route_and_its_end_a_return(
    wire: Wire, fault: str
) -> None:
    # The endpoint is on the LAN: there is never a default route.
    where, breaks, mends = BREAKS[fault]
    broken: Namespace = getattr(wire, where)
    with monitor(wire.device) as watched:
        watched.wait("idle up")
        assert watched.said("return") == 0
        broken.ip(breaks)
        watched.away("no-route")
        watched.wait("change")
        assert watched.said("change") == 1
        seen = wire.endpoint.accepted()
        since_s = clock.monotonic_s()
        broken.ip(mends)
        watched.back(since_s)
        assert watched.said("change") == 2
        assert wire.endpoint.accepted() == seen + 1


@pytest.mark.parametrize(
    ("fault", "breaks", "mends"),
    [
        ("link down", "link set eth0 down", "link set eth0 up"),
        ("address removed", f"addr del {NEAR6}/64 dev eth0", f"addr add {NEAR6}/64 dev eth0 nodad"),
        ("blackhole", f"-6 route add blackhole {FAR6}", f"-6 route del blackhole {FAR6}"),
    ],
)
def test_the_same_with_ipv6(wire: Wire, fault: str, breaks: str, mends: str) -> None:
    with monitor(wire.device, FAR6) as watched:
        watched.wait("idle up")
        wire.device.ip(breaks)
        watched.away("no-route")
        since_s = clock.monotonic_s()
        wire.device.ip(mends)
        watched.back(since_s)


def test_an_ipv6_address_serves_once_the_kernel_has_found_it_unique(wire: Wire) -> None:
    with monitor(wire.device, FAR6) as watched:
        watched.wait("idle up")
        wire.device.ip(f"addr del {NEAR6}/64 dev eth0")
        watched.away("no-route")
        since_s = clock.monotonic_s()
        wire.device.ip(f"addr add {NEAR6}/64 dev eth0")
        watched.back(since_s)


def test_a_gateway_that_comes_and_goes(wire: Wire) -> None:
    wire.device.ip(f"route add default via {FAR}")
    with monitor(wire.device, BEYOND) as watched:
        watched.wait("idle up")
        wire.device.ip("route del default")
        watched.away("no-route")
        since_s = clock.monotonic_s()
        wire.device.ip(f"route add default via {FAR}")
        watched.back(since_s)


def test_a_route_of_a_policy_table_is_a_route(wire: Wire) -> None:
    wire.device.ip(f"route add {BEYOND}/32 via {FAR} table 77")
    with monitor(wire.device, BEYOND) as watched:
        watched.away("no-route")
        since_s = clock.monotonic_s()
        wire.device.ip("rule add pref 100 lookup 77")
        watched.back(since_s)
        wire.device.ip("route flush table 77")
        watched.away("no-route")
        since_s = clock.monotonic_s()
        wire.device.ip(f"route add {BEYOND}/32 via {FAR} table 77")
        watched.back(since_s)


def test_another_interface_is_a_change_and_no_return(wire: Wire) -> None:
    net, device, far = wire.net, wire.device, wire.far
    net.cable(device, "wlan0", far, "wlan0")
    device.ip("addr add 10.93.0.1/24 dev wlan0")
    far.ip("addr add 10.93.0.2/24 dev wlan0")
    device.ip(f"route add default via {FAR} metric 100")
    device.ip("route add default via 10.93.0.2 metric 600")
    with monitor(device, BEYOND) as watched:
        watched.wait("idle up")
        device.ip("link set eth0 down")
        watched.wait("change")
        watched.wait("idle up")
        device.ip("link set wlan0 down")
        watched.away("no-route")
        since_s = clock.monotonic_s()
        device.ip("link set wlan0 up")
        device.ip("route add default via 10.93.0.2 metric 600")
        watched.back(since_s)
        assert watched.said("return") == 1


@pytest.mark.parametrize("dead_ipv4", [False, True])
def test_ipv6_alone_serves_also_beside_a_dead_ipv4(wire: Wire, dead_ipv4: bool) -> None:
    if dead_ipv4:  # has a route, but does not answer
        wire.device.hosts({"endpoint.test": ["10.91.0.99", FAR6]})
    else:
        wire.device.ip(f"addr del {NEAR}/24 dev eth0")
        wire.device.hosts({"endpoint.test": [FAR, FAR6]})
    with monitor(wire.device, "endpoint.test") as watched:
        began_s = watched.wait("begun")
        assert watched.wait("idle up") - began_s < 20  # without a timeout of an address
        wire.device.ip("link set eth0 down")
        watched.away("no-route")
        since_s = clock.monotonic_s()
        wire.device.ip("link set eth0 up")
        watched.back(since_s)


def test_an_endpoint_that_stops_and_returns_is_found_within_probe_every(wire: Wire) -> None:
    with monitor(wire.device, probe_every_s=PROBE_EVERY_S) as watched:
        watched.wait("idle up")
        wire.endpoint.close()
        watched.process.send(signal.SIGUSR1)
        watched.away("unreachable")
        since_s = clock.monotonic_s()
        wire.endpoint = Endpoint(wire.far)
        watched.back(since_s)
        assert watched.said("change") == 0
        assert wire.endpoint.accepted() == 1


def test_a_peer_that_drops_everything_is_unreachable_and_its_return_needs_no_doubt(
    wire: Wire,
) -> None:
    wire.device.ip(f"route add default via {FAR}")
    with monitor(wire.device, BEYOND, probe_every_s=PROBE_EVERY_S) as watched:
        watched.wait("idle up")
        wire.far.ip(f"addr del {BEYOND}/32 dev lo")
        wire.far.ip(f"route add blackhole {BEYOND}")
        watched.process.send(signal.SIGUSR1)
        watched.away("unreachable")
        since_s = clock.monotonic_s()
        wire.far.ip(f"route del blackhole {BEYOND}")
        wire.far.ip(f"addr add {BEYOND}/32 dev lo")
        # A SYN may have been sent just before and dropped: TCP repeats it after 1 s.
        watched.back(since_s)


def test_the_route_returns_while_a_probe_hangs(wire: Wire) -> None:
    wire.device.ip(f"route add default via {FAR}")
    wire.device.ip("link add hole type veth peer name nobody")
    wire.device.ip("link set hole up")
    wire.device.ip("link set nobody up")
    wire.device.ip(f"route add {BEYOND} dev hole")  # a carrier, but no answers
    with monitor(wire.device, BEYOND) as watched:
        watched.away("unreachable")
        wire.device.ip("link set hole down")
        since_s = clock.monotonic_s()
        watched.back(since_s)


def test_while_up_there_is_no_traffic_whatever_else_changes(wire: Wire) -> None:
    with monitor(wire.device) as watched:
        watched.wait("idle up")
        assert wire.endpoint.accepted() == 1
        for number in range(3):  # changes that do not concern the endpoint
            wire.device.ip(f"link add other{number} type veth peer name peer{number}")
            wire.device.ip(f"addr add 10.94.{number}.1/24 dev other{number}")
            wire.device.ip(f"link set other{number} up")
            watched.wait("idle up")
        # The first change that concerns it. The monitor has processed the earlier ones by then.
        wire.device.ip(f"route add {FAR}/32 via {NEAR}")
        watched.wait("change")
        watched.wait("idle up")
        assert watched.said("change") == 1
        assert watched.said("return") == 0
        assert wire.endpoint.accepted() == 1


def test_a_route_that_is_gone_for_a_moment_costs_no_outage(wire: Wire) -> None:
    wire.device.ip(f"route add default via {FAR}")
    with monitor(wire.device, BEYOND) as watched:
        watched.wait("idle up")
        for _ in range(5):
            wire.device.ip("route del default")
            watched.process.send(signal.SIGUSR1)  # an exchange fails immediately
            wire.device.ip(f"route add default via {FAR}")
            watched.wait("idle up")


def test_an_interface_that_is_renamed_is_a_route_again(wire: Wire) -> None:
    with monitor(wire.device) as watched:
        watched.wait("idle up")
        wire.device.ip("link set eth0 down")  # otherwise an older kernel refuses
        watched.away("no-route")
        wire.device.ip("link set eth0 name wwan0")
        since_s = clock.monotonic_s()
        wire.device.ip("link set wwan0 up")
        watched.back(since_s)


def test_a_router_that_advertises_itself_is_a_return(wire: Wire) -> None:
    wire.device.sysctl("ipv6.conf.eth0.accept_ra", "2")
    wire.far.sysctl("ipv6.conf.all.forwarding", "1")  # required for advertisements
    wire.far.ip("addr add fe80::2/64 dev eth0 nodad")

    def advertise(lifetime_s: int) -> None:
        def send() -> None:
            with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
                raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
                raw.bind(("fe80::2", 0, 0, socket.if_nametoindex("eth0")))
                message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, lifetime_s, 0, 0)
                raw.sendto(message, ("ff02::1", 0, 0, socket.if_nametoindex("eth0")))

        wire.far.inside(send)

    with monitor(wire.device, BEYOND6) as watched:
        watched.away("no-route")
        since_s = clock.monotonic_s()
        advertise(1800)
        watched.back(since_s)
        advertise(0)  # not a router any more
        watched.away("no-route")


def test_a_name_that_resolves_only_once_the_network_is_there(wire: Wire) -> None:
    wire.device.ip("link set eth0 down")
    wire.device.hosts({})
    with monitor(wire.device, "endpoint.test") as watched:
        watched.away("unreachable")
        # The file is bind-mounted for the process, so a change in place is visible there.
        wire.device.hosts({"endpoint.test": [FAR]})
        since_s = clock.monotonic_s()
        wire.device.ip("link set eth0 up")
        watched.back(since_s)


def test_an_answer_outweighs_the_probe(wire: Wire) -> None:
    wire.endpoint.close()
    with monitor(wire.device) as watched:
        watched.away("unreachable")
        since_s = clock.monotonic_s()
        watched.process.send(signal.SIGUSR2)
        watched.back(since_s)


def test_without_netlink_the_probe_alone_serves(wire: Wire) -> None:
    with monitor(wire.device, probe_every_s=PROBE_EVERY_S, env={"NO_NETLINK": "1"}) as watched:
        watched.wait("log cannot receive the kernel.s messages about links and routes")
        watched.wait("idle up")
        wire.device.ip("link set eth0 down")
        watched.process.send(signal.SIGUSR1)
        watched.away("no-route")
        since_s = clock.monotonic_s()
        wire.device.ip("link set eth0 up")
        watched.back(since_s)


def way(device: Namespace, host: str) -> Path | None:
    """The path to a host that the kernel of a namespace reports."""
    return device.inside(lambda: path(resolve(host, PORT)[0]))


def connects(device: Namespace, host: str) -> bool:
    """Whether the kernel of a namespace lets a UDP socket connect."""
    address = resolve(host, PORT)[0]

    def call() -> bool:
        with socket.socket(address.family, socket.SOCK_DGRAM) as asking:
            return asking.connect_ex(address.sockaddr) == 0

    return device.inside(call)


@pytest.fixture
def bell(wire: Wire) -> Iterator[KernelBell]:
    """A bell that receives the messages of the device's kernel."""
    made = wire.device.inside(route_bell)
    yield made
    made.close()


def wait_for(bell: KernelBell, comes_true: Callable[[], bool]) -> None:
    """Wait until a condition is true. The kernel notices a carrier change a moment later."""
    until_s = clock.monotonic_s() + LIMIT_S
    while not comes_true():
        assert clock.monotonic_s() < until_s
        bell.wait(until_s - clock.monotonic_s())
        bell.messages()


@pytest.mark.parametrize("far", [FAR, FAR6])
def test_a_lost_carrier_is_no_way_though_the_kernel_still_connects(
    wire: Wire, bell: KernelBell, far: str
) -> None:
    before = way(wire.device, far)
    assert before is not None
    wire.far.ip("link set eth0 down")
    wait_for(bell, lambda: way(wire.device, far) is None)
    assert connects(wire.device, far), "then the route need not be asked for"
    wire.far.ip("link set eth0 up")
    wait_for(bell, lambda: way(wire.device, far) == before)


def test_of_two_gateways_the_loss_of_one_is_another_way(wire: Wire, bell: KernelBell) -> None:
    net, device, far = wire.net, wire.device, wire.far
    net.cable(device, "eth1", far, "eth1")
    device.ip("addr add 10.93.0.1/24 dev eth1")
    device.ip(f"route add default nexthop via {FAR} nexthop via 10.93.0.2")
    both = way(device, BEYOND)
    far.ip("link set eth1 down")
    wait_for(bell, lambda: way(device, BEYOND) != both)
    assert None not in {both, way(device, BEYOND)}


def test_another_gateway_or_source_is_another_way(wire: Wire) -> None:
    wire.device.ip(f"route add default via {FAR}")
    first = way(wire.device, BEYOND)
    wire.device.ip("route replace default via 10.91.0.3")
    second = way(wire.device, BEYOND)
    wire.device.ip("addr add 10.91.0.9/24 dev eth0")
    wire.device.ip("route replace default via 10.91.0.3 src 10.91.0.9")
    third = way(wire.device, BEYOND)
    assert None not in {first, second, third}
    assert len({first, second, third}) == 3


def test_a_route_for_our_source_alone_decides(wire: Wire, bell: KernelBell) -> None:
    net, device, far = wire.net, wire.device, wire.far
    net.cable(device, "eth1", far, "eth1")
    device.ip("addr add 10.93.0.1/24 dev eth1")
    device.ip(f"route add default via {FAR}")
    device.ip("route add default via 10.93.0.2 table 88")
    device.ip(f"rule add from {NEAR} lookup 88")
    assert way(device, BEYOND) is not None
    far.ip("link set eth1 down")
    wait_for(bell, lambda: way(device, BEYOND) is None)


def test_a_link_local_address_is_asked_for_on_its_interface(wire: Wire, bell: KernelBell) -> None:
    wire.net.cable(wire.device, "eth1", wire.far, "eth1")

    def both() -> list[Address]:
        return [resolve(f"fe80::1%{device}", PORT)[0] for device in ("eth0", "eth1")]

    here = wire.device.inside(both)

    def ways() -> list[bool]:
        return wire.device.inside(lambda: [path(address) is not None for address in here])

    wait_for(bell, lambda: ways() == [True, True])
    wire.far.ip("link set eth0 down")
    wait_for(bell, lambda: ways() == [False, True])
    wire.far.ip("link set eth0 up")
    wire.far.ip("link set eth1 down")
    wait_for(bell, lambda: ways() == [True, False])
    wire.device.ip("link del eth1")
    assert ways() == [True, False]


@pytest.mark.parametrize(
    "change",
    [
        "link set lo alias inner",
        "addr change 10.99.0.1/32 dev lo valid_lft 999 preferred_lft 999",
        "route add 10.98.0.0/24 dev lo",
        "rule add pref 100 lookup 77",
        "addr change fd99::1/128 dev lo valid_lft 999 preferred_lft 999",
        "-6 route add fd98::/64 dev lo",
        "-6 rule add pref 100 lookup 77",
    ],
)
def test_the_kernel_rings_for_each_kind_of_news(change: str) -> None:
    with network() as net:
        device = net.namespace("device")
        device.ip("addr add 10.99.0.1/32 dev lo")
        device.ip("addr add fd99::1/128 dev lo")
        with contextlib.closing(device.inside(route_bell)) as bell:
            bell.wait(0.3)
            while bell.messages():  # a new IPv6 address is reported twice
                bell.wait(0.3)
            device.ip(change)
            bell.wait(60)
            assert bell.messages()


def test_more_news_than_the_socket_holds_are_news(wire: Wire, bell: KernelBell) -> None:
    assert bell._kernel is not None
    bell._kernel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)

    def overflow() -> None:
        bell.messages()
        for number in range(2, 40):
            wire.device.ip(f"addr replace 10.95.0.{number}/32 dev lo")
        bell.wait(60)

    overflow()
    with pytest.raises(OSError, match="No buffer space"):
        bell._kernel.recv(1)
    overflow()
    assert bell.messages()
    assert not bell.messages()
