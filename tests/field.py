"""A device with the whole agent, a far machine with the endpoint, and a network between them.

::

    with contextlib.ExitStack() as stack:
        field = Field(tmp_path, stack)
        field.start(FAR)
        field.device.ip("link set eth0 down")
        outage = field.no_way("link down and up")
        outage.over(field.mend(field.device, "link set eth0 up"))
        field.everything_arrived()

Each machine is a network namespace; the agent is a real process in the device's. The config has
long waits, so that only the tested event can wake the uploader: the next attempt after a failure is
ten minutes away, and so is the next probe where the kernel sees the route return.
"""

import contextlib
import select
import socket
import struct
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netns import Namespace, network
from processes import AGENT, running
from rig import simulated, stats, write_config

from telemetry_agent.addresses import resolve
from telemetry_agent.clock import Clock
from telemetry_agent.connectivity.routes import path, route_bell
from telemetry_agent.lab.endpoint import Endpoint, Fault
from telemetry_agent.lab.native_request import NativeRequest

clock = Clock()

PROBE_EVERY_S = 2.0
LIMIT_S = 60.0
UNPROBED = {"probe_every": "10min"}
PROBED = {"probe_every": f"{PROBE_EVERY_S:g}s"}
PORT = 8080
RATE_HZ = 20  # of the receiver
NEAR, FAR = "10.91.0.1", "10.91.0.2"
NEAR6, FAR6 = "fd91::1", "fd91::2"
BEYOND = "10.92.0.1"  # on the far machine's loopback: the device needs a route to it
NOBODY = "10.92.0.9"  # the far machine accepts packets to this address and drops them
NAME_SERVER = "10.92.0.53"


class Noting(Endpoint):
    """The reference endpoint, which also records when each request came."""

    def __init__(self, listen: str, db: Path, *faults: str) -> None:
        super().__init__(listen, db, [Fault.parse(fault) for fault in faults])
        self.arrivals: list[float] = []
        self.taken: list[tuple[float, str, int, int]] = []
        """The time, the stream, and the first and last seq."""
        self._arrived = threading.Condition()

    def next_fault(self) -> str | None:
        with self._arrived:
            self.arrivals.append(clock.monotonic_s())
            self._arrived.notify_all()
        return super().next_fault()

    def take(self, parcel: NativeRequest) -> dict[str, Any]:
        seqs = [fix["seq"] for fix in parcel.fixes]
        if seqs:
            self.taken.append((clock.monotonic_s(), parcel.stream, seqs[0], seqs[-1]))
        return super().take(parcel)

    def first_since(self, since_s: float) -> float:
        """Seconds from ``since_s`` to the first request."""

        def first() -> float | None:
            return next((at_s for at_s in self.arrivals if at_s > since_s), None)

        with self._arrived:
            self._arrived.wait_for(lambda: first() is not None, LIMIT_S)
            at_s = first()
        assert at_s is not None, f"no request within {LIMIT_S:g} s"
        return at_s - since_s


