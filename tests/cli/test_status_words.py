"""Numbers for people."""

import pytest

from telemetry_agent.cli.status import pace


@pytest.mark.parametrize(
    ("rate_hz", "said"),
    [(1 / 60, "0.017"), (1, "1"), (9.94, "9.9"), (9.99, "10"), (99.6, "100"), (12_345.6, "12,346")],
)
def test_a_rate_is_never_told_in_powers_of_ten(rate_hz: float, said: str) -> None:
    assert pace(rate_hz) == f"{said} a second"
