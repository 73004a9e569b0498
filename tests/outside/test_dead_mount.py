"""A file that the config needs is on a mount that does not answer."""

import signal
import time
from pathlib import Path

import pytest
from dead_mount import dead_mount
from misbehaving import Server
from ports import free_port
from processes import AGENT, agent, run_agent, running
from rig import simulated, started, stats, write_config

IN_TIME_S = 60
"""10 s of this are for a slow answer."""


@pytest.fixture
def share(tmp_path: Path) -> Path:
    folder = tmp_path / "share"
    folder.mkdir()
    return folder


@pytest.fixture
def state(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "state"
    folder.mkdir()
    return {"STATE_DIRECTORY": str(folder)}


def on_share(config: Path, share: Path) -> Path:
    """Return a copy of the config on the mount."""
    (share / "config.toml").write_text(config.read_text())
    return share / "config.toml"


def test_the_start_uses_the_last_good_config_and_goes_on_when_the_mount_is_back(
    tmp_path: Path, share: Path, state: dict[str, str]
) -> None:
    with simulated(tmp_path, rate_hz=10) as simulator, Server() as server:
        config = on_share(write_config(tmp_path, str(simulator.device), server.url), share)
        with started(config, state) as daemon:
            assert daemon.end() == 0
        with dead_mount(share) as mount, agent("run", "--config", str(config), env=state) as daemon:
            daemon.wait_for_line(
                f"cannot read the config {config}, or config.d beside it: its file system does "
                "not answer: repair the mount .*; recording continues with the last good config$",
                IN_TIME_S,
            )
            seen = len(server.ledger)
            server.wait_for(lambda *_: len(server.ledger) > seen, 60)
            mount.end()
            daemon.wait_for_line("reloaded: ", IN_TIME_S)
            assert daemon.end() == 0


def test_a_start_without_a_last_good_config_ends_in_words(tmp_path: Path, share: Path) -> None:
    config = on_share(write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/"), share)
    with dead_mount(share):
        result = run_agent("run", "--config", str(config), timeout_s=IN_TIME_S)
    assert result.returncode == 71
    assert result.stderr.splitlines()[-1] == (  # on a slow machine, other lines come first
        f"telemetry-agent: cannot read the config {config}, or config.d beside it: its file system "
        "does not answer: repair the mount that it is on, or put the config on a disk of this "
        "device"
    )


def test_a_reload_keeps_the_config_and_a_stop_is_obeyed(tmp_path: Path, share: Path) -> None:
    with simulated(tmp_path, rate_hz=10) as simulator, Server() as server:
        config = on_share(write_config(tmp_path, str(simulator.device), server.url), share)
        with started(config) as daemon, dead_mount(share) as mount:
            daemon.send(signal.SIGHUP)
            assert mount.asked.wait(60)
            seen = len(server.ledger)
            server.wait_for(lambda *_: len(server.ledger) > seen, 60)
            daemon.wait_for_line(
                "the previous config stays in effect: cannot read the config .*: its file system "
                "does not answer",
                IN_TIME_S,
            )
            assert daemon.end() == 0


def test_a_queue_whose_mount_dies_does_not_hold_up_a_stop(tmp_path: Path, share: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    queue = {"TELEMETRY_AGENT_QUEUE__PATH": str(share / "queue.db")}
    with agent("run", "--config", str(config), env=queue) as daemon:
        daemon.wait_for_line("telemetry-agent .* records ")
        with dead_mount(share) as mount:
            assert mount.asked.wait(60)  # the agent checks whether its files are in place
            daemon.send(signal.SIGTERM)
            daemon.wait_for_line("a file system hangs: the process ends without it$")
        assert daemon.wait(60) == 0, daemon.text()


@pytest.mark.parametrize(
    "command", ["status", "queue stats", "queue list", "export --format csv", "drain", "doctor"]
)
def test_a_command_ends_in_words(command: str, tmp_path: Path, share: Path) -> None:
    config = on_share(write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/"), share)
    with dead_mount(share):
        result = run_agent(*command.split(), "--config", str(config), timeout_s=IN_TIME_S)
    assert result.returncode == (1 if command == "doctor" else 71)
    assert "its file system does not answer" in " ".join((result.stdout + result.stderr).split())


@pytest.mark.parametrize("key", ["token_file", "ca_file"])
def test_a_secret_holds_uploads_and_nothing_else(key: str, tmp_path: Path, share: Path) -> None:
    file = share / key
    file.write_text("sesame")
    with simulated(tmp_path, rate_hz=10) as simulator:
        config = write_config(
            tmp_path, str(simulator.device), "https://127.0.0.1:9/", upload={key: str(file)}
        )
        with dead_mount(share) as mount, started(config) as daemon:
            daemon.wait_for_line(
                f"uploads are held.*{file}.* file system does not answer", IN_TIME_S
            )
            assert "recording: 3d fix" in run_agent("status", "--config", str(config)).stdout
            began_s = time.monotonic()
            daemon.send(signal.SIGTERM)
            daemon.wait_for_line("stopped: ", IN_TIME_S)
            assert time.monotonic() - began_s < 60
            mount.end()  # the kernel keeps a process with a thread that waits there
            assert daemon.wait(60) == 0
    assert stats(tmp_path).ready > 0


def test_a_map_is_left_out_of_the_page(tmp_path: Path, share: Path) -> None:
    config = write_config(
        tmp_path,
        "/dev/none",
        "http://127.0.0.1:9/",
        page={"listen": f"127.0.0.1:{free_port()}", "map": str(share / "area.pmtiles")},
    )
    with dead_mount(share) as mount, started(config) as daemon:
        daemon.wait_for_line("its file system does not answer; the page shows no map", IN_TIME_S)
        daemon.wait_for_line("the page is at http://127.0.0.1:", IN_TIME_S)
        mount.end()
        assert daemon.end() == 0


def test_a_start_that_waits_for_the_queue_says_so_and_can_be_stopped(
    tmp_path: Path, share: Path
) -> None:
    queue = {"path": str(share / "queue.db")}
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/", queue=queue)
    with dead_mount(share) as mount, agent("run", "--config", str(config)) as daemon:
        daemon.wait_for_line("the start has taken 20 s so far: a disk or a mount", IN_TIME_S)
        daemon.send(signal.SIGTERM)
        daemon.wait_for_line("the process ends without it", 60)
        mount.end()
        assert daemon.wait(60) == 0


def test_a_config_from_a_slow_pipe_is_waited_for(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    command = f'exec "$@" --config <(sleep 12; cat {config})'
    with running("bash", "-c", command, "-", *AGENT, "run") as daemon:
        daemon.wait_for_line("telemetry-agent .* records ", IN_TIME_S)
        assert daemon.end() == 0
