"""The commands: exit statuses and messages, as a user sees them."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from nmea import gga, rmc
from processes import AGENT, agent, environment, run_agent, running
from rig import record_backlog, write_config

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.cli.group import cli

COMMANDS = [
    "run",
    "doctor",
    "status",
    "queue",
    "drain",
    "export",
    "tap",
    "config",
    "demo",
    "decode",
    "receive",
    "simulate",
]


def test_help_names_every_command() -> None:
    result = run_agent("--help")
    assert result.returncode == 0
    for command in COMMANDS:
        assert f"\n  {command} " in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str) -> None:
    result = run_agent(command, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: telemetry-agent {command}")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(commands(cli)), ids=" ".join)
def test_help_cuts_no_sentence_and_names_what_a_value_is(path: tuple[str, ...]) -> None:
    said = CliRunner().invoke(cli, [*path, "--help"], terminal_width=80).output
    assert "..." not in said.replace("[ARGS]...", "")
    for python in ("INTEGER", "FLOAT", "TEXT ", "%Y"):
        assert python not in said.replace("--reason TEXT ", "")


def test_the_version() -> None:
    assert run_agent("--version").stdout.startswith("telemetry-agent, version ")


@pytest.mark.parametrize(
    ("args", "status", "says"),
    [
        (["confg"], 2, "telemetry-agent: No such command 'confg'"),
        (["run", "--nope"], 2, "telemetry-agent: No such option"),
        (
            ["run", "--config", "nope.toml"],
            78,
            "telemetry-agent: the config nope.toml does not exist: `telemetry-agent init",
        ),
        (["queue", "stats", "--config", "nope.toml"], 78, "the config nope.toml does not exist"),
        (["decode", "nope.nmea"], 74, "nope.nmea"),
        (["demo", "--for", "soon"], 2, "must be a duration such as"),
        (["receive", "--listen", "nonsense", "--db", "x.db"], 2, "--listen nonsense"),
    ],
)
def test_faults_are_one_line(args: list[str], status: int, says: str, tmp_path: Path) -> None:
    result = run_agent(*args, cwd=tmp_path)
    assert result.returncode == status
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_recording_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        result = run_agent("simulate", "--replay", "s", cwd=tmp_path)
    assert result.returncode == 74
    assert result.stderr == "telemetry-agent: cannot open s: No such device or address\n"


def test_a_wrong_config_starts_nothing(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/", upload={"timout": 3})
    result = run_agent("run", "--config", str(config))
    assert result.returncode == 78
    assert result.stderr == (
        "telemetry-agent: config: upload.timout is not a key of the config; "
        f"did you mean upload.timeout? [{config}]\n"
    )
    assert not (tmp_path / "queue.db").exists()


def test_too_few_file_descriptors_are_said_in_one_line(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    argv = ["prlimit", "--nofile=15", *AGENT, "run", "--config", str(config)]
    done = subprocess.run(
        argv, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 71
    said = "telemetry-agent: the system refuses file descriptors: "
    assert done.stderr.splitlines()[-1].startswith(f"{said}raise the limit (LimitNOFILE= of")
    assert "Traceback" not in done.stderr


def test_a_config_that_cannot_be_read_ends_with_71(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.symlink_to("/proc/self/mem")  # the first page is not mapped
    result = run_agent("run", "--config", str(config))
    assert result.returncode == 71
    assert result.stderr == (
        f"telemetry-agent: cannot read the config {config}: Input/output error: "
        "the disk may be broken: `sudo dmesg` shows errors\n"
    )


def test_a_queue_that_cannot_be_made_ends_with_74(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    config = write_config(
        tmp_path, "/dev/none", "http://127.0.0.1:9/", queue={"path": f"{tmp_path}/file/queue.db"}
    )
    result = run_agent("run", "--config", str(config))
    assert result.returncode == 74
    assert result.stderr.count("\n") == 1
    assert f"{tmp_path}/file" in result.stderr


def test_queue_stats(tmp_path: Path) -> None:
    record_backlog(tmp_path, 3)
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    result = run_agent("queue", "stats", "--config", str(config), "--json")
    counts = json.loads(result.stdout)
    states = {name: counts[name] for name in ("ready", "unack", "acked", "ack_failed")}
    assert states["ready"] + states["unack"] == 3
    assert states["acked"] == states["ack_failed"] == 0
    text = run_agent("queue", "stats", "--config", str(config))
    assert text.returncode == 0
    assert "ready" in text.stdout


def test_a_queue_that_another_program_holds_is_left_alone(tmp_path: Path) -> None:
    record_backlog(tmp_path, 1)
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with AckQueue(tmp_path / "queue.db"):
        result = run_agent("queue", "stats", "--config", str(config))
    assert result.returncode == 75
    assert f"pid {os.getpid()}" in result.stderr


def test_queue_stats_before_anything_was_recorded(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    result = run_agent("queue", "stats", "--config", str(config))
    assert result.returncode == 1
    assert "queue.db does not exist" in result.stderr
    assert not (tmp_path / "queue.db").exists()


def test_a_queue_that_is_not_in_this_folder_is_named_with_its_full_path(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/", queue={"path": "queue.db"})
    (elsewhere := tmp_path / "elsewhere").mkdir()
    asked = ("--config", str(config))
    said = f"the queue {elsewhere}/queue.db does not exist: nothing was recorded yet"
    assert said in run_agent("queue", "stats", *asked, cwd=elsewhere).stderr
    assert said in run_agent("status", *asked, cwd=elsewhere).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_read_only_disk_is_no_matter_of_ownership(tmp_path: Path) -> None:
    record_backlog(tmp_path, 1)
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", script, str(tmp_path), *AGENT, "queue", "retry"]
    done = subprocess.run(
        [*argv, "--all", "--config", str(config)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if "mount" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 74
    assert f"the file system of {tmp_path / 'queue.db'} is read-only: `sudo tele" in done.stderr


def test_a_queue_that_the_disk_does_not_show_is_not_called_missing(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    (tmp_path / "queue.db").symlink_to("queue.db")
    result = run_agent("queue", "stats", "--config", str(config))
    assert result.returncode == 74
    assert "cannot open the queue" in result.stderr
    assert "Too many levels of symbolic links" in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("export", "--format", "csv", "--config", "config.toml", "--output"),
        ("receive", "--db"),
        ("receive", "--audit", "--db"),
        ("simulate", "--replay"),
        ("init", "--url", "http://127.0.0.1:9/", "--source", "auto", "--config"),
    ],
)
def test_a_file_that_cannot_be_looked_at_is_named(args: tuple[str, ...], tmp_path: Path) -> None:
    write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    name = 300 * "a"
    result = run_agent(*args, name, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (74, "")
    assert result.stderr.startswith("telemetry-agent: cannot open ")
    assert name in result.stderr
    assert result.stderr.endswith(": File name too long\n")


def test_config_show_and_schema(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    shown = json.loads(run_agent("config", "show", "--json", "--config", str(config)).stdout)
    assert shown["upload.timeout"] == {"value": "30s", "from": str(config)}
    assert shown["upload.max_batch"] == {"value": 1000, "from": "default"}
    schema = json.loads(run_agent("config", "schema").stdout)
    assert "upload" in schema["properties"]


def test_the_demo_delivers_everything_through_a_cut() -> None:
    result = run_agent("demo", "--for", "6s", "--no-page")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "36 positions were sent, and each arrived exactly once. None was lost." in result.stdout
    assert "no network" in result.stdout
    assert "http" not in result.stdout
    assert result.stderr == ""


def test_a_demo_without_the_browsers_libraries_says_how_to_get_them() -> None:
    code = (
        "from pathlib import Path; from telemetry_agent.page import libraries;"
        "libraries._BROWSER = (Path('/nowhere'),);"
        "from telemetry_agent.cli import main; main(['demo', '--for', '1s'])"
    )
    with running(sys.executable, "-c", code) as demo:
        assert demo.wait(60) == 0, demo.text()
    assert re.match(r"Look at http://", demo.out[1])
    assert any("Install Node 20 with npm" in line for line in demo.out)
    assert "each arrived exactly once" in demo.out[-1]


def test_ctrl_c_ends_the_demo_with_its_summary() -> None:
    with agent("demo", "--no-page") as demo:
        demo.wait_for_line("  2 s ")
        assert demo.end(by=signal.SIGINT) == 0
        assert "each arrived exactly once" in demo.out[-1]


def test_a_second_ctrl_c_does_not_wait_for_the_endpoint() -> None:
    with agent("demo", "--no-page", "--for", "9s") as demo:  # network cut after 3 s
        demo.wait_for_line("no network")
        demo.send(signal.SIGINT)
        demo.wait_for_line("Ending after the backlog is delivered")
        assert demo.end(by=signal.SIGINT) in {0, 1}
        assert demo.out[-1].endswith(("still wait on the disk, none is lost.", "None was lost."))
        assert demo.err == []


def test_a_closed_pipe_ends_quietly() -> None:
    with running(
        "sh", "-c", f"{sys.executable} -m telemetry_agent config schema | head -1"
    ) as shell:
        assert shell.wait() == 0
        assert shell.err == []


@pytest.mark.parametrize("args", [["config", "schema"], ["decode"], ["--help"]])
def test_an_output_that_cannot_be_written_is_told(args: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*AGENT, *args],
            input=(gga("123519") + rmc("123519")).decode(),
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        74,
        "telemetry-agent: cannot write the output: No space left on device\n",
    )


@pytest.mark.parametrize(
    "args",
    [
        ["tap", "--config", "config.toml"],
        ["doctor", "--config", "config.toml"],
        ["drain", "--config", "config.toml"],
        ["export", "--format", "gpx", "--config", "config.toml"],
        ["init", "--url", "http://127.0.0.1:9/", "--source", "file:///dev/null"],
        ["queue", "discard", "--all", "--config", "config.toml"],
        ["decode", "--stats", "drive.nmea"],
        ["nope"],
    ],
)
def test_a_closed_or_full_stream_changes_neither_the_status_nor_the_words(
    args: list[str], tmp_path: Path
) -> None:
    (tmp_path / "drive.nmea").write_bytes(gga("123519") + rmc("123519"))
    write_config(tmp_path, "file:///dev/null", "http://127.0.0.1:9/")
    if args[0] == "init":
        args = [*args, "--config", "new.toml", "--force"]

    def ends(how: str) -> tuple[int, str]:
        shell = ["sh", "-c", f'"$@" {how}', "sh", *AGENT, *args]
        done = subprocess.run(
            shell, capture_output=True, text=True, env=environment(), cwd=tmp_path, check=False
        )
        return done.returncode, done.stderr

    opened = ends("> out <&-")
    assert "Traceback" not in opened[1]
    assert ends(">&- <&-") == opened
    assert ends("> out <&- 2>&-") == (opened[0], "")
    assert ends("> out <&- 2>/dev/full") == (opened[0], "")


def test_a_file_name_that_is_not_text_or_not_of_the_locale_is_one_line(tmp_path: Path) -> None:
    out = os.fsencode(tmp_path) + b"/\xff.gpx"
    record_backlog(tmp_path, 1)
    config = write_config(tmp_path, "file:///dev/null", "http://127.0.0.1:9/")
    argv = [*AGENT, "export", "--config", str(config), "--output"]
    done = subprocess.run([*argv, out], env=environment(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    config.write_text(config.read_text().replace("queue.db", "Fahrt für morgen.db"))
    for args in (["status"], ["export", "--format", "csv"], ["queue", "verify"], ["run"]):
        result = run_agent(*args, "--config", str(config), env=plain)
        assert result.returncode == 1
        assert "set LC_ALL=C.UTF-8" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_command_in_a_remedy_can_be_typed_whatever_the_path(tmp_path: Path) -> None:
    folder = tmp_path / "my van; rm -rf"
    (folder / "queue.db.lock").mkdir(parents=True)

    def advised(text: str) -> list[str]:
        return [word for command in re.findall("`([^`]+)`", text) for word in shlex.split(command)]

    result = run_agent("run", "--config", str(folder / "config.toml"))
    assert str(folder / "config.toml") in advised(result.stderr)
    config = write_config(folder, str(folder / "no gps"), "http://127.0.0.1:9/")
    found = json.loads(run_agent("doctor", "--json", "--config", str(config)).stdout)["checks"]
    remedies = {check["name"]: check["remedy"] for check in found}
    assert advised(remedies["state directory"])[-1] == str(folder / "queue.db.lock")
    # The service was never installed.
    assert advised(remedies["agent"])[-2:] == ["--config", str(config)]
    options = ("--url", "http://127.0.0.1:9/", "--source", "file:///dev/null", "--force")
    said = run_agent("init", "--config", str(config), *options).stdout
    assert shlex.split(said.splitlines()[-1])[-1] == str(config)
