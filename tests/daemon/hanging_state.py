"""The agent with a state directory that refuses files, and hangs when STATE_HANGS exists."""

import os
import threading
from pathlib import Path

from telemetry_agent.cli import main
from telemetry_agent.daemon import queue_place
from telemetry_agent.errors import Advice

HANGS = Path(os.environ["STATE_HANGS"])


def refuse_or_hang(queue_path: Path, **_: bool) -> Advice:
    if HANGS.exists():
        os.write(1, b"hangs\n")
        threading.Event().wait()
    return Advice(f"{queue_path.parent}: read-only file system")


queue_place.why_unusable = refuse_or_hang
main()
