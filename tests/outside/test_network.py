"""The whole agent, as a real process, in a network with every kind of outage.

Each outage prints its measurements (``pytest -rP``).
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

import pytest
from field import (
    BEYOND,
    FAR,
    FAR6,
    NAME_SERVER,
    NEAR,
    NOBODY,
    PROBED,
    RATE_HZ,
    Field,
    NameServer,
    Outage,
    clock,
)
from processes import run_agent
from rig import committed, record_backlog

GIVES_UP_SOON = {"timeout": "5s"}  # nothing else ends a request into such an outage
NO_NETLINK = str(Path(__file__).parent / "agent_without_netlink.py")


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Field]:
    with contextlib.ExitStack() as stack:
        yield Field(tmp_path, stack)


@pytest.mark.parametrize(
    ("what", "where", "breaks", "mends"),
    [
        ("link down and up", "device", "link set eth0 down", "link set eth0 up"),
        ("carrier lost", "far", "link set eth0 down", "link set eth0 up"),
        (
            "address removed",
            "device",
            f"addr del {NEAR}/24 dev eth0",
            f"addr add {NEAR}/24 dev eth0",
        ),
        (
            "blackhole route",
            "device",
            f"route add blackhole {FAR}",
            f"route del blackhole {FAR}",
        ),
    ],
)
def test_an_outage_that_the_kernel_sees(
    field: Field, what: str, where: str, breaks: str, mends: str
) -> None:
    # A LAN endpoint: the device never has a default route.
    broken = {"device": field.device, "far": field.far}[where]
    field.start(FAR)
    broken.ip(breaks)
    # After an unanswered packet, the kernel sends three neighbour requests, one per second.
    outage = field.no_way(what, away_s=4.0 if what == "carrier lost" else 1.0)
    outage.over(field.mend(broken, mends))
    field.everything_arrived()


def test_a_default_route_goes_and_comes_through_another_gateway(field: Field) -> None:
    field.cable("wlan0", "10.93.0.1", "10.93.0.2")
    field.device.ip(f"route add default via {FAR}")
    field.start(BEYOND)
    field.device.ip("route del default")
    outage = field.no_way("default route gone, back through another gateway")
    outage.over(field.mend(field.device, "route add default via 10.93.0.2", address=BEYOND))
    field.everything_arrived()


def test_another_address_is_no_outage(field: Field) -> None:
    field.device.sysctl("ipv4.conf.eth0.promote_secondaries", "1")
    field.start(FAR)
    since_s = clock.monotonic_s()
    field.device.ip("addr add 10.91.0.7/24 dev eth0")
    field.device.ip(f"addr del {NEAR}/24 dev eth0")
    Outage(field, "another address (no outage)").over(since_s)
    field.everything_arrived()


def test_another_interface_takes_over(field: Field) -> None:
    field.cable("wlan0", "10.93.0.1", "10.93.0.2")
    field.device.ip(f"route add default via {FAR} metric 100")
    field.device.ip("route add default via 10.93.0.2 metric 600")
    field.start(BEYOND)
    since_s = clock.monotonic_s()
    field.device.ip("link set eth0 down")
    Outage(field, "other interface takes over (no outage)").over(since_s)
    field.everything_arrived()


def test_a_request_that_hangs_in_the_old_network_does_not_outlive_it(field: Field) -> None:
    field.listen("hangx1")
    field.start(FAR, settled=False, upload={"timeout": "1min"})
    field.endpoint.first_since(0)
    field.device.ip("link set eth0 down")
    outage = field.no_way("link down while a request hangs, and up")
    states: list[int] = []
    while not {1, 2} <= set(states):  # sent without an answer, and recorded later
        states = [state for state, _ in committed(field.folder / "queue.db").values()]
    outage.over(field.mend(field.device, "link set eth0 up"))
    field.everything_arrived()


def test_what_was_stored_without_an_answer_is_not_stored_twice(field: Field) -> None:
    field.listen("dropx1")
    field.start(FAR, upload={"backoff_initial": "1s"})
    field.device.ip("link set eth0 down")
    outage = field.no_way("link down after an answer was lost, and up")
    outage.over(field.mend(field.device, "link set eth0 up"))
    field.everything_arrived()
    assert field.endpoint.counters["known"] > 0


@pytest.mark.parametrize("what", ["the endpoint stops", "packets vanish beyond the link"])
def test_an_outage_that_the_kernel_does_not_see(field: Field, what: str) -> None:
    field.start(FAR, upload=GIVES_UP_SOON, connectivity=PROBED)
    if what == "the endpoint stops":
        field.far.inside(field.endpoint.disconnect)
        mend = field.endpoint.reconnect
    else:
        field.far.ip(f"route add blackhole {NEAR}")
        mend = partial(field.far.ip, f"route del blackhole {NEAR}")
    outage = Outage(field, f"{what} (seen by probe)")
    # This second contains at most one probe, and one request that began earlier.
    outage.noticed("unreachable", attempts_max=2)
    since_s = clock.monotonic_s()
    mend()
    outage.over(since_s)
    field.everything_arrived()


@pytest.mark.parametrize("dead_ipv4", [False, True])
def test_ipv6_alone(field: Field, dead_ipv4: bool) -> None:
    if dead_ipv4:  # it has a route and is tried first, but does not answer
        field.device.ip(f"route add default via {FAR}")
        field.device.hosts({"endpoint.test": [NOBODY, FAR6]})
        field.device.file("gai.conf", "precedence ::ffff:0:0/96 100\n")
    else:
        field.device.ip(f"addr del {NEAR}/24 dev eth0")
        field.device.hosts({"endpoint.test": [FAR, FAR6]})
    field.start("endpoint.test")
    what = f"IPv6 only{', beside a dead IPv4' * dead_ipv4}"
    field.device.ip("link set eth0 down")
    outage = field.no_way(what)
    mends = ["link set eth0 up", *[f"route add default via {FAR}"] * dead_ipv4]
    outage.over(field.mend(field.device, *mends, address=FAR6))
    field.everything_arrived()


@pytest.mark.parametrize("way", ["policy route", "tunnel"])
def test_no_default_route_is_not_no_route(field: Field, way: str) -> None:
    if way == "tunnel":
        for each, peer, address in ((field.device, FAR, 1), (field.far, NEAR, 2)):
            try:
                each.ip(f"link add tunnel type vxlan id 7 remote {peer} dstport 4789")
            except subprocess.CalledProcessError as error:
                pytest.skip(f"the kernel makes no tunnel: {error.stderr}")
            each.ip(f"addr add 10.94.0.{address}/24 dev tunnel")
            each.ip("link set tunnel up")
        host, breaks, mends = "10.94.0.2", "link set tunnel down", "link set tunnel up"
    else:
        field.device.ip(f"route add {BEYOND}/32 via {FAR} table 77")
        field.device.ip("rule add pref 100 lookup 77")
        host, breaks, mends = BEYOND, "rule del pref 100", "rule add pref 100 lookup 77"
    field.start(host)
    field.device.ip(breaks)
    outage = field.no_way(f"{way} goes and comes, no default route")
    outage.over(field.mend(field.device, mends, address=host))
    field.everything_arrived()


@pytest.fixture
def names(field: Field) -> Iterator[NameServer]:
    field.far.ip(f"addr add {NAME_SERVER}/32 dev lo")
    field.device.ip(f"route add default via {FAR}")
    field.device.file("resolv.conf", f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:1\n")
    field.device.file("nsswitch.conf", "hosts: dns\n")
    with contextlib.closing(NameServer(field.far)) as names:
        yield names


def test_a_name_server_that_tells_nothing_at_the_start(field: Field, names: NameServer) -> None:
    field.start("endpoint.test", settled=False, connectivity=PROBED)
    outage = Outage(field, "DNS black hole at the start")
    outage.noticed("unreachable")
    since_s = clock.monotonic_s()
    names.mute = False
    outage.over(since_s)
    field.everything_arrived()


def test_a_name_server_that_falls_silent_stops_nothing(field: Field, names: NameServer) -> None:
    names.mute = False
    field.start("endpoint.test")
    names.mute = True
    field.far.inside(field.endpoint.disconnect)  # the next request needs a new connection
    since_s = clock.monotonic_s()
    field.endpoint.reconnect()
    Outage(field, "DNS black hole later (no outage)").over(since_s)
    field.everything_arrived()


def test_without_netlink_the_probe_alone_serves(field: Field) -> None:
    command = (sys.executable, NO_NETLINK, "run")
    field.start(FAR, command=command, upload=GIVES_UP_SOON, connectivity=PROBED)
    field.agent.wait_for_line("cannot receive the kernel.s messages about links and routes")
    field.device.ip("link set eth0 down")
    outage = Outage(field, "link down and up, no netlink")
    outage.noticed("no-route")
    outage.over(field.mend(field.device, "link set eth0 up"))
    field.everything_arrived()


def test_a_backlog_over_a_slow_link_holds_up_no_live_fix(field: Field) -> None:
    """200 kbit/s in each direction."""
    backlog, flush_every_s = 4000, 1.0
    record_backlog(field.folder, backlog)
    ((stream, _), *_) = committed(field.folder / "queue.db")
    field.device.ip("link set eth0 down")
    for each in (field.device, field.far):
        each.tc("qdisc add dev eth0 root tbf rate 200kbit burst 4kb latency 400ms")
    field.start(FAR, settled=False, upload={"timeout": "30s", "flush_every": f"{flush_every_s}s"})
    outage = field.no_way("link of 200 kbit/s comes up, 4,000 fixes wait")
    since_s = field.mend(field.device, "link set eth0 up")
    fresh = field.simulator.sent + 1
    outage.over(since_s)
    assert field.endpoint.wait_for(backlog + fresh, 150), field.agent.text()
    order = list(field.endpoint.taken)
    took_s = order[-1][0] - since_s
    live = [
        (at_s - first / RATE_HZ, at_s - last / RATE_HZ)
        for at_s, of, first, last in order
        if of != stream and first > fresh
    ]
    late_s = max(oldest for oldest, _ in live) - min(newest for _, newest in live)
    sys.stdout.write(
        f"{backlog} fixes in {took_s:.1f} s, {len(live)} live batches between them, "
        f"no live fix later than {late_s:.1f} s (gathering for {flush_every_s:g} s included)\n"
    )
    # Delayed live fixes would come after the whole backlog. Their delay in seconds depends on the
    # machine; the order of the requests does not.
    between = [
        len(list(run)) for old, run in groupby(of == stream for *_, of, _, _ in order) if old
    ]
    assert len(live) > 1
    assert max(between) <= sum(between) / 2, order
    field.everything_arrived(backlog)


def test_a_path_that_loses_large_packets_is_learned(field: Field) -> None:
    """The limit is 1,300 bytes, but no message reports it: the far machine announces 1,500."""
    record_backlog(field.folder, 600)
    field.device.ip("link set eth0 gso_max_segs 1")  # otherwise veth passes segments on uncut
    field.far.ip(f"route change 10.91.0.0/24 dev eth0 src {FAR} advmss 1460")
    field.far.ip("link set eth0 mtu 1300")
    field.start(FAR, settled=False, upload={"timeout": "2s", "backoff_max": "1s"})
    assert field.endpoint.wait_for(600, 150), field.agent.text()
    failed = [failed_requests(field)]
    assert failed[0] > 0, "the path carried everything"
    # The agent may still learn when the backlog is delivered. Without learning, seven requests fail
    # in this time.
    while len(failed) < 2 or failed[-1] - failed[-2] > 2:
        assert len(failed) < 5, failed
        field.drive(20 * RATE_HZ)
        failed.append(failed_requests(field))
    field.everything_arrived(600)


def failed_requests(field: Field) -> int:
    shown = run_agent("status", "--json", "--config", str(field.folder / "config.toml")).stdout
    return int(json.loads(shown)["upload"]["failed_requests"])
