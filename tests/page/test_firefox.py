"""The page in Firefox: ``make firefox``. Not in CI, which uses Chromium."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from browsing import PICTURES
from processes import ROOT, agent, running

FIREFOX = os.environ.get("TELEMETRY_AGENT_FIREFOX", "")


@pytest.mark.skipif(not FIREFOX, reason="only by command: make firefox")
def test_the_network_goes_and_comes_back(tmp_path: Path) -> None:
    node = shutil.which("node") or "node"
    story = (node, "--experimental-websocket", str(ROOT / "tests/page/firefox.mjs"))
    picture = [f"{PICTURES}/page-firefox.png"] if PICTURES else []
    with agent("demo", "--for", "150s") as demo:
        url = demo.wait_for_line(r"Look at (http://\S+/):")[1]
        with running(*story, FIREFOX, str(tmp_path), url, *picture) as browser:
            assert browser.wait(140) == 0, browser.text()
        assert demo.end(by=signal.SIGINT) == 0
