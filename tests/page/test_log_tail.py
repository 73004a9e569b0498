"""The newest lines of the log, for the page."""

import logging

from telemetry_agent.page.agent_view import LogTail


def test_it_keeps_the_newest_lines_without_secrets() -> None:
    secrets = {"SECRET-token"}
    tail = LogTail(secrets)
    logger = logging.getLogger("telemetry_agent.test_log_tail")
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
