"""``status`` is fast, also on a small board: from the config it reads only the queue's path."""

import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment, run_agent
from rig import simulated, started, write_config

from telemetry_agent.cli.status import lines
from telemetry_agent.config import loader
from telemetry_agent.config.files import queue_path
from telemetry_agent.lab.endpoint import Endpoint
from telemetry_agent.snapshot import ReceiverView, Snapshot

SLOW = {"pydantic", "pydantic_settings", "rich", "httpx", "tenacity", "pynmea2", "serial"}
RUN = """
import sys
from telemetry_agent.cli import main
try:
    main(["status", "--config", sys.argv[1]])
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def test_it_imports_nothing_that_takes_its_time(tmp_path: Path) -> None:
    with Endpoint("127.0.0.1:0", tmp_path / "r.db") as endpoint, simulated(tmp_path) as receiver:
        config = write_config(tmp_path, str(receiver.device), endpoint.url)
        with started(config):
            done = subprocess.run(
                [sys.executable, "-c", RUN, str(config)],
                env=environment(),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
    assert done.returncode == 0, done.stderr
    assert "recording: " in done.stdout
    assert not SLOW & set(done.stderr.split())


@pytest.mark.parametrize("wrong", ["", "timout = 3\n"])
def test_it_finds_the_queue_where_the_config_says(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path, "auto", "http://127.0.0.1:9/")
    (tmp_path / "config.d").mkdir()
    (tmp_path / "config.d/site.toml").write_text('[queue]\npath = "/elsewhere/queue.db"\n')
    elsewhere = Path("/elsewhere/queue.db")
    assert queue_path(config) == loader.load(config).settings.queue.path == elsewhere
    # A wrong key does not stop the search for the path.
    config.write_text(config.read_text() + wrong)
    assert queue_path(config) == elsewhere
    monkeypatch.setenv("TELEMETRY_AGENT_QUEUE__PATH", "/env/queue.db")
    assert queue_path(config) == Path("/env/queue.db")


def test_a_config_that_is_not_there_or_no_toml_is_said(tmp_path: Path) -> None:
    done = run_agent("status", "--config", str(tmp_path / "none.toml"))
    assert done.returncode == 78
    assert "does not exist" in done.stderr
    (tmp_path / "c.toml").write_text("nonsense")
    done = run_agent("status", "--config", str(tmp_path / "c.toml"))
    assert done.returncode == 78
    assert "not valid TOML" in done.stderr


def test_another_version_that_runs_is_told_with_the_remedy() -> None:
    said = list(lines(Snapshot(version="0.0.1", device="van-07")))
    assert any("restart the service to run " in line for line in said)


def test_a_receiver_that_was_just_opened_is_not_called_absent() -> None:
    said = list(lines(Snapshot(device="van-07", receiver=ReceiverView("/dev/ttyACM0", state_s=4))))
    assert "recording: no sentence yet for 4.0 s (/dev/ttyACM0)" in said
