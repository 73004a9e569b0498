"""What a fix costs on the wire: an hour at one fix a second, over TLS, by ``flush_every``.

::

    python benchmarks/bytes_per_fix.py [--seconds 3600] [--backlog 86400]

Queue, uploader, reports, transport, sockets and TLS are those of the agent. Only the clock is the
benchmark's: an hour passes as fast as the requests are made. The server closes the connection after
5 s of that clock without a request, as Apache does, or after 75 s, as nginx does. The fixes are
those of the simulated receiver, decoded. The answer is nginx's 204.

For comparison, by the same clock: one POST for each fix, a dict as JSON, by an httpx client with
its defaults.

Bytes are counted by the server's kernel (TCP_INFO), both directions, all of TLS included. "With
TCP/IP" adds 52 bytes for each packet, as over IPv4, with packets of at most 1,400 bytes.
"""

import argparse
import contextlib
import json
import re
import socket
import ssl
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from certificates import Authority
from fakes import AlwaysReachable, FakeClock
from misbehaving import Act, Line, Request, Server

from telemetry_agent import __version__
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.fields import fix_json
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy
from telemetry_agent.lab.drive import Drive
from telemetry_agent.model import Fix
from telemetry_agent.upload.formats import native
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.dialer import Dialer
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import CompressionSetting, UploadPolicy
from telemetry_agent.upload.reports import AgentReports
from telemetry_agent.upload.uploader import Uploader

DEVICE = "van-07"
START_MS = 1_795_435_200_000
MONTH_S = 30 * 86_400
_PACKET_BYTES, _HEADER_BYTES = 1400, 52
_NGINX_204 = (
    b"HTTP/1.1 204 No Content\r\nServer: nginx\r\nDate: Mon, 23 Nov 2026 12:00:00 GMT\r\n"
    b"Connection: keep-alive\r\n\r\n"
)
_BYTES_ACKED_AT = 120
"""In struct tcp_info: bytes acked, received (64 bits each); packets out, in (32 bits each)."""


class CountingServer(Server):
    """Accepts everything, and counts the bytes of its sockets."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(then=Act(self._answer), tls=tls)
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _PACKET_BYTES)
        self.bytes = 0
        self.packets = 0

    def _answer(self, line: Line, request: Request) -> None:
        self.take(request)
        line.sock.sendall(_NGINX_204)

    def _talk(self, line: Line) -> None:
        try:
            super()._talk(line)
        finally:
            info = line.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            acked, received, out, came = struct.unpack_from("<QQII", info, _BYTES_ACKED_AT)
            self.bytes += acked + received
            self.packets += out + came


class Idle:
    """How long the server waits for a request, by the benchmark's clock."""

    def __init__(self, server: Server, clock: FakeClock, patience_s: float) -> None:
        self._server = server
        self._clock = clock
        self._patience_s = patience_s
        self._requests = 0
        self._since_s = clock.now_s

    def pass_time(self, seconds: float) -> None:
        """Let it pass; the server closes the connection if that is too long for it."""
        if len(self._server.requests) > self._requests:
            self._requests, self._since_s = len(self._server.requests), self._clock.now_s
        if self._clock.advance(seconds) - self._since_s >= self._patience_s:
            self._server.close_idle()


@dataclass
class Figures:
    """The bytes and requests of a run."""

    fixes: int
    requests: int
    connections: int
    bytes: int
    packets: int

    def row(self, what: str) -> str:
        """One line of the table."""
        each = self.bytes / self.fixes
        with_headers = each + self.packets * _HEADER_BYTES / self.fixes
        megabytes = with_headers * MONTH_S / 1e6
        return (
            f"{what:<34}{self.requests:>9,}{self.connections:>13,}"
            f"{each:>9,.0f}{with_headers:>13,.0f}{megabytes:>12,.0f}"
        )


def drive(seconds: int) -> list[Fix]:
    """The fixes of a drive, one each second."""
    decoder, sampler = (
        Decoder(fix_rollover=False, eager=False),
        Sampler(SamplingPolicy(interval_s=0)),
    )
    said = Drive(START_MS)
    # By default, most receivers send no GST.
    epochs = (re.sub(rb"\$GNGST.*\r\n", b"", said.epoch(i)) for i in range(seconds))
    decoded = [fix for epoch in epochs for fix in decoder.feed(epoch, 0.0)]
    decoded += decoder.finish()
    fixes = [kept for fix in decoded for kept in sampler.feed(fix)]
    assert len(fixes) == seconds
    return fixes


