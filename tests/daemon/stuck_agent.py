"""The agent with a task that hangs when its name is in the file ``stuck`` beside the config."""

import threading
from pathlib import Path

from telemetry_agent.cli import main
from telemetry_agent.gnss.reader import Reader
from telemetry_agent.upload.uploader import Uploader

STUCK = Path("/etc/telemetry-agent/stuck")


def may_hang(task: type[Reader] | type[Uploader]) -> None:
    """Make a task break the rule that each step ends within 4 s."""
    step = task.step

    def step_or_hang(self: Reader | Uploader, now_s: float) -> float | None:
        if STUCK.exists() and STUCK.read_text() == task.__name__.lower():
            threading.Event().wait()
        return step(self, now_s)  # type: ignore[arg-type]  # its own type

    task.step = step_or_hang  # type: ignore[method-assign]
    task.max_step_s = property(lambda _: 4.0, lambda *_: None)  # type: ignore[assignment]


may_hang(Reader)
may_hang(Uploader)
main()
