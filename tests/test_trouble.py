import logging

import pytest
from fakes import FakeClock

from telemetry_agent.trouble import Trouble

LOG = logging.getLogger("telemetry_agent.test")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def trouble(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> Trouble:
    caplog.set_level(logging.INFO, LOG.name)
    return Trouble(LOG, clock)


def test_it_is_logged_when_it_begins_and_when_it_ends(
    trouble: Trouble, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        trouble.failed("cannot listen on port 80")
        clock.advance(1)
    assert trouble.lasts
    trouble.over("listening again")
    assert not trouble.lasts
    trouble.over("listening again")
    assert [record.getMessage() for record in caplog.records] == [
        "cannot listen on port 80",
        "listening again after 100 s (failures: 100)",
    ]


def test_another_cause_is_logged_and_the_first_is_not_repeated(
    trouble: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    for text in ("no route", "refused", "no route"):
        trouble.failed(text)
    assert [record.getMessage() for record in caplog.records] == ["no route", "refused"]


def test_causes_of_one_kind_are_one(trouble: Trouble, caplog: pytest.LogCaptureFixture) -> None:
    trouble.failed("no answer from 192.0.2.1", kind="network")
    trouble.failed("no answer from 192.0.2.2", kind="network")
    assert len(caplog.records) == 1


def test_what_flaps_is_two_lines_a_minute_at_most(
    trouble: Trouble, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    lines_by_minute: dict[int, int] = {}
    began_s = clock.monotonic_s()
    for _ in range(2000):
        before = len(caplog.records)
        trouble.failed("the endpoint answers 403")
        trouble.over("delivering again")
        minute = int((clock.monotonic_s() - began_s) // 60)
        gained = len(caplog.records) - before
        lines_by_minute[minute] = lines_by_minute.get(minute, 0) + gained
        clock.advance(3)
    assert max(lines_by_minute.values()) == 2
    assert len(caplog.records) <= 2 * (10 + 2)


def test_trouble_that_lasts_is_logged_however_often_it_was_before(
    trouble: Trouble, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        trouble.failed("no route")
        trouble.over("delivering again")
        clock.advance(1)
    caplog.clear()
    for _ in range(70):
        trouble.failed("no route")
        clock.advance(1)
    trouble.over("delivering again")
    first, last = [record.getMessage() for record in caplog.records]
    assert first == "no route"
    assert "short ones before" in last


def test_after_a_change_by_the_user_it_is_logged_again(
    trouble: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    trouble.failed("401", kind="held")
    trouble.forget("held")
    trouble.failed("401", kind="held", level=logging.ERROR, fields={"STATE": "held"})
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]


def test_the_end_is_logged_where_the_beginning_was_before_a_change_by_the_user(
    trouble: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    trouble.failed("401", kind="held")
    trouble.forget("held")
    trouble.over("delivering again")
    assert caplog.messages[-1].startswith("delivering again after")


def test_threads_that_share_it_may_see_its_end_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """The service's main thread and worker thread both notify systemd."""

    class Interrupted(FakeClock):
        """A clock: another thread ends the trouble while this one reads it."""

        def __init__(self) -> None:
            super().__init__()
            self.ends: list[Trouble] = []

        def monotonic_s(self) -> float:
            while self.ends:
                self.ends.pop().over("notified again")
            return super().monotonic_s()

    caplog.set_level(logging.INFO, LOG.name)
    clock = Interrupted()
    shared = Trouble(LOG, clock)
    shared.failed("cannot notify")
    clock.ends.append(shared)
    shared.over("notified again")
    assert not shared.lasts
    assert caplog.messages[0] == "cannot notify"
    assert "notified again after 0 s (failures: 1)" in caplog.messages
