"""The cost of the page in a browser: transferred bytes, processor time, connections."""

import json
import re
from pathlib import Path

import pytest
from browsing import browsing, comes_true
from once import DRAWN, mostly_once
from ports import free_port
from rig import START_MS, simulated, started, write_config

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.lab.endpoint import Endpoint
from telemetry_agent.model import Fix

FIRST_LOAD_BYTES = 150_000
BUSY_PERCENT = 10
LARGEST_RSS_KB = 60_000


def fill(folder: Path, fixes: int, *, deliver: bool) -> None:
    with AckQueue(folder / "queue.db", commit_every_s=60) as queue:
        for number in range(fixes):
            lat_e9 = 48_117_300_000 + 9_000 * number + 70 * (number * number % 997)
            lon_e9 = 11_516_667_000 + 4_000 * number + 90 * (number * number % 991)
            queue.put(Fix(START_MS - 1000 * (fixes - number), lat_e9, lon_e9), "van-07")
        while deliver and (batch := queue.lease(1000)):
            queue.ack(batch)


@pytest.mark.parametrize(
    "state", mostly_once(["50,000 kept", "delivering", "outage", "no receiver"], 1, DRAWN)
)
def test_the_main_thread_is_idle_and_the_first_load_is_light(tmp_path: Path, state: str) -> None:
    port = free_port()
    fill(tmp_path, 50_000 if state == "50,000 kept" else 300, deliver=state != "outage")
    with (
        Endpoint("127.0.0.1:0", tmp_path / "received.db") as endpoint,
        simulated(tmp_path, rate_hz=1),
    ):
        source = "/dev/none" if state == "no receiver" else str(tmp_path / "gps")
        url = "http://127.0.0.1:9/" if state == "outage" else endpoint.url
        config = write_config(tmp_path, source, url, page={"listen": f"127.0.0.1:{port}"})
        with started(config) as daemon:
            daemon.wait_for_line("the page is at")
            env = {"PAGE_SIZE": "300", "BUSY_PERCENT": str(BUSY_PERCENT)}
            with browsing("busy", f"http://127.0.0.1:{port}/", env) as browser:
                comes_true(browser)
            status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    rss = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert rss
    assert int(rss[1]) <= LARGEST_RSS_KB
    weight, *parts = map(json.loads, browser.out[:-1])
    assert weight["wire_bytes"] <= FIRST_LOAD_BYTES
    assert max(part["busy"] for part in parts) <= BUSY_PERCENT


@DRAWN
def test_ten_tabs_of_one_browser_work_and_hidden_ones_have_no_stream(tmp_path: Path) -> None:
    port = free_port()
    with (
        Endpoint("127.0.0.1:0", tmp_path / "received.db") as endpoint,
        simulated(tmp_path, rate_hz=2),
    ):
        page = {"listen": f"127.0.0.1:{port}"}
        config = write_config(tmp_path, str(tmp_path / "gps"), endpoint.url, page=page)
        with started(config) as daemon:
            daemon.wait_for_line("the page is at")
            with browsing("tabs", f"http://127.0.0.1:{port}/") as browser:
                comes_true(browser)
