"""What the device page costs: 50,000 positions in the queue, and 10 new ones a second.

::

    python benchmarks/page.py [--seconds 20]

For each line an agent of its own runs as a process, with a simulated receiver and the reference
endpoint beside it; the viewers read the events and fetch the track as a browser does. CPU is of all
threads of the agent, RSS as the kernel tells it at the end. Lost are fixes that the receiver sent
and that are not in the queue in the end. At last a Chromium without a graphics card drags the map
with all of the track on it, which needs Node 20 and ``npm ci``.
"""

import argparse
import http.client
import json
import math
import signal
import socket
import subprocess
import tempfile
import threading
from contextlib import ExitStack, closing, suppress
from itertools import islice
from pathlib import Path

from quiet import ROOT, Account, as_process, config

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.lab.drive import Drive
from telemetry_agent.lab.endpoint import Endpoint
from telemetry_agent.lab.simulator import Simulator
from telemetry_agent.model import Fix

START_MS = 1_795_435_200_000
KEPT = 50_000
RATE_HZ = 10
CASES = (("no page", None), ("nobody looks", 0), ("1 viewer", 1), ("20 viewers", 20))
WAITING = [signal.SIGALRM]  # never sent: sigtimedwait is a wait that ends by itself


def look(port: int) -> None:
    """As a browser does: fetch the track, follow the events."""
    line, other = (http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(2))
    with suppress(OSError, http.client.HTTPException), closing(line), closing(other):
        line.request("GET", "/events")
        events = line.getresponse()
        events.readline()
        other.request("GET", "/trail?after=0")
        other.getresponse().read()
        for _ in events:
            continue


def free_port() -> int:
    """For a page."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def fill(path: Path, fixes: int = KEPT, *, deliver: bool = True) -> None:
    """A track of the hours before, round and round."""
    with AckQueue(path, commit_every_s=60) as queue:
        for number in range(fixes):
            turn, away_e9 = number / 300, 20e6 * (1 + number / fixes)
            lat_e9 = 48_117_300_000 + round(away_e9 * math.sin(turn))
            lon_e9 = 11_516_667_000 + round(away_e9 * math.cos(1.3 * turn))
            queue.put(Fix(START_MS + 1000 * number, lat_e9, lon_e9), "van-07")
        while deliver and (batch := queue.lease(1000)):
            queue.ack(batch)


def measure(viewers: int | None, seconds: float) -> tuple[Account, Account, int]:
    """Begin, end, and how many fixes were lost."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fill(folder / "queue.db")
        endpoint = stack.enter_context(Endpoint("127.0.0.1:0", folder / "received.db"))
        drive = Drive(START_MS + 1000 * KEPT, interval_ms=1000 // RATE_HZ)
        epochs = round((seconds + 5) * RATE_HZ)
        simulator = stack.enter_context(
            Simulator(islice(drive, epochs), rate_hz=RATE_HZ, link=folder / "gps")
        )
        port = free_port()
        text = config(folder, folder / "gps", endpoint.url) + '[sampling]\ninterval = "0s"\n'
        if viewers is not None:
            text += f'[page]\nlisten = "127.0.0.1:{port}"\n'
        with as_process(folder, text) as process:
            endpoint.wait_for(1, 60)
            for _ in range(viewers or 0):
                threading.Thread(target=look, args=(port,), daemon=True).start()
            signal.sigtimedwait(WAITING, 3)
            begin = Account.of(process)
            signal.sigtimedwait(WAITING, seconds)
            end = Account.of(process)
            simulator.done.wait(60)
        with AckQueue(folder / "queue.db") as queue:
            counts = queue.stats()
        return begin, end, KEPT + epochs - counts.ready - counts.unack - counts.acked


def frames(number: int, *, deliver: bool) -> str:
    """How long the frames take with so many positions, as the browser tells it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fill(folder / "queue.db", number, deliver=deliver)
        port = free_port()
        text = config(folder, Path("/dev/none"), "http://127.0.0.1:9/")
        text += f'[page]\nlisten = "127.0.0.1:{port}"\n'
        stack.enter_context(as_process(folder, text))
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            signal.sigtimedwait(WAITING, 0.1)
        story = ("node", "tests/page/browser.mjs", "frames", f"http://127.0.0.1:{port}/")
        done = subprocess.run(story, cwd=ROOT, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[0])
    return ", ".join(f"{name.removesuffix('_ms')} {ms:.1f} ms" for name, ms in told.items())


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description="What the device page costs.")
    parser.add_argument("--seconds", type=float, default=20)
    seconds = parser.parse_args().seconds
    print(f"{'':14}{'CPU, %':>8}{'RSS, MB':>9}{'threads':>9}{'lost':>6}")
    for name, viewers in CASES:
        begin, end, lost = measure(viewers, seconds)
        cpu = 100 * (end.cpu_s - begin.cpu_s) / (end.at_s - begin.at_s)
        print(f"{name:14}{cpu:8.1f}{end.rss_mb:9.1f}{end.threads:9}{lost:6}", flush=True)
    print("a frame while the map is dragged")
    for number, deliver in ((500, True), (KEPT, True), (KEPT, False)):
        where = "delivered" if deliver else "on the disk"
        print(f"{number:6,} {where:11}  {frames(number, deliver=deliver)}", flush=True)


if __name__ == "__main__":
    main()
