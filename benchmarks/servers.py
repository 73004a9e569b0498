"""How long a backlog takes in each format, to a server that answers after so many milliseconds.

::

    python benchmarks/servers.py [--fixes 10000] [--latency-ms 2]

Traccar, OwnTracks Recorder and Dawarich are the strict stand-ins of the tests, each in a process of
its own; InfluxDB and VictoriaMetrics are the real ones. Each drains the same recorded drive, by the
agent's own uploader, from the queue on disk. Beside it, in the same run, the plain way for those
that take one fix per request: the next request leaves when the last was answered.
"""

import argparse
import contextlib
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from peers import ask, influxdb, victoria_metrics
from rig import record_backlog
from standins import Dawarich, Recorder, Server, Traccar

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.upload.formats.choice import choose
from telemetry_agent.upload.http import pipeline
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import FormatName
from telemetry_agent.upload.uploader import Uploader, UploadPolicy


def stand_in(port: Any, answer: Callable[..., Any], latency_s: float) -> None:
    """Serve until killed."""
    with Server(answer, latency_s=latency_s) as server:
        port.send(server.port)
        server.wait_for(lambda: False, 3600)


@contextlib.contextmanager
def standing_in(answer: Callable[..., Any], latency_s: float) -> Iterator[str]:
    """A stand-in in a process of its own; its URL."""
    near, far = multiprocessing.Pipe()
    process = multiprocessing.Process(target=stand_in, args=(far, answer, latency_s), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{near.recv()}"
    finally:
        process.kill()
        process.join()


def drained_s(backlog: Path, name: FormatName, url: str, fixes: int) -> float:
    """How long it takes."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(backlog / "queue.db", folder)
        with AckQueue(Path(folder, "queue.db")) as queue:
            wire_format = choose(name, url)
            transport = Transport(url)
            policy = UploadPolicy(live_first=not wire_format.oldest_first)
            uploader = Uploader(queue, wire_format, transport, policy)
            began_s = time.monotonic()
            while uploader.step(time.monotonic()) == 0:
                pass
            took_s = time.monotonic() - began_s
            transport.close()
            stats = queue.stats()
            if stats.acked != fixes:
                raise SystemExit(f"{name}: {stats} {uploader.status()}")
    return took_s


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fixes", type=int, default=10_000)
    parser.add_argument("--latency-ms", type=float, default=2.0)
    options = parser.parse_args()
    fixes, latency_s = options.fixes, options.latency_ms / 1000
    print(f"{fixes:,} fixes, {options.latency_ms:g} ms until each answer\n")
    print("| server | format | backlog | fixes/s | one request at a time |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        backlog = Path(folder)
        record_backlog(backlog, fixes)

        def row(server: str, name: FormatName, url: str, *, plain: bool = False) -> None:
            took_s = drained_s(backlog, name, url, fixes)
            beside = ""
            if plain:
                most, pipeline._ROUND_MAX = pipeline._ROUND_MAX, 1  # noqa: SLF001
                alone_s = drained_s(backlog, name, url, fixes)
                pipeline._ROUND_MAX = most  # noqa: SLF001
                beside = f"{alone_s:.1f} s, {alone_s / took_s:.1f} x slower"
            print(f"| {server} | `{name}` | {took_s:.2f} s | {fixes / took_s:,.0f} | {beside} |")

        traccar = stack.enter_context(standing_in(Traccar("van-07"), latency_s))
        row("Traccar (stand-in)", "osmand", f"{traccar}/", plain=True)
        recorder = stack.enter_context(standing_in(Recorder(), latency_s))
        row("OwnTracks Recorder (stand-in)", "owntracks", f"{recorder}/pub")
        dawarich = stack.enter_context(standing_in(Dawarich("key"), latency_s))
        path = "/api/v1/overland/batches?api_key=key"
        row("Dawarich (stand-in)", "overland", f"{dawarich}{path}")
        for name in ("influxdb", "vm"):
            (backlog / name).mkdir()
        influx = stack.enter_context(influxdb(backlog / "influxdb"))
        ask(f"{influx}/query", b"", q="CREATE DATABASE gps")
        row("InfluxDB 1.6", "influx", f"{influx}/write?db=gps")
        victoria = stack.enter_context(victoria_metrics(backlog / "vm"))
        row("VictoriaMetrics 1.79", "influx", f"{victoria}/write")


if __name__ == "__main__":
    main()
