"""The agent; the system refuses new threads when the file $NO_THREAD_LEFT exists."""

import os
import threading
from pathlib import Path

from telemetry_agent.cli import main

NONE_LEFT = Path(os.environ["NO_THREAD_LEFT"])
start = threading.Thread.start


def start_if_allowed(self: threading.Thread) -> None:
    if NONE_LEFT.exists():
        raise RuntimeError("can't start new thread")
    start(self)


threading.Thread.start = start_if_allowed  # type: ignore[method-assign]
main()
