"""The agent as the page sees it: the time and the newest lines of the log."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import FakeClock

from telemetry_agent.export.track import Gaps
from telemetry_agent.page.agent_view import AgentView, LogTail


def test_a_line_that_cannot_be_rendered_ends_no_thread(capsys: pytest.CaptureFixture[str]) -> None:
    tail = LogTail(())
    tail.handle(logging.LogRecord("page", logging.INFO, "page.py", 1, "%d", ("no number",), None))
    assert tail.lines() == []
    assert "no number" in capsys.readouterr().err


def test_it_keeps_the_newest_lines_without_secrets() -> None:
    secrets = {"SECRET-token"}
    tail = LogTail(secrets)
    logger = logging.getLogger("telemetry_agent.test_agent_view")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(tail)
    try:
        logger.debug("nobody needs this")
        for number in range(300):
            logger.info("line %d", number)
        logger.warning("401 for %s and LATER-secret", "SECRET-token")
    finally:
        logger.removeHandler(tail)
    secrets.add("LATER-secret")  # read after the line was logged
    lines = tail.lines()
    assert len(lines) == 200
    assert lines[-1].endswith("Z warning: 401 for *** and ***")
    assert lines[-2].endswith("info: line 299")


def test_time_is_that_of_gnss_where_it_is_known() -> None:
    clock = FakeClock(wall_ms=1_000_000_000_000)
    known: dict[str, Any] = {"gnss_ms": None, "age_s": 0.0}

    def ask(*_: object) -> Iterator[dict[str, Any]]:
        yield {}

    agent = AgentView(
        None,  # type: ignore[arg-type]  # not asked
        dict,  # type: ignore[arg-type]  # not asked
        lambda: {"age_s": known["age_s"]},
        dict,
        Gaps(300),
        ask,  # type: ignore[arg-type]  # not asked
        gnss_ms=lambda: known["gnss_ms"],
        clock=clock,
    )
    assert (agent.utc_ms(), agent.clock_offset_s()) == (1_000_000_000_000, None)
    known["gnss_ms"] = 1_795_435_200_000
    assert (agent.utc_ms(), agent.clock_offset_s()) == (1_795_435_200_000, -795_435_200.0)
    known["gnss_ms"] = 999_999_999_340
    assert agent.clock_offset_s() == 0.7
    known["age_s"] = 10.0  # no recent fix: the offset is not measured
    assert (agent.utc_ms(), agent.clock_offset_s()) == (999_999_999_340, None)
