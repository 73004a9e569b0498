"""The page in a real Chromium, used as a person uses it."""

import json
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browsing import browsing, comes_true
from once import DRAWN
from peers import wait_until_answers
from ports import free_port
from processes import ROOT, Running, agent
from rig import START_MS, simulated, started, stats, write_config

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.lab.drive import Drive
from telemetry_agent.lab.endpoint import Endpoint
from telemetry_agent.lab.simulator import Simulator
from telemetry_agent.model import Fix
from telemetry_agent.page.event_streams import VIEWERS

TOKEN = "a-token-of-24-characters"


@pytest.fixture
def port() -> int:
    return free_port()


@contextmanager
def watched(config: Path, env: Mapping[str, str] = {}) -> Iterator[Running]:
    """Run the daemon; wait until its page is available."""
    with started(config, env) as daemon:
        daemon.wait_for_line("the page is at")
        yield daemon


def fix(number: int) -> Fix:
    return Fix(START_MS + 1000 * number, 48_117_300_000 + 9_000 * number, 11_516_667_000)


def test_the_switch_turns_the_trail_amber_and_it_turns_green_again() -> None:
    with agent("demo", "--for", "280s") as demo:  # Ctrl-C ends it
        url = demo.wait_for_line(r"Look at (http://\S+/):")[1]
        wait_until_answers(urlsplit(url).port or 80)  # it prints the URL before the page answers
        with browsing("outage", url) as browser:
            comes_true(browser)
        assert demo.end(by=signal.SIGINT) == 0
        assert "each arrived exactly once. None was lost." in demo.out[-1]


def test_dead_letters_are_retried_and_discarded(tmp_path: Path, port: int) -> None:
    with AckQueue(tmp_path / "queue.db") as queue:
        for number in range(3):
            queue.put(fix(number), "van-07")
        batch = queue.lease(3)
        assert batch
        queue.ack(batch, rejected=dict.fromkeys((1, 2, 3), "400: lat out of range"))
    with Endpoint("127.0.0.1:0", tmp_path / "received.db") as endpoint:
        config = write_config(
            tmp_path, "/dev/none", endpoint.url, page={"listen": f"127.0.0.1:{port}"}
        )
        with watched(config), browsing("letters", f"http://127.0.0.1:{port}/") as browser:
            comes_true(browser)
        assert endpoint.count() == 2
    counts = stats(tmp_path)
    assert (counts.acked, counts.ack_failed, counts.lost) == (2, 0, {"discarded": 1})


@DRAWN
def test_it_can_be_seen_by_everyone_on_everything_with_50_000_positions(
    tmp_path: Path, port: int
) -> None:
    with AckQueue(tmp_path / "queue.db", commit_every_s=60) as queue:
        for number in range(50_100):
            queue.put(fix(number), "van-07")
    config = write_config(
        tmp_path, "/dev/none", "http://127.0.0.1:9/", page={"listen": f"127.0.0.1:{port}"}
    )
    with watched(config), browsing("look", f"http://127.0.0.1:{port}/") as browser:
        comes_true(browser)
        frames = json.loads(browser.out[0])
    assert frames["quick_draw_ms"] < 100  # lower quartile: other programs delay the rest


def test_it_says_when_contact_is_lost_and_goes_on_after_a_restart(
    tmp_path: Path, port: int
) -> None:
    url = f"http://127.0.0.1:{port}/"
    with Endpoint("127.0.0.1:0", tmp_path / "received.db") as endpoint, simulated(tmp_path):
        config = write_config(
            tmp_path, str(tmp_path / "gps"), endpoint.url, page={"listen": f"127.0.0.1:{port}"}
        )
        with watched(config) as daemon, browsing("restart", url) as browser:
            browser.wait_for_line("ready", 60)
            assert daemon.end() == 0
            browser.wait_for_line("lost", 60)
            with watched(config):
                comes_true(browser)


