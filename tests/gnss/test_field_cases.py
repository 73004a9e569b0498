"""Inputs from public fault reports with the correct results. Needs the folder of the cases.

These cases have other authors; ours are the recordings in ``rules/`` and the tests of the modules.
``how`` of each case says how its input is used. The cases for the config are not tested here.
"""

import json
import os
from pathlib import Path
from typing import Any

import corpus
import pytest
from processes import run_agent

from telemetry_agent.fields import fix_fields
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.diagnosis import diagnosis
from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy
from telemetry_agent.gnss.sources.gpsd import Reports
from telemetry_agent.gnss.sources.protocols import unreadable
from telemetry_agent.model import Fix

FOLDER = Path(os.environ.get("TELEMETRY_AGENT_FIELD_CASES") or corpus.FOLDER.parent / "field-cases")
_CASES: dict[str, dict[str, Any]] = (
    json.loads((FOLDER / "cases.json").read_text()) if FOLDER.is_dir() else {}
)


def of_kind(how: str) -> list[str]:
    return [name for name, case in _CASES.items() if case["how"].startswith(how)]


def live(name: str) -> list[Fix]:
    """The fixes of a live line, one sentence per 100 ms; the system clock is not synchronised."""
    decoder = Decoder(fix_rollover=True)
    fixes: list[Fix] = []
    for tenth, sentence in enumerate((FOLDER / name).read_bytes().splitlines(keepends=True)):
        fixes += decoder.feed(sentence, tenth / 10)
    return fixes + decoder.finish()


@pytest.mark.parametrize("name", of_kind("decode"))
def test_decode(name: str) -> None:
    case = _CASES[name]
    done = run_agent("decode", str(FOLDER / name))
    fixes = [json.loads(row) for row in done.stdout.splitlines()]
    assert done.returncode == case.get("exit", 0)
    assert len(fixes) == case.get("fixes", len(fixes))
    for fix in fixes:
        every = case.get("every", {})
        assert {field: fix.get(field) for field in every} == every
    if first := case.get("first"):
        assert {field: fixes[0].get(field) for field in first} == first
    if case.get("times_ascend"):
        times = [fix["time"] for fix in fixes]
        assert times == sorted(set(times))
    if dates := case.get("dates"):
        assert {fix["time"][:10] for fix in fixes} == {dates}
        assert not any("flags" in fix for fix in fixes)
    if "says" in case:
        assert "switch its RMC and GGA sentences on" in done.stderr


@pytest.mark.parametrize("name", of_kind("run with sampling.max_hdop = 5"))
def test_max_hdop(name: str) -> None:
    sampler = Sampler(SamplingPolicy(max_hdop=5))
    recorded = [kept for fix in live(name) for kept in sampler.feed(fix)]
    assert len(recorded) == _CASES[name]["fixes"]


@pytest.mark.parametrize("name", of_kind("run, system clock not synchronised"))
def test_no_date_that_is_none_is_recorded(name: str) -> None:
    dates = {str(fix_fields(fix)["time"])[:10] for fix in live(name)}
    assert dates <= {"2026-11-23"}


@pytest.mark.parametrize("name", [name for name in _CASES if _CASES[name]["how"] == "run"])
def test_what_is_wrong_is_told_as_that(name: str) -> None:
    assert _CASES[name]["state"] == "not wrong-baud"
    assert unreadable((FOLDER / name).read_bytes()) == diagnosis("no-checksum")


@pytest.mark.parametrize("name", of_kind("served on a TCP port"))
def test_gpsd(name: str) -> None:
    reports = Reports()
    fixes = corpus.decode(reports.feed((FOLDER / name).read_bytes()))
    assert len(fixes) == _CASES[name]["fixes"]
    assert reports.rejected


def test_the_cases_are_there() -> None:
    if not _CASES:
        pytest.skip(f"no cases in {FOLDER}: set TELEMETRY_AGENT_FIELD_CASES to their folder")
    assert len(_CASES) >= 20
