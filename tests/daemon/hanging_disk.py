"""The agent on a disk that hangs once DISK_HANGS is there, or takes DISK_TAKES_S for a write."""

import os
import threading
from pathlib import Path

from telemetry_agent.ackqueue.file.store import Changes, Store
from telemetry_agent.cli import main

HANGS = Path(os.environ.get("DISK_HANGS", "/none"))
TAKES_S = float(os.environ.get("DISK_TAKES_S", "0"))
write = Store.write


def write_or_hang(self: Store, changes: Changes) -> None:
    if HANGS.exists():
        os.write(1, b"hangs\n")
        threading.Event().wait()
    threading.Event().wait(TAKES_S)
    write(self, changes)
    if changes.rows:
        os.write(1, f"wrote {len(changes.rows)}\n".encode())


Store.write = write_or_hang  # type: ignore[method-assign]
main()
