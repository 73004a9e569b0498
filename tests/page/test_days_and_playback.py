"""Days, trips, ranges, playback and a long track in a real browser."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from browsing import browsing, comes_true
from once import DRAWN
from ports import free_port
from processes import Running
from rig import START_MS, started, write_config

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.model import Fix

pytestmark = DRAWN

_M_E9 = 8_983  # a metre of latitude in 1e-9 degrees


def drive(queue: AckQueue) -> None:
    """Record two trips with parking between them, a stop in the second, and a glitch at 0, 0."""
    north_m, second = 0.0, 0

    def go(seconds: int, m_s: float) -> None:
        nonlocal north_m, second
        for _ in range(seconds):
            north_m += m_s
            second += 1
            lat_e9 = 48_000_000_000 + round(north_m * _M_E9)
            lon_e9 = 11_000_000_000 + round(500 * _M_E9 * math.sin(north_m / 700))
            fix = Fix(START_MS + 1000 * second, lat_e9, lon_e9, alt_mm=520_000, sats=9, hdop_e2=90)
            fix = fix._replace(speed_mm_s=round(m_s * 1000), course_mdeg=0, odo_m=round(north_m))
            queue.put(fix, "van-07")

    go(600, 12.0)
    go(400, 0.0)
    queue.put(Fix(START_MS + 1000 * second + 500, 0, 0, flags=("jump",)), "van-07")
    go(300, 15.0)
    go(100, 0.0)
    go(200, 15.0)
    go(300, 0.0)
    queue.commit()


def long_track(queue: AckQueue) -> None:
    """Record more positions than the page gets before the agent has read all of them."""
    for number in range(30_000):
        fix = Fix(START_MS + 1000 * number, 48_000_000_000 + 9_000 * number, 11_000_000_000)
        queue.put(fix, "van-07")


@contextmanager
def story(
    folder: Path, name: str, fill: Callable[[AckQueue], None]
) -> Iterator[tuple[Running, Running, Path]]:
    """Open the page of a filled queue in a browser that runs a story: agent, browser, config."""
    port = free_port()
    with AckQueue(folder / "queue.db", commit_every_s=60) as queue:
        fill(queue)
    page = {"listen": f"127.0.0.1:{port}"}
    config = write_config(folder, "/dev/none", "http://127.0.0.1:9/", page=page)
    with started(config) as daemon:
        daemon.wait_for_line("the page is at")
        with browsing(name, f"http://127.0.0.1:{port}/") as browser:
            yield daemon, browser, config


def test_a_long_track_is_shown_whole_when_it_has_been_read(tmp_path: Path) -> None:
    with story(tmp_path, "long", long_track) as (_, browser, _):
        comes_true(browser)


def test_what_could_not_be_loaded_is_loaded_later(tmp_path: Path) -> None:
    with story(tmp_path, "loading", drive) as (_, browser, _):
        comes_true(browser)


def test_a_trip_that_was_chosen_stays_when_the_agent_is_restarted(tmp_path: Path) -> None:
    with story(tmp_path, "chosen", drive) as (daemon, browser, config):
        browser.wait_for_line("chosen", 60)
        assert daemon.end() == 0
        browser.wait_for_line("lost", 60)
        with started(config):
            comes_true(browser)


def test_days_trips_ranges_and_playback(tmp_path: Path) -> None:
    with story(tmp_path, "time", drive) as (_, browser, _):
        comes_true(browser)
