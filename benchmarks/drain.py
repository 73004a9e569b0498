"""How fast a backlog drains, and how fresh the newest position stays meanwhile.

::

    python benchmarks/drain.py [--fixes 1000000] [--plain 1000] [--turns 3]
    python benchmarks/drain.py --link 200 [--for 60] [--flush-every 1]

The first command drains into an endpoint that only counts, in a process of its own, through all
parts of the agent: queue file, encoding, gzip, HTTP, acknowledgement on disk. For comparison, in
the same run: reading, encoding and compressing alone; the plain way, which is persist-queue and one
POST per fix over one connection; and syslog-ng's disk queue (if Debian's packages are installed),
which sends plain lines as long as a fix in JSON. Processor time is that of the draining process, so
it shows what one core can do. They take turns, and each figure is that of the middle turn. The
plain way syncs twice for each fix, so the disk decides: the last line is arithmetic for a memory
card.

The second command records one fix a second while the backlog drains over a link of ``--link``
kbit/s. It prints how old the newest position at the endpoint was each time a newer one came.
"""

import argparse
import contextlib
import gzip
import json
import multiprocessing
import resource
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from persistqueue import SQLiteAckQueue

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import syslog_ng
from fakes import AlwaysReachable
from links import Link
from misbehaving import Act, Line, Request, Server
from queue_cycle import CARD_SYNC_MS, as_dict, fdatasync_ms, fix_at

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.tasks import Beat, run_loop
from telemetry_agent.upload.formats import native
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import UploadPolicy
from telemetry_agent.upload.uploader import Uploader

DEVICE = "van-07"
_PLAIN_SYNCS = 2  # get and ack of persist-queue
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def count_requests(port: Any, requests: Any) -> None:
    """An endpoint that only counts; one connection at a time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port.send(listener.getsockname()[1])
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                buffer = b""
                while data := connection.recv(1 << 20):
                    buffer += data
                    head, end, rest = buffer.partition(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                    if end and len(rest) >= length:
                        requests.value += 1
                        connection.sendall(ANSWER)
                        buffer = rest[length:]


@contextlib.contextmanager
def counting_endpoint() -> Iterator[tuple[str, Any]]:
    """Its URL, and the number of requests."""
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    requests = processes.Value("Q", 0)
    process = processes.Process(target=count_requests, args=(theirs, requests), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1/fixes", requests
    finally:
        process.kill()
        process.join()


def record(queue: AckQueue, count: int) -> None:
    """A backlog of fixes that were handed out before, as after an outage."""
    for second in range(count):
        queue.put(fix_at(second), DEVICE)
        if second % 10_000 == 9_999:
            queue.commit()
    queue.commit()


class Timed:
    """The wall clock and processor time of its ``with`` block, for each turn."""

    def __init__(self) -> None:
        self.wall_s: list[float] = []
        self.processor_s: list[float] = []

    def __enter__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.add(time.perf_counter() - self._began[0], time.process_time() - self._began[1])

    def add(self, wall_s: float, processor_s: float) -> None:
        """One turn."""
        self.wall_s.append(wall_s)
        self.processor_s.append(processor_s)

    def row(self, what: str, fixes: int) -> str:
        """One line of the table: the middle turn, and the lowest and highest."""
        rates = sorted(fixes / wall_s for wall_s in self.wall_s)
        per_processor_s = fixes / statistics.median(self.processor_s)
        return (
            f"{what:<38}{fixes:>10,}{statistics.median(rates):>10,.0f}"
            f"  ({rates[0]:>7,.0f} to {rates[-1]:>7,.0f}){per_processor_s:>14,.0f}"
        )


def drain(path: Path, url: str, policy: UploadPolicy, timed: Timed) -> None:
    """Send everything with the agent's parts, from a queue that was just opened."""
    with AckQueue(path) as queue, contextlib.closing(Transport(url)) as transport:
        uploader = Uploader(queue, native.FORMAT, transport, policy, reachability=AlwaysReachable)
        with timed:
            while uploader.step(time.monotonic()) == 0:
                pass
        left = queue.stats()
    assert not left.ready + left.unack + left.ack_failed, left


def only_encode(path: Path, max_batch: int, timed: Timed) -> None:
    """Reading, encoding and compressing, and nothing else."""
    with AckQueue(path) as queue, timed:
        while batch := queue.lease(max_batch, live_first=False):
            native.encode(batch, compression="gzip")


def plain_way(folder: Path, url: str, fixes: int, timed: Timed) -> None:
    """The plain way: persist-queue, and a POST for each fix, with one client."""
    queue = SQLiteAckQueue(str(folder))
    for second in range(fixes):
        queue.put(as_dict(second))
    with httpx.Client() as client, timed:
        for _ in range(fixes):
            item = queue.get(block=False)
            client.post(url, json=item).raise_for_status()
            queue.ack(item)
    queue.close()


