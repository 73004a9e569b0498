"""``export`` by day and by trip, into a folder."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from processes import run_agent

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.cli import decode
from telemetry_agent.cli.export import _opened, command
from telemetry_agent.errors import StorageError
from telemetry_agent.model import Fix

START_MS = 1_795_435_200_000  # 2026-11-23T12:00:00Z
M_E9 = 8_983


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Two trips of 100 s on one day, and one fix on the next day."""
    with AckQueue(tmp_path / "queue.db", commit_every_s=60) as queue:
        north_m = 0.0
        for second in range(1000):
            drives = second < 100 or 500 <= second < 600
            north_m += 10 * drives
            lat_e9 = 48_000_000_000 + round(north_m * M_E9)
            queue.put(Fix(START_MS + 1000 * second, lat_e9, 11_000_000_000), "van-07")
        queue.put(Fix(START_MS + 86_400_000, 48_000_000_000, 11_000_000_000), "van-07")
    file = tmp_path / "config.toml"
    file.write_text(
        f'device = "van-07"\n[queue]\npath = "{tmp_path}/queue.db"\n'
        '[upload]\nurl = "http://127.0.0.1:9/"\n'
    )
    return file


@pytest.fixture(autouse=True)
def days_of_utc() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def export(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["--config", str(config), *arguments])


def test_a_trip(config: Path) -> None:
    newest = export(config, "--format", "ndjson", "--trip", "1").output.splitlines()
    assert '"time":"2026-11-23T12:08:2' in newest[0]
    assert 95 <= len(newest) <= 103
    before = export(config, "--format", "ndjson", "--trip", "2").output.splitlines()
    assert '"time":"2026-11-23T12:00:0' in before[0]
    assert "there is no trip 3" in str(export(config, "--format", "csv", "--trip", "3").exception)


def test_a_day_into_a_folder(config: Path, tmp_path: Path) -> None:
    done = export(config, "--format", "kml", "--day", "2026-11-23", "--output", str(tmp_path))
    assert "1,000 fixes are in" in done.output
    assert (tmp_path / "van-07-2026-11-23.kml").read_text().count("<when>") == 1000


def test_a_day_of_another_zone_is_in_the_name_as_it_was_asked_for(
    config: Path, tmp_path: Path
) -> None:
    asked = ("--config", str(config), "--format", "csv", "--day", "2026-11-23")
    done = run_agent("export", *asked, "--output", str(tmp_path), env={"TZ": "Pacific/Auckland"})
    assert done.returncode == 0
    assert [file.name for file in tmp_path.glob("*.csv")] == ["van-07-2026-11-23.csv"]


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31", "23.11.2026", "2026-13-01", ""])
def test_what_is_not_a_day_is_refused(config: Path, day: str) -> None:
    done = export(config, "--format", "csv", "--day", day)
    assert (done.exit_code, "a day such as 2026-11-23" in done.output) == (2, True)
    done = CliRunner().invoke(decode.command, ["--date", day, os.devnull])
    assert (done.exit_code, "a day such as 2026-11-23" in done.output) == (2, True)


def test_a_date_without_hyphens_is_not_an_age(config: Path) -> None:
    done = export(config, "--format", "ndjson", "--since", "20261124")
    assert len(done.output.splitlines()) == 1


def test_a_dash_is_standard_output(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = export(config, "--format", "csv", "--output", "-")
    assert len(done.output.splitlines()) == 1002
    assert not (tmp_path / "-").exists()


def test_one_choice_only(config: Path) -> None:
    done = export(config, "--format", "csv", "--day", "2026-11-23", "--trip", "1")
    assert (done.exit_code, "Give only one of --day" in done.output) == (2, True)


def test_a_file_that_has_the_name_of_the_draft_is_not_deleted(tmp_path: Path) -> None:
    theirs = tmp_path / f".trip.gpx.{os.getpid()}"
    theirs.write_text("not ours")
    with pytest.raises(StorageError, match="File exists"), _opened(tmp_path / "trip.gpx"):
        pass
    assert theirs.read_text() == "not ours"
