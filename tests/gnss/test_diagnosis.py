"""Each reason is reported with a remedy that fits it, and with no other remedy."""

from typing import get_args

import pytest

from telemetry_agent.gnss.diagnosis import Reason, diagnosis

REASONS = get_args(Reason)


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_a_message_and_a_remedy(reason: Reason) -> None:
    found = diagnosis(reason)
    assert found.reason == reason
    assert found.message.startswith("the receiver sends ")
    assert found.remedy
    assert str(found) == f"{found.message}: {found.remedy}"


def test_the_names_of_what_came_instead_are_in_order() -> None:
    assert "(PTNL PUBX)" in diagnosis("proprietary", ["PUBX", "PTNL"]).message


@pytest.mark.parametrize(
    ("words", "reasons"),
    [
        ("RMC and GGA sentences on", {"proprietary", "no-position", "no-time"}),
        ("checksum on", {"no-checksum"}),
        ("program or sketch that writes", {"no-checksum", "bad-checksum"}),
        ("degrees and minutes", {"bad-position"}),
        ("check the receiver's cable", {"bad-checksum"}),
        ("RMC or ZDA sentence on", {"no-date"}),
        ("received satellites", {"no-time", "old-date", "future-date"}),
        ("firmware", {"old-date", "future-date"}),
        ("timedatectl", {"no-date", "old-date", "future-date"}),
        # A wrong remedy is worse than none: these two never help here.
        ("baud", set()),
        ("antenna", set()),
    ],
)
def test_a_remedy_helps_against_its_reason(words: str, reasons: set[str]) -> None:
    assert {reason for reason in REASONS if words in diagnosis(reason).remedy} == reasons


@pytest.mark.parametrize("reason", REASONS)
def test_a_remedy_fits_every_kind_of_source(reason: Reason) -> None:
    remedy = diagnosis(reason).remedy
    assert "/dev/" not in remedy
    assert ("gps.on_connect" in remedy) == ("on a serial port or tcp://" in remedy)
