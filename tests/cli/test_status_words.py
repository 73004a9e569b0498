"""Numbers for people."""

import pytest

from telemetry_agent.cli.status import lines, pace
from telemetry_agent.snapshot import ReceiverView, Snapshot


@pytest.mark.parametrize(
    ("rate_hz", "said"),
    [(1 / 60, "0.017"), (1, "1"), (9.94, "9.9"), (9.99, "10"), (99.6, "100"), (12_345.6, "12,346")],
)
def test_a_rate_is_never_told_in_powers_of_ten(rate_hz: float, said: str) -> None:
    assert pace(rate_hz) == f"{said} a second"


def test_what_is_wrong_with_the_receiver_has_a_line_of_its_own() -> None:
    """``status --watch`` puts all lines of an update into one, where nobody looks at a terminal."""
    receiver = ReceiverView(message="no data", remedy="check the cable", notice="antenna: OPEN")
    said = list(lines(Snapshot(receiver=receiver)))
    assert {"receiver:  no data: check the cable", "receiver:  antenna: OPEN"} < set(said)
    assert not any("\n" in line for line in said)
