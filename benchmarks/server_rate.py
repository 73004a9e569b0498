"""What one small server accepts from a fleet: live batches of many devices, as fast as it answers.

::

    python benchmarks/server_rate.py [--devices 2000] [--for 10] [--batch 10]

Each device sends batches of ``--batch`` fixes, one a second, compressed, in the agent's formats;
several clients send at once. Printed are requests and fixes a second, and the bytes of a fix: on
the wire (body and query, without headers and TLS), and on the disk after the server has merged. The
clients and the server share the machine, so the server alone is faster.
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from peers import ask, clickhouse, victoria_metrics
from queue_cycle import fix_at

from telemetry_agent.model import Batch, Fix, Payload, Record
from telemetry_agent.upload.formats.choice import choose
from telemetry_agent.upload.interfaces import FormatName

CLIENTS = 8
_STEP_E9 = 167  # 0.00001 minutes
COLUMNS = """(device String, stream String, seq UInt64, time DateTime('UTC'), lat Float64,
    lon Float64, alt Nullable(Float64), geoid_sep Nullable(Float64), speed Nullable(Float64),
    course Nullable(Float64), mode UInt8, quality String, hdop Nullable(Float64),
    vdop Nullable(Float64), pdop Nullable(Float64), sats Nullable(UInt16), err_h Nullable(Float64),
    err_v Nullable(Float64), odo Nullable(UInt64), flags Array(String))
    ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(time) ORDER BY (device, time, stream, seq)"""


def drive(seed: int, fixes: int) -> Iterator[Fix]:
    """One fix a second, as a receiver with 5 decimals of a minute sends it, with noise."""
    draw = random.Random(seed)
    lat_e9, lon_e9, speed_mm_s = 48_117300000 + seed * 7001, 11_516667000, 14_000
    for second in range(fixes):
        speed_mm_s = max(0, speed_mm_s + draw.randint(-700, 700))
        lat_e9 += speed_mm_s * 9 // 2 + draw.randint(-20, 20) * _STEP_E9
        lon_e9 += speed_mm_s * 11 + draw.randint(-20, 20) * _STEP_E9
        yield fix_at(second)._replace(
            lat_e9=lat_e9 // _STEP_E9 * _STEP_E9,
            lon_e9=lon_e9 // _STEP_E9 * _STEP_E9,
            alt_mm=545_000 + draw.randint(0, 60) * 100,
            speed_mm_s=speed_mm_s,
            course_mdeg=84_000 + draw.randint(0, 90) * 100,
            hdop_e2=draw.choice((80, 90, 100)),
            sats=draw.randint(7, 12),
        )


def batches(name: FormatName, devices: int, size: int) -> Iterator[tuple[Payload, int]]:
    """The requests of a fleet; the devices take turns."""
    wire_format = choose(name, "http://x/")
    drives = [drive(number, 2**31) for number in range(devices)]
    for first in itertools.count(0, size):
        for number, fixes in enumerate(drives):
            device, stream = f"van-{number:06}", f"{number:016x}"
            records = tuple(
                Record(stream, first + n, device, fix)
                for n, fix in enumerate(itertools.islice(fixes, size), 1)
            )
            batch = Batch(1, stream, device, records, live=True)
            yield wire_format.encode(batch, "gzip"), size


class Load(NamedTuple):
    """What was sent."""

    fixes: int
    took_s: float
    bytes_per_fix: float


def rate(name: FormatName, url: str, devices: int, size: int, for_s: float) -> Load:
    """Send until the time is over, or 4,000 requests are sent."""
    made = list(itertools.islice(batches(name, devices, size), max(2 * devices, 4000)))
    work = iter(made)
    parts = urlsplit(url)
    until_s = time.monotonic() + for_s

    def send() -> int:
        sent = 0
        with contextlib.closing(http.client.HTTPConnection(parts.netloc, timeout=60)) as client:
            for payload, count in work:
                query = payload.query.partition("&insert_deduplication_token")[0]  # not in 18.16
                target = f"{parts.path}?{parts.query}&{query}"
                client.request("POST", target, payload.body, dict(payload.headers))
                answer = client.getresponse()
                if answer.status >= 300:
                    raise SystemExit(f"{answer.status}: {answer.read()[:200]!r}")
                answer.read()
                sent += count
                if time.monotonic() > until_s:
                    break
        return sent

    began_s = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        fixes = sum(pool.map(lambda _: send(), range(CLIENTS)))
    took_s = time.monotonic() - began_s
    sent_bytes = sum(len(payload.body) + len(payload.query) for payload, _ in made[:devices])
    return Load(fixes, took_s, sent_bytes / (size * devices))


def stored_bytes(victoria_metrics_url: str) -> int:
    """The bytes of samples and index, as the server reports them."""
    lines = ask(f"{victoria_metrics_url}/metrics").splitlines()
    sizes = [line.split()[1] for line in lines if line.startswith("vm_data_size_bytes{")]
    return sum(map(int, sizes))


def fleet(options: argparse.Namespace, size: int) -> tuple[int, int, float]:
    """Devices, fixes in a request, and duration; a long series makes as many rows with fewer."""
    return max(20, options.devices * 10 // size), size, options.for_s


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=2000)
    parser.add_argument("--for", dest="for_s", type=float, default=10.0)
    parser.add_argument("--batch", type=int, nargs="+", default=[10, 60, 600])
    options = parser.parse_args()
    print("| server | fixes in a request | requests/s | fixes/s | bytes sent | on disk |")
    print("|---|---|---|---|---|---|")
    for server in ("VictoriaMetrics 1.79", "ClickHouse 18.16"):
        for size in options.batch:
            with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
                folder = Path(name)
                if server.startswith("V"):
                    url = stack.enter_context(victoria_metrics(folder))
                    load = rate("influx", f"{url}/write", *fleet(options, size))
                    ask(f"{url}/internal/force_flush")
                    size_bytes = stored_bytes(url)
                else:
                    url = stack.enter_context(clickhouse(folder))
                    ask(url, b"CREATE DATABASE gps")
                    ask(url, f"CREATE TABLE gps.fixes {COLUMNS}".encode())
                    target = f"{url}/?database=gps"
                    load = rate("clickhouse", target, *fleet(options, size))
                    ask(target, b"OPTIMIZE TABLE gps.fixes FINAL")
                    parts = b"SELECT sum(bytes_on_disk) FROM system.parts WHERE active"
                    size_bytes = int(ask(target, parts))
                print(
                    f"| {server} | {size} | {load.fixes / size / load.took_s:,.0f} "
                    f"| {load.fixes / load.took_s:,.0f} | {load.bytes_per_fix:.1f} "
                    f"| {size_bytes / load.fixes:.1f} |"
                )


if __name__ == "__main__":
    main()
