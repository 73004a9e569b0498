"""The agent on a disk that hangs as soon as the file that the environment names is there."""

import os
import threading
from pathlib import Path

from telemetry_agent.ackqueue.file.store import Changes, Store
from telemetry_agent.cli import main

HANGS = Path(os.environ["DISK_HANGS"])
write = Store.write


def write_or_hang(self: Store, changes: Changes) -> None:
    if HANGS.exists():
        os.write(1, b"hangs\n")
        threading.Event().wait()
    write(self, changes)


Store.write = write_or_hang  # type: ignore[method-assign]
main()