class Field:
    """A device and a far machine with the endpoint, joined by a cable, with IPv4 and IPv6."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.net = stack.enter_context(network())
        self.device, self.far = self.net.namespace("device"), self.net.namespace("far")
        for each in (self.device, self.far):
            each.sysctl("ipv6.conf.all.keep_addr_on_down", "1")
            each.sysctl("ipv6.conf.default.keep_addr_on_down", "1")
        self.cable("eth0", NEAR, FAR)
        self.device.ip(f"addr add {NEAR6}/64 dev eth0 nodad")
        self.far.ip(f"addr add {FAR6}/64 dev eth0 nodad")
        self.far.ip(f"addr add {BEYOND}/32 dev lo")
        self.far.ip(f"route add blackhole {NOBODY}")

    def cable(self, device: str, near: str, far: str) -> None:
        self.net.cable(self.device, device, self.far, device)
        self.device.ip(f"addr add {near}/24 dev {device}")
        self.far.ip(f"addr add {far}/24 dev {device}")

    def listen(self, *faults: str) -> None:
        """Start the endpoint on every address."""
        self.endpoint = Noting(f"[::]:{PORT}", self.folder / "received.db", *faults)
        self._stack.push(self.endpoint)
        self.far.inside(self.endpoint.__enter__)

    def start(
        self,
        host: str,
        *,
        settled: bool = True,
        upload: Mapping[str, Any] = {},
        command: tuple[str, ...] = (*AGENT, "run"),
        **sections: Any,
    ) -> None:
        """Start the receiver and the agent; wait until the agent delivers."""
        if not hasattr(self, "endpoint"):
            self.listen()
        self.simulator = self._stack.enter_context(simulated(self.folder, rate_hz=RATE_HZ))
        config = write_config(
            self.folder,
            str(self.simulator.device),
            f"http://{f'[{host}]' if ':' in host else host}:{PORT}/v1/fixes",
            upload={
                "timeout": "30s",
                "backoff_initial": "10min",
                "backoff_max": "10min",
                **upload,
            },
            **{"connectivity": UNPROBED, **sections},
        )
        self.agent = self._stack.enter_context(
            running(*self.device.command(*command, "--config", str(config)))
        )
        if settled:
            assert self.endpoint.wait_for(5, LIMIT_S), self.agent.text()

    def drive(self, fixes: int) -> None:
        """Wait until the receiver has sent this many more fixes."""
        until = self.simulator.sent + fixes
        while self.simulator.sent < until:
            self.simulator.done.wait(0.05)

    def connects(self) -> int:
        """The number of SYNs that processes of the device have sent."""
        lines = self.device.inside(Path("/proc/thread-self/net/snmp").read_text).splitlines()
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(values[names.index("ActiveOpens")])

    def mend(self, where: Namespace, *commands: str, address: str = FAR) -> float:
        """Run the commands; return when the device's kernel reports a route to the address.

        The kernel reports a carrier up to a second late.
        """
        there = resolve(address, PORT)[0]
        until_s = clock.monotonic_s() + LIMIT_S
        with contextlib.closing(self.device.inside(route_bell)) as bell:
            for command in commands:
                where.ip(command)
            told = False
            while not (told and self.device.inside(lambda: path(there))):
                bell.wait(until_s - clock.monotonic_s())
                assert clock.monotonic_s() < until_s
                told = bool(bell.messages())
        return clock.monotonic_s()

    def no_way(self, what: str, away_s: float = 1.0) -> "Outage":
        """Wait until the agent has noticed that the route is gone; it must make no attempt."""
        outage = Outage(self, what)
        outage.noticed("no-route", away_s)
        return outage

    def everything_arrived(self, backlog: int = 0) -> None:
        """Check that no fix was lost and none is stored twice."""
        self.simulator.hush()
        sent = self.simulator.sent + backlog
        assert self.endpoint.wait_for(sent, LIMIT_S), self.agent.text()
        assert self.agent.end() == 0, self.agent.text()
        assert not any("Traceback" in line for line in self.agent.err), self.agent.text()
        moments = [(stream, time) for stream, _, time in self.endpoint.received()]
        assert len(moments) == len(set(moments)) == sent
        left = stats(self.folder)
        assert (left.ready, left.unack, left.ack_failed) == (0, 0, 0)


class Outage:
    """An outage from when the agent has ``noticed`` it until it is ``over``; prints a table row."""

    def __init__(self, field: Field, what: str) -> None:
        self._field, self._what = field, what
        self.attempts = 0

    def noticed(self, word: str, away_s: float = 1.0, *, attempts_max: int = 0) -> None:
        """Wait for the outage, drive for ``away_s``, and count the agent's attempts to connect.

        ``attempts_max`` is the limit for ``away_s``. If the drive takes longer, one more probe is
        allowed for each probe interval.
        """
        self._field.agent.wait_for_line(f"debug: .* {word}: ")
        began_s, connects = clock.monotonic_s(), self._field.connects()
        count = -1
        while count != (count := self._field.endpoint.count()):  # still storing old requests
            self._field.drive(round(away_s * RATE_HZ))
            assert clock.monotonic_s() < began_s + LIMIT_S
        self.attempts = self._field.connects() - connects
        took_s = clock.monotonic_s() - began_s
        probes = int(took_s // PROBE_EVERY_S) if attempts_max else 0
        assert self.attempts <= attempts_max + probes, self._field.agent.text()

    def over(self, since_s: float) -> None:
        """Wait for the first request after the repair at ``since_s``; print how long it took."""
        took_s = self._field.endpoint.first_since(since_s)
        sys.stdout.write(f"| {self._what} | {1000 * took_s:.0f} ms | {self.attempts} |\n")


class NameServer:
    """A name server that resolves every name to ``BEYOND``; it does not answer while ``mute``."""

    def __init__(self, where: Namespace) -> None:
        self.mute = True
        self._socket = where.inside(self._bind)
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @staticmethod
    def _bind() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((NAME_SERVER, 53))
        return made

    def close(self) -> None:
        self._stop.close()
        self._thread.join(60)
        self._stopped.close()
        self._socket.close()

    def _run(self) -> None:
        while self._stopped not in select.select([self._socket, self._stopped], [], [])[0]:
            question, peer = self._socket.recvfrom(512)
            if self.mute:
                continue
            end = question.index(b"\0", 12) + 5
            count = int(question[end - 4 : end - 2] == b"\0\1")  # no address for IPv6
            head = question[:2] + b"\x81\x80\0\1" + struct.pack(">H", count) + bytes(4)
            record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(BEYOND)
            self._socket.sendto(head + question[12:end] + record * count, peer)
