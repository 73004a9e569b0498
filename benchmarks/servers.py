"""How long a backlog takes to each server of the tests, and whether it reads back the same.

::

    python benchmarks/servers.py [--fixes 10000] [--rtt-ms 0] [SERVER ...]

The agent's uploader sends the same recorded drive to each server, from the queue on disk. The
servers are those of ``tests/destinations.py``: the real programs if they are installed or named by
the environment (docs/servers.md), and strict stand-ins. ``--rtt-ms``: requests and answers are each
delayed by half of it.
"""

import argparse
import contextlib
import multiprocessing
import shutil
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from destinations import DESTINATIONS, Destination, equal
from drives import recorded
from fakes import AlwaysReachable
from links import Link
from rig import record_backlog

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.upload.formats.choice import choose
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import CompressionSetting, FormatName, UploadPolicy
from telemetry_agent.upload.uploader import Uploader


def drained_s(
    database: Path, name: FormatName, url: str, compression: CompressionSetting, token: Path | None
) -> float:
    """The time that it takes."""
    with AckQueue(database) as queue:
        wire_format = choose(name, url)
        transport = Transport(url, credentials=Credentials(token=token))
        policy = UploadPolicy(live_first=not wire_format.oldest_first, compression=compression)
        uploader = Uploader(queue, wire_format, transport, policy, reachability=AlwaysReachable)
        began_s = time.monotonic()
        while (wait_s := uploader.step(time.monotonic())) == 0:
            pass
        took_s = time.monotonic() - began_s
        transport.close()
        stats = queue.stats()
        if wait_s is not None or stats.ready or stats.unack or stats.ack_failed:
            raise SystemExit(f"{name}: {stats} {uploader.status()}")
    return took_s


def row(kind: type[Destination], backlog: Path, fixes: int, rtt_s: float) -> str:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        shutil.copy(backlog / "queue.db", folder)
        (folder / "server").mkdir()
        server = kind(folder / "server")
        url = server_url = stack.enter_context(server.running())
        if rtt_s:
            parts = urlsplit(url)
            link = stack.enter_context(Link(parts.port or 0, delay_s=rtt_s / 2))
            url = parts._replace(netloc=f"127.0.0.1:{link.port}").geturl()
        upload = server.upload
        token = folder / "server" / "token" if "token_file" in upload else None
        how = (upload.get("format", "native"), url, upload.get("compression", "auto"), token)
        # In a process of its own, because some servers are threads of this one.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            took_s = pool.apply(drained_s, (folder / "queue.db", *how))
        sent = recorded(folder)
        read_back = "equal" if equal(server, sent, server.stored(server_url)) else "NOT EQUAL"
    return (
        f"| {kind.__name__} | `{how[0]}` | {took_s:.2f} s | {fixes / took_s:,.0f} | {read_back} |"
    )


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fixes", type=int, default=10_000)
    parser.add_argument("--rtt-ms", type=float, default=0)
    parser.add_argument("servers", nargs="*", choices=[[], *(k.__name__ for k in DESTINATIONS)])
    options = parser.parse_args()
    print(f"{options.fixes:,} fixes, {options.rtt_ms:g} ms there and back\n")
    print("| server | format | backlog | fixes/s | read back |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        record_backlog(Path(folder), options.fixes)
        for kind in DESTINATIONS:
            if options.servers and kind.__name__ not in options.servers:
                continue
            try:
                print(row(kind, Path(folder), options.fixes, options.rtt_ms / 1000), flush=True)
            except BaseException as error:  # pytest's way to skip is not an Exception
                if type(error).__name__ != "Skipped":
                    raise
                print(f"| {kind.__name__} | {error} |", flush=True)


if __name__ == "__main__":
    main()
