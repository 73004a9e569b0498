"""What the upload status keeps over a reload."""

import pytest
from fakes import FakeClock

from telemetry_agent.upload.upload_status import StatusKeeper


@pytest.mark.parametrize("changed", [True, False])
def test_a_reload_forgets_only_what_may_be_of_another_endpoint(changed: bool) -> None:
    keeper = StatusKeeper(FakeClock())
    keeper.found_inconsistent("400: bad fix", 10)
    keeper.asked_to_wait(700.0)
    keeper.reloaded(changed=changed)
    found = keeper.status.inconsistent, keeper.status.next_attempt_s, keeper.asked_until_s
    assert found == ((False, None, 0.0) if changed else (True, 700.0, 700.0))


@pytest.mark.parametrize("changed", [True, False])
def test_after_a_reload_the_log_repeats_what_is_held_and_if_the_endpoint_changed_an_outage_too(
    changed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = StatusKeeper(FakeClock())
    for _ in range(2):
        keeper.trouble("held", "401", 1.0, 2.0)
        keeper.trouble("unreachable", "connection refused", 1.0, 2.0)
        keeper.reloaded(changed=changed)
    said = [line.split()[0] for line in caplog.messages]
    assert said == (["uploads", "cannot"] * 2 if changed else ["uploads", "cannot", "uploads"])
