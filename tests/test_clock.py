from pathlib import Path
from types import SimpleNamespace

import pytest

from telemetry_agent.clock import Clock


@pytest.mark.parametrize(
    ("kernel_says", "timesyncd_mark", "synchronised"),
    [
        (0, False, True),
        (5, False, False),
        (5, True, False),
        (-1, True, True),  # the hardened service is not allowed to query the kernel
        (-1, False, False),
    ],
)
def test_who_says_that_the_clock_is_synchronised(
    kernel_says: int,
    timesyncd_mark: bool,
    synchronised: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    libc = SimpleNamespace(adjtimex=lambda timex: kernel_says)
    monkeypatch.setattr("telemetry_agent.clock.ctypes.CDLL", lambda name, use_errno: libc)
    mark = tmp_path / "synchronized"
    monkeypatch.setattr("telemetry_agent.clock._TIMESYNCD_HAS_SET_IT", mark)
    if timesyncd_mark:
        mark.touch()
    assert Clock().synchronised() is synchronised
