"""A device records after its config stopped working."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from misbehaving import Server
from processes import agent, run_agent
from rig import simulated, write_config


@pytest.fixture
def state(tmp_path: Path) -> dict[str, str]:
    """The environment of a service."""
    folder = tmp_path / "state"
    folder.mkdir()
    return {"STATE_DIRECTORY": str(folder)}


def worked_once(config: Path, state: dict[str, str]) -> None:
    with agent("run", "--config", str(config), env=state) as daemon:
        daemon.wait_for_line("telemetry-agent .* records ")
        assert daemon.end() == 0
    assert copies(state) >= {"config"}


def copies(state: dict[str, str]) -> set[str]:
    return {path.name for path in Path(state["STATE_DIRECTORY"], "last-good").iterdir()}


def status(config: Path) -> str:
    """Return the output of ``status``, with a config that names the same queue."""
    return run_agent("status", "--config", str(config)).stdout


def typo(config: Path) -> None:
    config.write_text(config.read_text().replace('device = "', "device = "))


def zeros(config: Path) -> None:
    config.write_bytes(bytes(len(config.read_bytes())))


def empty(config: Path) -> None:
    config.write_text("")


def missing(config: Path) -> None:
    config.unlink()


def unreadable(config: Path) -> None:
    config.unlink()
    config.symlink_to("/proc/self/mem")


def pipe(config: Path) -> None:
    config.unlink()
    os.mkfifo(config)


def endless(config: Path) -> None:
    config.unlink()
    config.symlink_to("/dev/zero")


def later_key(config: Path) -> None:
    config.write_text(config.read_text() + '[upload2]\nurl = "http://127.0.0.1:9/"\n')


@pytest.mark.parametrize("breaks", [typo, zeros, empty, missing, unreadable, pipe, endless])
def test_it_records_and_delivers_by_the_last_good_config_and_goes_on_when_mended(
    breaks: Callable[[Path], None], tmp_path: Path, state: dict[str, str]
) -> None:
    with simulated(tmp_path, rate_hz=10) as simulator, Server() as server:
        config = write_config(tmp_path, str(simulator.device), server.url)
        text = config.read_text()
        worked_once(config, state)
        same = tmp_path / "same.toml"
        same.write_text(text)
        breaks(config)
        with agent("run", "--config", str(config), env=state) as daemon:
            daemon.wait_for_line("recording continues with the last good config$")
            seen = len(server.ledger)
            server.wait_for(lambda *_: len(server.ledger) > seen, 60)
            assert "config:    the last good config is in effect: " in status(same)
            config.unlink(missing_ok=True)
            config.write_text(text)
            daemon.wait_for_line("reloaded: ", 60)  # without a signal
            assert "last good" not in status(same)
            assert daemon.end() == 0


def test_a_config_that_was_edited_and_is_still_wrong_is_read_once(
    tmp_path: Path, state: dict[str, str]
) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    text = config.read_text()
    worked_once(config, state)
    same = tmp_path / "same.toml"
    same.write_text(text)
    override = config.parent / "config.d" / "mine.toml"
    override.parent.mkdir()
    override.write_text("[upload2]\n")
    with agent("run", "--config", str(config), env=state) as daemon:
        daemon.wait_for_line("the last good config, uploads are held")
        override.write_text("[upload3]\n")
        daemon.wait_for_line("the previous config stays in effect: .*upload3", 60)
        until_s = time.monotonic() + 4  # the agent checks each second
        while time.monotonic() < until_s:
            status(same)
        assert daemon.text().count("stays in effect") == 1
        override.write_text('device = "van-08"\n')
        daemon.wait_for_line("reloaded: .*van-08 ", 60)
        assert daemon.end() == 0


def test_a_config_that_is_wrong_holds_uploads_and_not_recording(
    tmp_path: Path, state: dict[str, str]
) -> None:
    with simulated(tmp_path, rate_hz=10) as simulator:
        config = write_config(tmp_path, str(simulator.device), "http://127.0.0.1:9/")
        worked_once(config, state)
        same = tmp_path / "same.toml"
        same.write_text(config.read_text())
        later_key(config)
        with agent("run", "--config", str(config), env=state) as daemon:
            daemon.wait_for_line("upload2 is not a key.*the last good config, uploads are held")
            until_s = time.monotonic() + 60
            while "recording: 3d fix" not in status(same):
                assert time.monotonic() < until_s
            assert "uploading: held" in status(same)
            assert daemon.end() == 0


def test_without_a_service_manager_or_a_copy_it_ends_as_ever(
    tmp_path: Path, state: dict[str, str]
) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    worked_once(config, state)
    typo(config)
    assert run_agent("run", "--config", str(config)).returncode == 78
    assert run_agent("config", "forget", env=state).stdout == "removed the last good config\n"
    assert copies(state) == set()
    assert run_agent("run", "--config", str(config), env=state).returncode == 78


def test_a_damaged_copy_gives_way_to_the_one_before(tmp_path: Path, state: dict[str, str]) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    worked_once(config, state)
    config.write_text(config.read_text().replace("van-07", "van-08"))
    worked_once(config, state)
    assert copies(state) == {"config", "config.before"}
    newest = Path(state["STATE_DIRECTORY"], "last-good", "config")
    assert newest.stat().st_mode & 0o777 == 0o600
    inode = newest.stat().st_ino
    worked_once(config, state)
    assert newest.stat().st_ino == inode  # written only after a change
    newest.write_bytes(newest.read_bytes().replace(b"van-08", b"van-09"))
    typo(config)
    with agent("run", "--config", str(config), env=state) as daemon:
        daemon.wait_for_line("records van-07")


def test_no_variable_and_no_secret_of_a_file_is_kept(tmp_path: Path, state: dict[str, str]) -> None:
    token = tmp_path / "token"
    token.write_text("sesame-1234567890")
    upload = {"token_file": str(token), "headers": {}}
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/", upload=upload)
    state |= {"TELEMETRY_AGENT_UPLOAD__HEADERS": '{"X-Key": "mellon"}'}
    worked_once(config, state)
    kept = Path(state["STATE_DIRECTORY"], "last-good", "config").read_bytes()
    assert b"sesame" not in kept
    assert b"mellon" not in kept
