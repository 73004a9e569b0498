"""``init``: what it shows, what it writes, what it refuses."""

import os
import pty
import stat
import subprocess
import tomllib
from pathlib import Path

from processes import AGENT, environment, run_agent
from rig import simulated

from telemetry_agent.endpoint import Endpoint
from telemetry_agent.gnss.sources.machine import find_receivers

URL = "http://127.0.0.1:9/v1/fixes"


def test_it_shows_the_fix_tries_the_endpoint_and_writes_a_config_that_is_right(
    tmp_path: Path,
) -> None:
    path = tmp_path / "etc" / "config.toml"
    with Endpoint("127.0.0.1:0", tmp_path / "r.db") as endpoint, simulated(tmp_path) as simulator:
        flags = ["--device", "van-07", "--source", str(simulator.device), "--url", endpoint.url]
        done = run_agent("init", "--config", str(path), *flags)
        assert endpoint.count() == 0
    assert done.returncode == 0, done.stderr
    assert "3D fix at " in done.stdout
    assert "11 satellites" in done.stdout
    assert "the endpoint answers, and takes the format" in done.stdout
    assert f"Next: telemetry-agent run --config {path}" in done.stdout
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    written = tomllib.loads(path.read_text())
    assert written["device"] == "van-07"
    assert written["gps"]["source"] == str(simulator.device)
    assert written["upload"]["url"] == endpoint.url
    assert run_agent("config", "check", "--config", str(path)).returncode == 0


def test_an_endpoint_that_is_away_is_said_and_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    flags = ["--device", "x", "--source", "auto", "--url", URL]
    done = run_agent("init", "--config", str(path), *flags)
    assert done.returncode == 0
    assert "the endpoint cannot be reached: connection refused by 127.0.0.1:9" in done.stdout
    assert path.exists()


def test_a_receiver_that_is_not_there_is_said_and_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    flags = ["--device", "x", "--source", "/dev/none", "--url", URL]
    done = run_agent("init", "--config", str(path), *flags)
    assert done.returncode == 0
    assert "/dev/none: no such device" in done.stdout
    assert tomllib.loads(path.read_text())["gps"] == {"source": "/dev/none"}


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("mine")
    flags = ["--config", str(path), "--device", "x", "--source", "auto", "--url", URL]
    done = run_agent("init", *flags)
    assert done.returncode == 78
    assert "is there already: --force overwrites it" in done.stderr
    assert path.read_text() == "mine"
    assert run_agent("init", "--force", *flags).returncode == 0
    assert path.read_text() != "mine"


def test_what_is_wrong_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    flags = ["--config", str(path), "--device", "x", "--source", "auto"]
    done = run_agent("init", *flags, "--url", "ftp://x")
    assert done.returncode == 78
    assert "upload.url = 'ftp://x': must be a URL" in done.stderr
    assert run_agent("init", *flags).returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_it_asks_at_most_four_questions(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("old")
    master, terminal = pty.openpty()
    # Overwrite? Name? URL? And which receiver, where the machine has any port to choose from.
    os.write(master, f"y\n{'0' if _ports() else 'van-09'}\n".encode())
    os.write(master, f"{f'van-09{chr(10)}' if _ports() else ''}{URL}\n".encode())
    done = subprocess.run(
        [*AGENT, "init", "--config", str(path)],
        stdin=terminal,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )
    os.close(master)
    os.close(terminal)
    assert done.returncode == 0, done.stdout + done.stderr
    written = tomllib.loads(path.read_text())
    assert (written["device"], written["gps"]["source"]) == ("van-09", "auto")


def _ports() -> bool:
    return bool(find_receivers())