def print_drain(fixes: int, plain: int, max_batch: int, turns: int) -> None:
    """The table of the first command."""
    encoding, whole, simple, peer = Timed(), Timed(), Timed(), Timed()
    syncs_ms: list[float] = []
    policy = UploadPolicy(max_batch=max_batch, compression="gzip")
    for _ in range(turns):
        with tempfile.TemporaryDirectory() as name, counting_endpoint() as (url, requests):
            folder = Path(name)
            with AckQueue(folder / "queue.db", commit_every_s=3600) as queue:
                record(queue, fixes)
            only_encode(folder / "queue.db", max_batch, encoding)
            drain(folder / "queue.db", url, policy, whole)
            memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            made = requests.value
            plain_way(folder, url, plain, simple)
            syncs_ms += fdatasync_ms(folder)
            if syslog_ng.installed():
                peer.add(*syslog_ng.drain(folder, fixes))
    print(f"{'':<38}{'fixes':>10}{'a second':>10}{'':>22}{'/s processor':>14}")
    print(whole.row(f"the agent, {max_batch:,} a request", fixes))
    print(encoding.row("reading, encoding, compressing alone", fixes))
    print(simple.row("persist-queue and one POST per fix", plain))
    if peer.wall_s:
        print(peer.row(f"syslog-ng, lines of {syslog_ng.LINE_BYTES} bytes, no gzip", fixes))
    else:
        print(f"(syslog-ng is not installed: apt-get install {syslog_ng.PACKAGES})")
    ours_s = statistics.median(whole.wall_s) / fixes
    plain_s = statistics.median(simple.wall_s) / plain
    share = ours_s / (statistics.median(encoding.wall_s) / fixes)
    sync_ms = statistics.median(syncs_ms)
    print(f"{made:,} requests; {share:.2f} times the time of encoding alone")
    print(f"memory of the agent's process at its highest: {memory_mb:.0f} MB")
    print(f"{plain_s / ours_s:,.0f} times the plain way, where a sync takes {sync_ms:.2f} ms")
    slower_s = (CARD_SYNC_MS - sync_ms) / 1000
    if slower_s > 0:
        ours_s += slower_s * made / fixes
        plain_s += slower_s * _PLAIN_SYNCS
        print(
            f"{plain_s / ours_s:,.0f} times ({1 / ours_s:,.0f} and {1 / plain_s:,.0f} fixes/s) "
            f"with syncs of {CARD_SYNC_MS} ms, by arithmetic"
        )


def print_freshness(fixes: int, kbit_s: float, for_s: float, flush_every_s: float) -> None:
    """The figures of the second command."""
    put_s: dict[int, float] = {}
    ages: list[float] = []
    delays: list[float] = []
    newest = [0]
    backlog = [0]

    def take(line: Line, request: Request) -> None:
        body = json.loads(gzip.decompress(request.body))
        now_s, seqs = time.monotonic(), [fix["seq"] for fix in body["fixes"]]
        line.reply(200)
        if body["stream"] != queue.stream:
            backlog[0] += len(seqs)
            return
        delays.extend(now_s - put_s[seq] for seq in seqs if seq > newest[0])
        if newest[0] and max(seqs) > newest[0]:
            ages.append(now_s - put_s[newest[0]])
        newest[0] = max(*seqs, newest[0])

    with (
        tempfile.TemporaryDirectory() as name,
        Server(then=Act(take)) as server,
        Link(server.port, kbit_s * 1000) as link,
    ):
        path = Path(name) / "queue.db"
        with AckQueue(path, commit_every_s=3600) as queue:
            record(queue, fixes)
        with AckQueue(path, commit_every_s=0) as queue:
            transport = Transport(f"http://127.0.0.1:{link.port}/")
            uploader = Uploader(
                queue,
                native.FORMAT,
                transport,
                UploadPolicy(flush_every_s=flush_every_s, compression="gzip"),
                reachability=AlwaysReachable,
            )
            queue.watch(uploader.wake)
            stop = threading.Event()
            thread = threading.Thread(target=run_loop, args=(uploader, stop, Beat(), Clock()))
            thread.start()
            tick, began_s = threading.Event(), time.monotonic()
            for second in range(int(for_s)):
                tick.wait(began_s + second - time.monotonic())
                put_s[second + 1] = time.monotonic()
                queue.put(fix_at(fixes + second), DEVICE)
            stop.set()
            uploader.wake()
            thread.join()
            left = queue.stats().ready
            transport.close()
    print(
        f"{fixes:,} pending, {kbit_s:g} kbit/s, flush_every {flush_every_s:g} s, {for_s:g} s long\n"
        f"a fix arrived {statistics.median(delays):.1f} s after it was recorded (median), "
        f"{max(delays):.1f} s at most\n"
        f"the newest there was {statistics.median(ages):.1f} s old when the next came (median), "
        f"{max(ages):.1f} s at most\n"
        f"meanwhile {backlog[0]:,} of the backlog arrived; {left:,} left"
    )


def main() -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--fixes", type=int, default=1_000_000)
    parser.add_argument("--plain", type=int, default=1000, help="fixes for the plain way")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--max-batch", type=int, default=1000)
    parser.add_argument("--link", type=float, help="kbit/s: measure freshness")
    parser.add_argument("--for", dest="for_s", type=float, default=60)
    parser.add_argument("--flush-every", type=float, default=1)
    arguments = parser.parse_args()
    if arguments.link:
        print_freshness(arguments.fixes, arguments.link, arguments.for_s, arguments.flush_every)
    else:
        print_drain(arguments.fixes, arguments.plain, arguments.max_batch, arguments.turns)


if __name__ == "__main__":
    main()
