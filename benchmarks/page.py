"""What the device page costs: 50,000 and 500,000 positions in the queue, 10 new ones a second.

::

    python benchmarks/page.py [--seconds 20]

For each line an agent of its own runs as a process, with a simulated receiver and the reference
endpoint beside it. Viewers follow the events and fetch the track, the trips and the history, as a
browser does. Measuring begins when the agent has read the whole track for them. CPU is of all
threads of the agent; RSS is the value that the kernel reports at the end. Lost are fixes that the
receiver sent and that are not in the queue at the end. Then a Chromium without a graphics card
loads the page and drags the map with the whole track on it, which needs Node 20 and ``npm ci``.
"""

import argparse
import http.client
import json
import math
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from quiet import ROOT, Account, as_process, config

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.lab.drive import Drive
from telemetry_agent.lab.endpoint import Endpoint
from telemetry_agent.lab.simulator import Simulator
from telemetry_agent.model import Fix

START_MS = 1_795_435_200_000
KEPT = (50_000, 500_000)
AT_ONCE = 10_000
RATE_HZ = 10
CASES = (("no page", None), ("no viewer", 0), ("1 viewer", 1), ("20 viewers", 20))
WAITING = [signal.SIGALRM]  # never sent: sigtimedwait is a wait that ends by itself


def look(port: int, ready: threading.Semaphore) -> None:
    """Do as a browser does; ``ready`` is released when the trips are complete."""
    line, other = (http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(2))

    def ask(path: str) -> bytes:
        other.request("GET", path)
        return other.getresponse().read()

    with suppress(OSError, http.client.HTTPException), closing(line), closing(other):
        line.request("GET", "/events")
        events = line.getresponse()
        ask("/history?hours=1")
        for event in events:
            if event.startswith(b"data: ") and json.loads(ask("/trips"))["complete"]:
                break
        ask("/track?across=1400")
        ready.release()
        for _ in events:
            continue


def free_port() -> int:
    """Options of a request for a page."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def fill(path: Path, fixes: int, *, deliver: bool = True) -> None:
    """A track of the hours before, in circles."""
    with AckQueue(path, commit_every_s=600) as queue:
        for number in range(fixes):
            turn, away_e9 = number / 300, 20e6 * (1 + number / fixes)
            lat_e9 = 48_117_300_000 + round(away_e9 * math.sin(turn))
            lon_e9 = 11_516_667_000 + round(away_e9 * math.cos(1.3 * turn))
            queue.put(Fix(START_MS - 1000 * (fixes - number), lat_e9, lon_e9), "van-07")
            if number % AT_ONCE == 0:
                queue.commit()  # all together they would not fit into memory
        while deliver and (batch := queue.lease(1000)):
            queue.ack(batch)


def measure(
    filled: Path, kept: int, viewers: int | None, seconds: float
) -> tuple[Account, Account, int]:
    """Begin, end, and the number of lost fixes."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shutil.copy(filled, folder / "queue.db")
        endpoint = stack.enter_context(Endpoint("127.0.0.1:0", folder / "received.db"))
        drive = Drive(START_MS, interval_ms=1000 // RATE_HZ)
        simulator = stack.enter_context(Simulator(drive, rate_hz=RATE_HZ, link=folder / "gps"))
        port = free_port()
        text = config(folder, folder / "gps", endpoint.url) + '[sampling]\ninterval = "0s"\n'
        if viewers is not None:
            text += f'[page]\nlisten = "127.0.0.1:{port}"\n'
        with as_process(folder, text) as process:
            endpoint.wait_for(1, 60)
            ready = threading.Semaphore(0)
            for _ in range(viewers or 0):
                threading.Thread(target=look, args=(port, ready), daemon=True).start()
            for _ in range(viewers or 0):
                ready.acquire(timeout=300)
            signal.sigtimedwait(WAITING, 3)
            begin = Account.of(process)
            signal.sigtimedwait(WAITING, seconds)
            end = Account.of(process)
            simulator.hush()
            simulator.done.wait(60)
        with AckQueue(folder / "queue.db") as queue:
            counts = queue.stats()
        return begin, end, kept + simulator.sent - counts.ready - counts.unack - counts.acked


def in_browser(filled: Path) -> str:
    """The bytes of the first load and the time of the frames, as the browser reports them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shutil.copy(filled, folder / "queue.db")
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
    return (
        f"{told['wire_bytes'] / 1000:12.0f} {told['draw_ms']:9.1f} "
        f"{told['frame_ms']:10.1f} {told['worst_ms']:10.1f}"
    )


def main() -> None:
    """Read the options, measure, and print."""
    parser = argparse.ArgumentParser(description="What the device page costs.")
    parser.add_argument("--seconds", type=float, default=20)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(kept)) for kept in KEPT]
        for file, kept in zip(files, KEPT, strict=True):
            fill(file, kept)
        print(f"{'':14}" + "".join(f"{kept:>18,} positions" for kept in KEPT))
        print(f"{'':14}" + f"{'CPU, %':>12}{'RSS, MB':>10}{'lost':>6}" * len(KEPT))
        for name, viewers in CASES:
            row = f"{name:14}"
            for file, kept in zip(files, KEPT, strict=True):
                begin, end, lost = measure(file, kept, viewers, seconds)
                cpu = 100 * (end.cpu_s - begin.cpu_s) / (end.at_s - begin.at_s)
                row += f"{cpu:12.1f}{end.rss_mb:10.1f}{lost:6}"
            print(row, flush=True)
        print(f"{'':20} first load, kB  draw, ms  frame, ms  worst, ms")
        few, waiting = Path(folder, "few"), Path(folder, "waiting")
        fill(few, 500)
        fill(waiting, KEPT[0], deliver=False)
        for name, file in (
            ("500 delivered", few),
            (f"{KEPT[0]:,} on the disk", waiting),
            *((f"{kept:,} delivered", file) for file, kept in zip(files, KEPT, strict=True)),
        ):
            print(f"{name:23}{in_browser(file)}", flush=True)


if __name__ == "__main__":
    main()
