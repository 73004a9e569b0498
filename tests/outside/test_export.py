"""``export`` from a real daemon, and without one."""

import contextlib
import json
import os
import pty
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gpxpy
import pytest
from misbehaving import Server
from processes import AGENT, agent, environment, run_agent, running
from rig import record_backlog, started, write_config
from stored_fixes import HERE, STREAM, after

from telemetry_agent.ackqueue.file.rows import encode
from telemetry_agent.ackqueue.file.schema import connect
from telemetry_agent.ackqueue.file.store import Changes, Store

FIXES = 120
URL = "http://127.0.0.1:9/"
ENDLESS = str(Path(__file__).parent / "endless_export.py")


@pytest.fixture(params=[True, False], ids=["with a daemon", "without"])
def export(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """The command on a queue with a backlog of two minutes; it returns the output."""
    record_backlog(tmp_path, FIXES)
    with daemon_or_none(tmp_path, run=request.param) as config:

        def run(*args: str) -> str:
            result = run_agent("export", *args, "--config", str(config))
            assert (result.returncode, result.stderr) == (0, "")
            return result.stdout

        yield run


@contextmanager
def daemon_or_none(folder: Path, *, run: bool) -> Iterator[Path]:
    config = write_config(folder, "/dev/none", URL)
    if not run:
        yield config
        return
    with started(config):
        yield config


def test_every_format_from_the_queue(export: Callable[..., str], tmp_path: Path) -> None:
    lines = [json.loads(line) for line in export("--format", "ndjson").splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, FIXES + 1))
    assert {line["state"] for line in lines} <= {"ready", "unack"}
    assert export("--format", "csv").count("\n") == FIXES + 1  # in text mode, \r\n becomes \n
    gpx = gpxpy.parse(export("--format", "gpx"))
    assert [len(segment.points) for track in gpx.tracks for segment in track.segments] == [FIXES]
    (feature,) = json.loads(export("--format", "geojson"))["features"]
    assert len(feature["geometry"]["coordinates"]) == FIXES