class Bench:
    """A server with its certificates, and how to run a client against it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = Authority(folder)
        self._pair = self._authority.sign("server")

    def run(self, fixes: int, client: Callable[[CountingServer], None]) -> Figures:
        """Let ``client`` deliver this number of fixes."""
        with CountingServer(self._authority.server_context(self._pair)) as server:
            client(server)
        return Figures(
            fixes, len(server.requests), server.connections, server.bytes, server.packets
        )

    def httpx(self, fixes: list[Fix], patience_s: float) -> Figures:
        """One POST for each fix."""

        def deliver(server: CountingServer) -> None:
            idle = Idle(server, FakeClock(), patience_s)
            trust = ssl.create_default_context(cafile=self._authority.pair.cert)
            with httpx.Client(verify=trust) as client:
                for seq, fix in enumerate(fixes, 1):
                    item = json.loads(f'{{"device":"{DEVICE}","seq":{seq},{fix_json(fix)}}}')
                    client.post(server.url, json=item).raise_for_status()
                    idle.pass_time(1)

        return self.run(len(fixes), deliver)

    def live(
        self, fixes: list[Fix], flush_every_s: float, patience_s: float, how: CompressionSetting
    ) -> Figures:
        """The agent while it records."""

        def deliver(server: CountingServer) -> None:
            clock = FakeClock()
            idle = Idle(server, clock, patience_s)
            with self._agent(server, clock, flush_every_s, how) as (queue, uploader):
                for number, fix in enumerate(fixes, 1):
                    queue.put(fix, DEVICE)
                    until_s = clock.now_s + (1 if number < len(fixes) else flush_every_s)
                    while (left_s := until_s - clock.now_s) > 0:
                        wait_s = uploader.step(clock.now_s)
                        idle.pass_time(left_s if wait_s is None else min(wait_s, left_s))
                uploader.step(clock.now_s)
            assert len(server.ledger) == len(fixes)

        return self.run(len(fixes), deliver)

    def backlog(self, fixes: list[Fix], how: CompressionSetting) -> Figures:
        """The agent after an outage."""

        def deliver(server: CountingServer) -> None:
            clock = FakeClock()
            with AckQueue(self._queue(), commit_every_s=3600, clock=clock) as queue:
                for fix in fixes:
                    queue.put(fix, DEVICE)
            with self._agent(server, clock, 10.0, how) as (_, uploader):
                while len(server.ledger) < len(fixes):
                    assert uploader.step(clock.now_s) == 0

        return self.run(len(fixes), deliver)

    def _queue(self) -> Path:
        return self._folder / "queue.db"

    @contextlib.contextmanager
    def _agent(
        self,
        server: CountingServer,
        clock: FakeClock,
        flush_every_s: float,
        how: CompressionSetting,
    ) -> Iterator[tuple[AckQueue, Uploader]]:
        """Join the parts as ``daemon/app.py`` does."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._queue().unlink)
            queue = stack.enter_context(AckQueue(self._queue(), clock=clock))
            transport = Transport(
                server.url,
                credentials=Credentials(ca_file=self._authority.pair.cert),
                dialer=Dialer(clock, keepalive_s=3 * flush_every_s),
            )
            stack.callback(transport.close)
            policy = UploadPolicy(flush_every_s=flush_every_s, compression=how)
            name = (queue.stream, DEVICE)
            reports = AgentReports(
                name, lambda: ("3d", "ok", ""), report, native.encode, clock.now_s
            )
            yield (
                queue,
                Uploader(
                    queue,
                    native.FORMAT,
                    transport,
                    policy,
                    reachability=AlwaysReachable,
                    reports=reports,
                    clock=clock,
                ),
            )


def report() -> dict[str, object]:
    """A report of the agent about itself, of the usual length."""
    return {
        "version": __version__,
        "uptime": 3600,
        "receiver": "3d",
        "upload": "ok",
        "sats": 9,
        "pending": 10,
        "oldest_pending": "2026-11-23T12:00:00.000Z",
        "dead_letters": 0,
        "lost": {},
        "disk_free": 20_000_000_000,
    }


def main() -> None:
    """Run everything, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--backlog", type=int, default=86_400)
    options = parser.parse_args()
    recorded = drive(max(options.seconds, options.backlog))
    hour = recorded[: options.seconds]
    ways: list[tuple[CompressionSetting, str]] = [("none", ""), ("gzip", ", gzip")]
    head = f"{'requests':>9}{'connections':>13}{'bytes':>9}{'with TCP/IP':>13}{'MB a month':>12}"
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        for patience_s in (5, 75):
            title = f"server closes idle after {patience_s} s"
            print(f"{title:<34}{head}")
            print(bench.httpx(hour, patience_s).row("httpx, a POST for each fix"))
            for how, text in ways:
                for flush_every_s in (1, 10, 60):
                    figures = bench.live(hour, flush_every_s, patience_s, how)
                    print(figures.row(f"flush_every {flush_every_s} s{text}"))
        for how, text in ways:
            figures = bench.backlog(recorded[: options.backlog], how)
            print(figures.row(f"{options.backlog:,} fixes of a backlog{text}"))


if __name__ == "__main__":
    main()
