"""Messages are correct, as a user reads them."""

import json
import os
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from misbehaving import Server, answer
from polling import wait_until
from processes import AGENT, environment, run_agent
from rig import record_backlog, simulated, started, write_config


def test_uploads_that_were_not_tried_are_not_called_ok(tmp_path: Path) -> None:
    with Server() as server:
        config = write_config(tmp_path, "/dev/none", server.url, upload={"format": "osmand"})
        with started(config):
            told = run_agent("status", "--config", str(config)).stdout
    assert "uploading: not tried yet (127.0.0.1:" in told


def test_the_next_attempt_is_the_probe_where_that_comes_first(tmp_path: Path) -> None:
    record_backlog(tmp_path, 3)
    upload = {"backoff_initial": "1h", "backoff_max": "1h"}
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/", upload=upload)
    with started(config) as daemon:
        daemon.wait_for_line("cannot deliver")

        def comes_first() -> bool:
            status = json.loads(run_agent("status", "--json", "--config", str(config)).stdout)
            return bool(status["upload"]["next_attempt_s"] <= 60)

        wait_until(comes_first)  # the monitor, in another thread, sees the failure last


def test_a_queue_of_a_newer_version_is_not_called_damaged(tmp_path: Path) -> None:
    record_backlog(tmp_path, 3)
    with closing(sqlite3.connect(tmp_path / "queue.db")) as database:
        database.execute("PRAGMA user_version = 99")
    config = tmp_path / "config.toml"
    result = run_agent("queue", "verify", "--config", str(config))
    assert result.returncode == 1
    assert "was written by a newer telemetry-agent: install that version again" in result.stderr
    assert "replace it" not in result.stderr


def test_config_show_writes_durations_and_sizes_as_one_writes_them(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    shown = run_agent("config", "show", "--config", str(config)).stdout
    for line in (
        'upload.flush_every = "200ms"',
        'upload.timeout = "30s"',
        'sampling.heartbeat = "15min"',
        'queue.max_size = "256MiB"',
        'queue.commit_every = "100ms"',
    ):
        assert line in shown
    values = json.loads(run_agent("config", "show", "--json", "--config", str(config)).stdout)
    written = {key: row["value"] for key, row in values.items()}
    assert (written["queue.max_age"], written["queue.min_free"]) == ("0s", "64MiB")


def test_an_unknown_variable_is_reported(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    env = {"TELEMETRY_AGENT_UPLOAD_URL": "http://127.0.0.1:8/"}
    said = (
        "TELEMETRY_AGENT_UPLOAD_URL is unknown and has no effect; did you mean TELEMETRY_AGENT_UP"
    )
    for command in ("check", "show"):
        result = run_agent("config", command, "--config", str(config), env=env)
        assert result.returncode == 0
        assert said in result.stderr
    with started(config, env=env) as daemon:
        daemon.wait_for_line(f"warning: the environment variable {said}")


def test_a_name_that_many_devices_share_is_reported_and_taken(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    config.write_text(config.read_text().replace("van-07", "raspberrypi"))
    with started(config) as daemon:
        daemon.wait_for_line("warning: the device is called raspberrypi, as many others are")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a container")
@pytest.mark.parametrize(("host", "reported"), [("3f2a1bc09d77", True), ("van-07", False)])
def test_the_id_of_a_container_is_no_name_of_a_device(
    tmp_path: Path, host: str, *, reported: bool
) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    config.write_text(config.read_text().replace('device = "van-07"', ""))
    made = f"hostname {host} && mount -t tmpfs tmpfs /run && touch /run/.containerenv"
    check = [*AGENT, "config", "check", "--config", str(config)]
    result = subprocess.run(
        ["unshare", "--mount", "--uts", "sh", "-c", f'{made} && exec "$@"', "sh", *check],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    assert (f"the device is called {host}, the id of this container" in result.stderr) == reported


def test_a_byte_order_mark_is_accepted_and_an_empty_config_called_empty(tmp_path: Path) -> None:
    marked = tmp_path / "bom.toml"
    text = 'device = "van-07"\n[upload]\nurl = "http://127.0.0.1:9/"\n'
    marked.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert run_agent("config", "check", "--config", str(marked)).returncode == 0
    nothing = tmp_path / "empty.toml"
    nothing.write_bytes(b"")
    result = run_agent("config", "check", "--config", str(nothing))
    assert (result.returncode, result.stdout) == (78, "")
    remedy = f"`telemetry-agent init --config {nothing}` writes one"
    assert f"the config {nothing} is empty: {remedy}" in result.stderr


def test_a_mistyped_command_gets_the_right_one(tmp_path: Path) -> None:
    result = run_agent("statsu")
    assert result.returncode == 2
    assert "Did you mean 'status'? See " in result.stderr
    assert "Did you mean" not in run_agent("xyzzy").stderr


def test_a_fatal_line_is_an_error_for_journald(tmp_path: Path) -> None:
    nowhere = tmp_path / "none.toml"
    with (tmp_path / "log").open("w") as log:
        status = os.fstat(log.fileno())
        env = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        subprocess.run(
            [*AGENT, "run", "--config", str(nowhere)], stderr=log, env=environment(env), check=False
        )
    assert (tmp_path / "log").read_text().startswith("<3>telemetry-agent: the config ")


def test_what_flaps_is_at_most_two_lines_a_minute(tmp_path: Path) -> None:
    acts = [answer(403, b"no"), answer(200)] * 200
    with simulated(tmp_path, rate_hz=5) as simulator, Server(*acts) as server:
        config = write_config(tmp_path, str(simulator.device), server.url, log={"level": "info"})
        with started(config) as daemon:
            began_s = time.monotonic()
            server.wait_for(lambda server: len(server.requests) > 40, 120)
            daemon.wait_for_line("uploads are held")
            lines = [line for line in daemon.err if "held" in line or "delivering" in line]
            assert 1 <= len(lines) <= 2 * (1 + (time.monotonic() - began_s) // 60)