def test_it_says_that_there_are_too_many_viewers(tmp_path: Path, port: int) -> None:
    page = {"listen": f"127.0.0.1:{port}"}
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/", page=page)
    with watched(config), ExitStack() as viewers:
        for number in range(VIEWERS):
            viewer = socket.create_connection(("127.0.0.1", port), timeout=60)
            viewers.enter_context(viewer)
            asked = f"GET /events?browser={number} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            viewer.sendall(asked.encode())
            assert viewer.recv(12) == b"HTTP/1.1 200"
        with browsing("full", f"http://127.0.0.1:{port}/") as browser:
            browser.wait_for_line("full", 60)
            viewers.close()
            comes_true(browser)


def test_it_loads_itself_again_when_the_agent_was_upgraded(tmp_path: Path, port: int) -> None:
    left_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "telemetry_agent", tmp_path / "telemetry_agent", ignore=left_out)
    (tmp_path / "telemetry_agent/_built.py").write_text('__version__ = "9.9.9"\n')
    newer = {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    page = {"listen": f"127.0.0.1:{port}"}
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/", page=page)
    with watched(config) as daemon, browsing("upgraded", f"http://127.0.0.1:{port}/") as browser:
        browser.wait_for_line("live", 60)
        assert daemon.end() == 0
        with watched(config, newer):
            comes_true(browser)


def test_the_page_is_whole_also_after_the_package_was_removed_under_a_running_agent(
    tmp_path: Path, port: int
) -> None:
    copy = tmp_path / "telemetry_agent"
    shutil.copytree(ROOT / "telemetry_agent", copy, ignore=shutil.ignore_patterns("__pycache__"))
    env = {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    page = {"listen": f"127.0.0.1:{port}"}
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/", page=page)
    with watched(config, env) as daemon:
        (copy / "page/static/words.js").unlink()
        (copy / "page/static/app.js").write_text('import "./of-another-version.js";')
        shutil.rmtree(copy / "page/static/vendor")
        with browsing("whole", f"http://127.0.0.1:{port}/") as browser:
            comes_true(browser)
        assert "Traceback" not in daemon.text()


@DRAWN
def test_small_screens_no_script_and_an_app_to_install(tmp_path: Path, port: int) -> None:
    with (
        Endpoint("127.0.0.1:0", tmp_path / "received.db") as endpoint,
        Simulator(Drive(START_MS, tunnel=True), rate_hz=5, link=tmp_path / "gps"),
    ):
        page = {"listen": f"127.0.0.1:{port}"}
        config = write_config(tmp_path, str(tmp_path / "gps"), endpoint.url, page=page)
        with watched(config), browsing("details", f"http://127.0.0.1:{port}/") as browser:
            comes_true(browser)


@DRAWN
def test_without_the_libraries_it_has_all_but_the_map_and_the_charts(
    tmp_path: Path, port: int
) -> None:
    """Like a checkout that was installed without Node."""
    left_out = shutil.ignore_patterns("vendor", "__pycache__")
    shutil.copytree(ROOT / "telemetry_agent", tmp_path / "telemetry_agent", ignore=left_out)
    checkout = {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    with Endpoint("127.0.0.1:0", tmp_path / "r.db") as endpoint, simulated(tmp_path) as receiver:
        page = {"listen": f"127.0.0.1:{port}"}
        config = write_config(tmp_path, str(receiver.device), endpoint.url, page=page)
        with watched(config, checkout), browsing("bare", f"http://127.0.0.1:{port}/") as browser:
            comes_true(browser)


def test_nobody_sees_anything_without_the_token(tmp_path: Path, port: int) -> None:
    (tmp_path / "token").write_text(TOKEN)
    page = {"listen": f"127.0.0.1:{port}", "token_file": str(tmp_path / "token")}
    with Endpoint("127.0.0.1:0", tmp_path / "received.db") as endpoint, simulated(tmp_path):
        config = write_config(tmp_path, str(tmp_path / "gps"), endpoint.url, page=page)
        url, env = f"http://127.0.0.1:{port}/", {"PAGE_TOKEN": TOKEN}
        with watched(config), browsing("login", url, env) as browser:
            comes_true(browser)
