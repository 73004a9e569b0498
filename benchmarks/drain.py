"""How fast a backlog drains, and how fresh the newest position stays meanwhile.

::

    python benchmarks/drain.py [--fixes 1000000] [--plain 300]
    python benchmarks/drain.py --link 200 [--for 60] [--flush-every 1]

The first drains into an endpoint that only counts, a process of its own, through everything that
the agent has: queue file, encoding, gzip, HTTP, acknowledgement on disk. Beside it, in the same
run: reading, encoding and compressing alone, and the plain way, persist-queue and one POST per fix.
Processor time is that of the agent's process, so it tells what one core can do.

The second records one fix a second while the backlog drains by a link of so many kbit/s, and tells
how old the newest position at the endpoint was, each time before a newer one came.
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
from typing import Any, Self

import httpx
from persistqueue import SQLiteAckQueue

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from links import Link
from misbehaving import Act, Line, Request, Server
from queue_cycle import as_dict, fix_at

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.tasks import Beat, Stop, run_loop
from telemetry_agent.upload.formats import native
from telemetry_agent.upload.transport import Transport
from telemetry_agent.upload.uploader import Uploader, UploadPolicy

DEVICE = "van-07"
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
    """A backlog, handed out before, as after an outage."""
    for second in range(count):
        queue.put(fix_at(second), DEVICE)
        if second % 10_000 == 9_999:
            queue.commit()
    queue.commit()


class Taken:
    """Wall clock and processor time of a block."""

    def __enter__(self) -> Self:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s = time.perf_counter() - self._began[0]
        self.processor_s = time.process_time() - self._began[1]

    def row(self, what: str, fixes: int) -> str:
        """One line of the table."""
        return (
            f"{what:<46}{fixes:>10,}{fixes / self.wall_s:>12,.0f}{fixes / self.processor_s:>14,.0f}"
        )


def drain(folder: Path, url: str, fixes: int, max_batch: int) -> Taken:
    """Everything by the agent's own parts, from a queue that is opened anew."""
    path = folder / "queue.db"
    with AckQueue(path, commit_every_s=3600) as queue:
        record(queue, fixes)
    policy = UploadPolicy(max_batch=max_batch)
    with AckQueue(path) as queue, contextlib.closing(Transport(url)) as transport:
        uploader = Uploader(queue, native.FORMAT, transport, policy)
        with Taken() as taken:
            while uploader.step(time.monotonic()) == 0:
                pass
        assert queue.stats().acked == fixes, queue.stats()
    return taken


def only_encode(folder: Path, fixes: int, max_batch: int) -> Taken:
    """Reading, encoding and compressing, and nothing else."""
    with AckQueue(folder / "queue.db", commit_every_s=3600) as queue:
        record(queue, fixes)
        with Taken() as taken:
            while batch := queue.lease(max_batch, live_first=False):
                native.encode(batch, compression="gzip")
    return taken


def plain_way(folder: Path, url: str, fixes: int) -> Taken:
    """What one writes first: persist-queue, and httpx.post for each fix, over one client."""
    queue = SQLiteAckQueue(str(folder))
    for second in range(fixes):
        queue.put(as_dict(second))
    with httpx.Client() as client, Taken() as taken:
        for _ in range(fixes):
            item = queue.get(block=False)
            client.post(url, json=item).raise_for_status()
            queue.ack(item)
    queue.close()
    return taken


def print_drain(fixes: int, plain: int, max_batch: int) -> None:
    """The table of the first command."""
    with tempfile.TemporaryDirectory() as name, counting_endpoint() as (url, requests):
        folders = [Path(name, part) for part in ("agent", "encode", "plain")]
        for folder in folders:
            folder.mkdir()
        whole = drain(folders[0], url, fixes, max_batch)
        memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        made = requests.value
        encode = only_encode(folders[1], fixes, max_batch)
        simple = plain_way(folders[2], url, plain)
    print(f"{'':<46}{'fixes':>10}{'fixes/s':>12}{'/s processor':>14}")
    print(whole.row(f"the agent, {max_batch:,} a request ({made:,} requests)", fixes))
    print(encode.row("reading, encoding, compressing alone", fixes))
    print(simple.row("persist-queue and one POST per fix", plain))
    times = (fixes / whole.wall_s) / (plain / simple.wall_s)
    share = whole.wall_s / encode.wall_s
    print(f"{times:,.0f} times the plain way; {share:.2f} times the time of encoding alone")
    print(f"memory of the agent's process at its highest: {memory_mb:.0f} MB")


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
            policy = UploadPolicy(flush_every_s=flush_every_s)
            uploader = Uploader(queue, native.FORMAT, transport, policy)
            queue.watch(uploader.wake)
            stop = Stop()
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
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--fixes", type=int, default=1_000_000)
    parser.add_argument("--plain", type=int, default=300, help="fixes for the plain way")
    parser.add_argument("--max-batch", type=int, default=1000)
    parser.add_argument("--link", type=float, help="kbit/s: measure freshness")
    parser.add_argument("--for", dest="for_s", type=float, default=60)
    parser.add_argument("--flush-every", type=float, default=1)
    arguments = parser.parse_args()
    if arguments.link:
        print_freshness(arguments.fixes, arguments.link, arguments.for_s, arguments.flush_every)
    else:
        print_drain(arguments.fixes, arguments.plain, arguments.max_batch)


if __name__ == "__main__":
    main()
