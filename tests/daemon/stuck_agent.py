"""The agent, with a reader that hangs as soon as the file ``stuck`` stands beside the config."""

import threading
from pathlib import Path

from telemetry_agent.cli import main
from telemetry_agent.gnss.reader import Reader

STUCK = Path("/etc/telemetry-agent/stuck")
step = Reader.step


def step_or_hang(self: Reader, now_s: float) -> float | None:
    if STUCK.exists():
        threading.Event().wait()
    return step(self, now_s)


Reader.max_step_s = 1.5
Reader.step = step_or_hang  # type: ignore[method-assign]  # this is the fault
main()
