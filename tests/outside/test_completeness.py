"""What the endpoint can prove, with real processes: the agent, the endpoint and its audit."""

import contextlib
import json
import re
import signal
import sqlite3
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from ackqueue import damage
from drives import recorded
from polling import wait_until
from processes import Running, agent, run_agent
from rig import START_MS, simulated, started, write_config

from telemetry_agent.fields import rfc3339
from telemetry_agent.lab.drive import Drive

FIXES = 60
LAST = rfc3339(START_MS + 1000 * (FIXES - 1))
TRIES = 200  # each runs a command


@contextlib.contextmanager
def receiving(db: Path, *options: str) -> Iterator[str]:
    """Run an endpoint and yield its URL."""
    with agent("receive", "--listen", "127.0.0.1:0", "--db", str(db), *options) as endpoint:
        yield endpoint.wait_for_line("http://.*")[0].strip()


@contextlib.contextmanager
def driven(folder: Path, url: str, **upload: object) -> Iterator[Running]:
    """An agent that has recorded ``FIXES`` fixes, and reports each second."""
    recording = folder / "drive.nmea"
    drive = Drive(START_MS)
    recording.write_bytes(b"".join(drive.epoch(i) for i in range(FIXES)))
    sampling = {"interval": "0s", "heartbeat": "1s"}
    config = write_config(folder, f"file://{recording}", url, upload=upload, sampling=sampling)
    with started(config) as running:
        running.wait_for_line(f"replayed {FIXES:,} fixes")
        yield running
        assert running.end() == 0


def audit(db: Path) -> tuple[int, str]:
    """Return the exit status and output of the audit."""
    done = run_agent("receive", "--audit", "--db", str(db))
    return done.returncode, done.stdout


def wait_until_complete(db: Path, until: str = LAST) -> str:
    for _ in range(TRIES):
        code, said = audit(db)
        if code == 0 and f"complete until {until}" in said:
            as_json = run_agent("receive", "--audit", "--json", "--db", str(db))
            assert until in {device["complete_until"] for device in json.loads(as_json.stdout)}
            return said
    raise AssertionError(f"not complete: {said}")


def take_away(db: Path, first: int, last: int) -> str:
    """Delete these seqs at the endpoint; return their stream."""
    with contextlib.closing(sqlite3.connect(db, timeout=60)) as file, file:
        file.execute("DELETE FROM fixes WHERE seq BETWEEN ? AND ?", (first, last))
        return str(file.execute("SELECT DISTINCT stream FROM fixes").fetchone()[0])


def test_the_audit_names_what_was_deleted_and_a_resend_closes_it(tmp_path: Path) -> None:
    db = tmp_path / "received.db"
    with receiving(db) as url, driven(tmp_path, url):
        assert wait_until_complete(db).splitlines() == [f"van-07: complete until {LAST}"]
        config = ("--config", str(tmp_path / "config.toml"))
        complete = f"complete:  at the endpoint until {LAST}"  # once the agent has the answer
        wait_until(lambda: complete in run_agent("status", *config).stdout)
        stream = take_away(db, 11, 20)
        code, said = audit(db)
        assert code == 1
        assert said.splitlines() == [
            f"van-07: not complete; complete until {rfc3339(START_MS + 9000)}",
            f"  stream {stream}: 10 of {FIXES} fixes are missing, in seq 11 to 20",
        ]
        names = ("--stream", stream, "--from", "11", "--to", "20")
        done = run_agent("queue", "resend", *names, *config)
        assert done.stdout == "10 fixes are sent again\n"
        wait_until_complete(db)
        with contextlib.closing(sqlite3.connect(db, timeout=60)) as file:
            assert file.execute("SELECT count(*) FROM fixes").fetchone() == (FIXES,)


def test_an_endpoint_may_ask_for_what_it_misses(tmp_path: Path) -> None:
    db = tmp_path / "received.db"
    with receiving(db, "--ask-again") as url, driven(tmp_path, url) as running:
        wait_until_complete(db)
        take_away(db, 31, 33)
        running.wait_for_line("the endpoint asked for fixes again: 3 are sent once more")
        wait_until_complete(db)


def test_an_endpoint_may_not_ask_where_the_config_forbids_it(tmp_path: Path) -> None:
    db = tmp_path / "received.db"
    with receiving(db, "--ask-again") as url, driven(tmp_path, url, allow_resend=False) as running:
        wait_until_complete(db)
        take_away(db, 31, 33)
        heard: set[str] = set()
        while len(heard) < 3:  # each of these answers asks for the fixes
            heard.add(report(url))
    assert "asked for fixes again" not in running.text()
    assert audit(db)[0] == 1


def has(db: Path, count: int) -> bool:
    return len(received(db)) >= count


def test_after_kills_the_endpoint_finds_everything_that_was_recorded(tmp_path: Path) -> None:
    db, sampling = tmp_path / "received.db", {"interval": "0s", "heartbeat": "1s"}
    with receiving(db) as url:
        with simulated(tmp_path, rate_hz=10) as simulator:
            config = write_config(tmp_path, str(simulator.device), url, sampling=sampling)
            for life in range(1, 6):
                with started(config) as running:
                    wait_until(partial(has, db, 20 * life))
                    running.end(by=signal.SIGKILL)
        config = write_config(tmp_path, "/dev/none", url, sampling=sampling)
        with started(config) as running:
            fixes = recorded(tmp_path)
            said = wait_until_complete(db, fixes[-1]["time"])
            assert running.end() == 0
    assert said.splitlines() == [f"van-07: complete until {fixes[-1]['time']}"]
    assert received(db) == {(fix["stream"], fix["seq"]) for fix in fixes}


def received(db: Path) -> set[tuple[str, int]]:
    with contextlib.closing(sqlite3.connect(db, timeout=60)) as file:
        return set(file.execute("SELECT stream, seq FROM fixes").fetchall())


def report(url: str) -> str:
    """Return the time of the agent's last report."""
    with urllib.request.urlopen(url.replace("/v1/fixes", "/v1/agents")) as answer:
        return str(json.load(answer)[0]["heard"])


@pytest.mark.parametrize("seed", [3, 11])
def test_what_damage_took_is_named_by_the_endpoint(tmp_path: Path, seed: int) -> None:
    """Recorded offline, damaged on disk, delivered: the audit misses only what the damage took."""
    path, db = tmp_path / "queue.db", tmp_path / "received.db"
    records = damage.fill(path, 400)
    damage.damage(path, damage.five_pages, seed)
    sampling = {"interval": "0s", "heartbeat": "1s"}
    with receiving(db) as url:
        config = write_config(tmp_path, "/dev/none", url, sampling=sampling)
        with started(config) as running:
            last = rfc3339(records[-1].fix.time_ms)
            said = wait_until_complete(db, last)
            assert running.end() == 0
    with contextlib.closing(sqlite3.connect(db, timeout=60)) as file:
        there = {seq for (seq,) in file.execute("SELECT seq FROM fixes")}
    missing = {record.seq for record in records} - there
    found = re.search(r"never coming: (\d+) damaged \(damage in seq (\d+) to (\d+)\)", said)
    assert found is not None
    assert tuple(map(int, found.groups())) == (len(missing), min(missing), max(missing))
