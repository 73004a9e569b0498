"""Odd queues in odd browsers: everything on the page makes sense and is plain text."""

from collections.abc import Callable
from pathlib import Path

import pytest
from browsing import browsing, comes_true
from once import DRAWN
from ports import free_port
from rig import START_MS, started, write_config

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.model import Fix

pytestmark = DRAWN

POLE_E9, TURN_E9 = 90_000_000_000, 360_000_000_000
LONG = "/dev/serial/by-id/usb-Silicon_Labs_CP2102_USB_to_UART_Bridge_Controller_0001-if00-port0"
HTML = "<img src=x onerror='alert(1)'><b>400</b> & "


def empty(_queue: AckQueue) -> None:
    """A queue without records."""


def one(queue: AckQueue) -> None:
    """One fix that has only a time and a position."""
    queue.put(Fix(START_MS, 48_117_300_000, 11_516_667_000), "van-07")


def far(queue: AckQueue) -> None:
    """Fixes across the antimeridian and at both poles, 10 per second, and 20 years back in time."""
    for number in range(400):
        lon_e9 = (179_990_000_000 + 100_000 * number + TURN_E9 // 2) % TURN_E9 - TURN_E9 // 2
        queue.put(Fix(START_MS + 100 * number, -17_000_000_000, lon_e9), "van-07")
    for number, lat_e9 in enumerate((POLE_E9, POLE_E9 - 1000, -POLE_E9, 0)):
        queue.put(Fix(START_MS + 60_000 + 100 * number, lat_e9, -TURN_E9 // 2), "van-07")
    queue.put(Fix(START_MS - 20 * 365 * 86_400_000, -17_000_000_000, TURN_E9 // 2), "van-07")


def refused(queue: AckQueue) -> None:
    """Refused fixes; the reasons are long HTML texts."""
    for number in range(300):
        queue.put(Fix(START_MS + 1000 * number, 48_117_300_000, 11_516_667_000), "van-07")
    batch = queue.lease(300)
    assert batch
    reasons = {record.seq: f"{HTML}{record.seq} " * 200 for record in batch.records}
    queue.ack(batch, rejected=reasons)


@pytest.mark.parametrize("fill", [empty, one, far, refused])
def test_an_odd_queue_makes_sense_in_every_browser(
    fill: Callable[[AckQueue], None], tmp_path: Path
) -> None:
    with AckQueue(tmp_path / "queue.db", commit_every_s=60) as queue:
        fill(queue)
    port = free_port()
    page = {"listen": f"127.0.0.1:{port}"}
    config = write_config(tmp_path, LONG, "http://127.0.0.1:9/", page=page)
    with started(config) as daemon:
        daemon.wait_for_line("the page is at")
        with browsing("odd", f"http://127.0.0.1:{port}/") as browser:
            comes_true(browser)
        assert "Traceback" not in daemon.text()
