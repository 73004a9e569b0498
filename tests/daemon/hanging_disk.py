"""The agent on a disk that hangs when DISK_HANGS exists; it prints the number of rows written."""

import os
import threading
from pathlib import Path

from telemetry_agent.ackqueue.file.store import Changes, Store
from telemetry_agent.cli import main

HANGS = Path(os.environ.get("DISK_HANGS", "/none"))
write = Store.write


def write_or_hang(self: Store, changes: Changes) -> None:
    if HANGS.exists():
        os.write(1, b"hangs\n")
        threading.Event().wait()
    write(self, changes)
    if changes.rows:
        os.write(1, f"wrote {len(changes.rows)}\n".encode())


Store.write = write_or_hang  # type: ignore[method-assign]
main()
