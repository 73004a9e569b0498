"""Starts, stops and reloads under bad conditions."""

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import AGENT, agent, environment, running
from rig import started, write_config


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")


def test_fifty_reloads_in_a_second(config: Path) -> None:
    with started(config) as daemon:
        for _ in range(50):
            daemon.send(signal.SIGHUP)
            daemon.process.poll()
        daemon.wait_for_line("reloaded: ", 60)
        daemon.send(signal.SIGTERM)
        daemon.send(signal.SIGTERM)
        daemon.send(signal.SIGINT)
        assert daemon.wait(60) == 0
        assert "Traceback" not in daemon.text()


@pytest.mark.parametrize("after_ms", range(0, 800, 100))
def test_a_stop_at_any_moment_of_the_start(after_ms: int, config: Path) -> None:
    with agent("run", "--config", str(config)) as daemon:
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.process.wait(after_ms / 1000)
        assert daemon.end() in {0, -signal.SIGTERM}
        assert "Traceback" not in daemon.text()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("command", "status"), [("status", 0), ("doctor", 1), ("config check", 0), ("queue stats", 1)]
)
def test_standard_streams_may_be_closed(
    command: str, status: int, closed: str, config: Path
) -> None:
    argv = ["sh", "-c", f'"$@" {closed}', "sh", *AGENT, *command.split(), "--config", str(config)]
    done = subprocess.run(
        argv, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr


def test_a_start_that_fails_ends_although_nobody_reads_standard_error(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    os.write(write_end, bytes(4096))
    argv = [*AGENT, "run", "--config", str(tmp_path / "none.toml")]
    done = subprocess.run(argv, stderr=write_end, env=environment(), timeout=60, check=False)
    assert done.returncode == 78
    os.close(read_end)
    os.close(write_end)


def nul_in_the_queue(config: Path) -> None:
    config.write_text(config.read_text().replace("queue.db", r"queue\u0000.db"))


def nul_in_the_source(config: Path) -> None:
    config.write_text(config.read_text().replace("/dev/none", r"/dev/\u0000"))


def nul_in_a_file(config: Path) -> None:
    config.write_text(config.read_text().replace("[upload]", '[upload]\ntoken_file = "a\\u0000"'))


def nul_bytes(config: Path) -> None:
    config.write_bytes(config.read_bytes() + bytes(100))


def deep(config: Path) -> None:
    config.write_text("a = " + "[" * 100_000)


def long_number(config: Path) -> None:
    config.write_text("a = " + "9" * 5000)


def folder(config: Path) -> None:
    config.unlink()
    config.mkdir()


def huge(config: Path) -> None:
    with config.open("r+b") as file:
        file.truncate(100_000_000)


@pytest.mark.parametrize(
    "breaks",
    [
        *(nul_in_the_queue, nul_in_the_source, nul_in_a_file, nul_bytes),
        *(deep, long_number, folder, huge),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_in_one_line(
    breaks: Callable[[Path], None], config: Path
) -> None:
    with started(config) as daemon:
        breaks(config)
        daemon.send(signal.SIGHUP)
        daemon.wait_for_line("the previous config stays in effect: (config: |.*the config )", 60)
        assert daemon.end() == 0
        assert "Traceback" not in daemon.text()
    for command in ("run", "status", "doctor"):
        with agent(command, "--config", str(config)) as asked:
            status = asked.wait(60)
        if command == "doctor":
            assert status == 1
        elif status == 0:  # it needs only the queue's path
            assert command == "status"
        else:
            assert status == (71 if breaks in {folder, huge} else 78)
            assert len(asked.err) == 1, asked.text()
        assert "Traceback" not in asked.text()


@pytest.mark.parametrize("limit", [5, 8, 10, 12, 14, 16, 18, 20, 24])
def test_a_start_with_few_descriptors_works_or_ends_in_words(limit: int, config: Path) -> None:
    for _ in range(2):  # the second start finds the files of the first one
        command = ("prlimit", f"--nofile={limit}", *AGENT, "run", "--config", str(config))
        with running(*command) as daemon:
            daemon.wait_for_line("telemetry-agent(:| .* records) ", 60)
            failed = any(line.startswith("telemetry-agent: ") for line in daemon.err)
            if not failed:
                daemon.send(signal.SIGHUP)
                daemon.wait_for_line("reloaded: |stays in effect: |refuses file descriptors", 60)
            status = daemon.wait(60) if failed else daemon.end()
        assert status == (71 if failed else 0), daemon.text()
        assert not failed or "refuses file descriptors: raise" in daemon.err[-1], daemon.text()
        assert "Traceback" not in daemon.text()
        assert "may be lost" not in daemon.text()


def test_a_machine_without_a_name_records_and_says_so(config: Path) -> None:
    config.write_text(config.read_text().replace('device = "van-07"\n', ""))
    no_name = 'import os, socket, sys; socket.sethostname(""); os.execvp(sys.argv[1], sys.argv[1:])'
    command = ("unshare", "-u", AGENT[0], "-c", no_name, *AGENT, "run", "--config", str(config))
    with running(*command) as daemon:
        daemon.wait_for_line("the device is called localhost, as many others are", 60)
        daemon.wait_for_line("telemetry-agent .* records localhost ", 60)
        assert daemon.end() == 0


def test_a_machine_without_a_home_a_locale_and_a_clock(config: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import time\n"
        "began = time.monotonic_ns()\n"
        "time.time_ns = lambda: time.monotonic_ns() - began\n"
        "time.time = lambda: time.time_ns() / 1e9\n"
    )
    env = environment()
    path = f"{tmp_path}:{env['PYTHONPATH']}"
    bare = ("env", "-i", f"PATH={env['PATH']}", f"PYTHONPATH={path}", "LC_ALL=C")
    with running(*bare, *AGENT, "run", "--config", str(config)) as daemon:
        daemon.wait_for_line("^1970-01-01.*telemetry-agent .* records ", 60)
        began_s = time.monotonic()
        assert daemon.end() == 0
        assert time.monotonic() - began_s < 60
        assert "Traceback" not in daemon.text()
