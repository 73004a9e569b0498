"""A real VictoriaMetrics 1.79."""

import json
import time
from datetime import datetime
from pathlib import Path

import pytest
from drives import FIXES, drive_to
from peers import ask, victoria_metrics

_WORDS = {"stream", "device", "quality", "flags", "time"}  # it keeps numbers only


def test_a_drive_arrives_once_and_its_numbers_are_read_back_equal(
    tmp_path: Path, backlog: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with victoria_metrics(tmp_path_factory.mktemp("vm")) as server:
        sent = drive_to(f"{server}/write", tmp_path, backlog, cut_after=40_000, format="influx")
        expected = {
            (name, round(datetime.fromisoformat(fix["time"]).timestamp() * 1000)): value
            for fix in sent
            for name, value in fix.items()
            if name not in _WORDS
        }
        # What it took it finds when it has indexed it, which it tells nobody.
        limit_s = time.monotonic() + 20
        stored = _stored(server)
        while len(stored) < len(expected) and time.monotonic() < limit_s:
            stored = _stored(server)
    words = {name for name, _ in stored} - {name for name, _ in expected}
    assert len(sent) == FIXES
    assert {key: value for key, value in stored.items() if key[0] not in words} == expected
    assert {value for key, value in stored.items() if key[0] in words} == {0}  # of words it makes 0


def _stored(server: str) -> dict[tuple[str, int], float]:
    ask(f"{server}/internal/force_flush")
    lines = ask(f"{server}/api/v1/export?match[]=%7Bdevice=~'.%2B'%7D").splitlines()
    stored: dict[tuple[str, int], float] = {}
    for series in map(json.loads, lines):
        name = series["metric"]["__name__"].removeprefix("gps_")
        for time_ms, value in zip(series["timestamps"], series["values"], strict=True):
            assert (name, time_ms) not in stored, "a sample that is there twice"
            stored[name, time_ms] = value
    return stored
