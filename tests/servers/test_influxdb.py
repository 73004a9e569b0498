"""The refusals of a real InfluxDB 1.6."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers import ask, influx_rows, influxdb
from uploading import FIX, Uploading

from telemetry_agent.clock import Clock


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with influxdb(tmp_path_factory.mktemp("influxdb")) as url:
        yield url


def create(server: str, database: str) -> None:
    ask(f"{server}/query", b"", q=f"CREATE DATABASE {database}")


def test_what_it_refuses_in_part_or_whole(server: str, tmp_path: Path) -> None:
    now_ms = Clock().wall_ms() // 1000 * 1000 - 3_600_000
    create(server, "short WITH DURATION 1d")
    with contextlib.closing(Uploading(tmp_path, f"{server}/write?db=short", "influx")) as u:
        u.put(30, fix=FIX._replace(time_ms=now_ms))
        u.put(2)  # older than its retention
        u.put(30, fix=FIX._replace(time_ms=now_ms + 60_000))
        for n in range(10):  # a refusal counts only after another fix was accepted
            u.put(1, fix=FIX._replace(time_ms=now_ms + 100_000 + 1000 * n))
            u.work()
        assert u.counts == (0, 0, 70, 2)
        assert u.reasons == {
            '400: {"error":"partial write: points beyond retention policy dropped=1"}'
        }
        assert len(influx_rows(server, "short")) == 70

        other = "gps,device=van-07 lat=1i 1764426000000"  # from a program that counts degrees
        create(server, "other")
        ask(f"{server}/write?db=other&precision=ms", other.encode())
        assert u.held_at(f"{server}/write?db=other").startswith(
            '400: {"error":"partial write: field'
        )
        assert (
            u.held_at(f"{server}/write?db=none")
            == '404: {"error":"database not found: \\"none\\""}'
        )


def test_a_backlog_beyond_the_retention_delays_no_live_fix(tmp_path: Path) -> None:
    with influxdb(tmp_path) as url:
        ask(f"{url}/query", b"", q="CREATE DATABASE gps WITH DURATION 1d")
        made = Uploading(tmp_path, f"{url}/write?db=gps", "influx")
        now_ms = time.time_ns() // 1_000_000
        made.put(2000, fix=FIX._replace(time_ms=now_ms - 3 * 86_400_000))
        made.work()
        for n in range(8):
            made.queue.put(FIX._replace(time_ms=now_ms + 1000 * n), "van-07")
            made.clock.advance(10)
            made.work()
            made.clock.advance(0.1)
            assert made.queue.stats().acked == n + 1  # within flush_every and one exchange
        assert made.counts == (0, 0, 8, 2000)
        assert made.uploader.status().failed_requests <= 80
        assert all("refused as part of a run: 400: " in reason for reason in made.reasons)
        stored = ask(f"{url}/query", db="gps", q="SELECT count(lat) FROM gps")
        assert '"values":[["1970-01-01T00:00:00Z",8]]' in stored
        made.close()