def test_a_time_or_an_age_and_a_file_that_says_the_format(
    export: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "drive.ndjson"
    file.write_text("yesterday's")
    args = ("--since", "2026-11-23T12:00:10Z", "--until", "2026-11-23T13:00:12+01:00")
    assert export(*args, "--output", str(file)) == f"2 fixes are in {file}\n"
    assert [json.loads(line)["seq"] for line in file.read_text().splitlines()] == [11, 12]
    export("--since", "10s", "--output", str(file))
    assert len(file.read_text().splitlines()) == 11
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_file_is_reached_through_a_link_and_a_pipe_is_written_to(
    export: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    export("--output", str(tmp_path / "link.csv"))
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text().count("\n") == FIXES + 1
    os.mkfifo(tmp_path / "pipe.csv")
    with subprocess.Popen(["cat", tmp_path / "pipe.csv"], stdout=subprocess.PIPE) as reader:
        export("--output", str(tmp_path / "pipe.csv"))
        assert reader.communicate()[0].count(b"\n") == FIXES + 1


def test_nothing_is_an_empty_file_and_is_said(tmp_path: Path) -> None:
    record_backlog(tmp_path, 3)
    config = write_config(tmp_path, "/dev/none", URL)
    result = run_agent(
        "export", "--format", "csv", "--since", "2030-01-01T00:00:00Z", "--config", str(config)
    )
    assert result.returncode == 0
    assert result.stdout.count("\n") == 1
    assert result.stderr == "the queue has no fix of that time\n"


@pytest.mark.parametrize(
    ("args", "status", "says"),
    [
        ([], 2, "--format is needed"),
        (["--output", "track.kmz"], 2, "one of gpx, geojson, kml, csv, ndjson"),
        (["--format", "kmz"], 2, "'kmz' is not one of"),
        (["--format", "gpx", "--since", "noon"], 2, "a time such as"),
        (["--output", "none/track.gpx"], 74, "cannot write"),
        (["--format", "gpx", "--output", "/dev/full"], 74, "No space left on device"),
    ],
)
def test_what_goes_wrong_is_told(args: list[str], status: int, says: str, tmp_path: Path) -> None:
    record_backlog(tmp_path, 3)
    write_config(tmp_path, "/dev/none", URL)
    result = run_agent("export", *args, "--config", "config.toml", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (status, 1)
    assert says in result.stderr


# Long exports


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """The config of a queue whose export takes 1 s."""
    store = Store(tmp_path / "queue.db", connect)
    stream = int(STREAM, 16)
    rows = [encode(n, stream, n, "van-07", after(n, HERE)) for n in range(1, 60_001)]
    store.write(Changes(rows))
    store.close()
    return write_config(tmp_path, "/dev/none", URL)


ENDS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]


@pytest.mark.parametrize("how", ENDS)
def test_an_interrupted_export_leaves_the_file_as_it_was(how: int, long: Path) -> None:
    track = long.with_name("track.gpx")
    track.write_text("yesterday's")
    command = (sys.executable, ENDLESS, "export", "--output", str(track), "--config", str(long))
    with running(*command) as export:
        export.wait_for_line("^begun$")
        assert [path.stat().st_size > 0 for path in long.parent.glob(".track.gpx.*")] == [True]
        assert export.end(by=how) == 128 + how
        assert "Traceback" not in export.text()
    assert track.read_text() == "yesterday's"
    assert not list(long.parent.glob(".track.gpx.*"))


@pytest.mark.parametrize("how", ENDS)
def test_an_interrupted_command_leaves_no_copy_of_a_damaged_queue(how: int, long: Path) -> None:
    with long.with_name("queue.db").open("r+b") as queue:
        queue.seek(3 * 4096)
        queue.write(bytes(4096))
    copies = long.with_name("copies")
    copies.mkdir()
    command = (sys.executable, ENDLESS, "export", "--format", "csv", "--config", str(long))
    with running(*command, env={"TMPDIR": str(copies)}) as export:
        export.wait_for_line("begun$")
        assert [*copies.iterdir()]
        assert export.end(by=how) == 128 + how
    assert not [*copies.iterdir()]


def test_an_export_under_nohup_outlives_its_terminal(long: Path) -> None:
    track = long.with_name("track.gpx")
    command = ("nohup", sys.executable, ENDLESS, "export", "--output", str(track))
    with running(*command, "--config", str(long)) as export:
        export.wait_for_line("^begun$")
        export.send(signal.SIGHUP)
        assert export.end() == 128 + signal.SIGTERM


def test_a_full_disk_leaves_the_file_as_it_was(long: Path) -> None:
    track = long.with_name("track.gpx")
    track.write_text("yesterday's")
    done = subprocess.run(
        [*AGENT, "export", "--output", str(track), "--config", str(long)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )
    assert (done.returncode, done.stderr) == (
        74,
        f"telemetry-agent: cannot write {track}: File too large\n",
    )
    assert track.read_text() == "yesterday's"
    assert not list(long.parent.glob(".track.gpx.*"))


def test_a_reader_that_has_seen_enough_ends_it(long: Path) -> None:
    with subprocess.Popen(
        [*AGENT, "export", "--format", "csv", "--config", str(long)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as export:
        assert export.stdout
        assert export.stderr
        assert export.stdout.readline().startswith(b"stream,seq,")
        export.stdout.close()
        assert export.stderr.read() == b""
    assert export.returncode == 1


def test_a_terminal_sees_a_bar(long: Path) -> None:
    master, slave = pty.openpty()
    export = subprocess.Popen(
        [*AGENT, "export", "--output", str(long.with_name("t.csv")), "--config", str(long)],
        env=environment({"TERM": "xterm"}),
        stdout=subprocess.DEVNULL,
        stderr=slave,
    )
    os.close(slave)
    seen = b""
    with contextlib.suppress(OSError):  # the terminal of an ended process
        while data := os.read(master, 65536):
            seen += data
    os.close(master)
    assert export.wait(60) == 0
    assert b"exporting" in seen
    assert b"100%" in seen


def test_recording_and_delivery_go_on_meanwhile(long: Path) -> None:
    with Server() as server:
        config = write_config(long.parent, "/dev/none", server.url)
        with (
            started(config),
            agent(
                "export", "--output", str(long.with_name("track.gpx")), "--config", str(config)
            ) as export,
        ):
            server.wait_for(lambda s: len(s.ledger) == 60_000, 200)
            assert export.wait(200) == 0
    track = gpxpy.parse(long.with_name("track.gpx").read_text())
    assert track.get_points_no() == 60_000
