"""A queue on a small disk that another program fills. Run it in its own mount namespace.

::

    unshare --mount python full_disk.py FOLDER

Mounts a file system of 16 MiB on FOLDER. Prints the results as JSON, one line for each act.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from ackqueue import queue_parts
from ackqueue.queue_parts import fix_at, lease

from telemetry_agent.ackqueue.committer import Committer
from telemetry_agent.ackqueue.limits.bounds import Limits
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.errors import StorageError

MIB = 1 << 20
MIN_FREE = 2 * MIB


def free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def fill(folder: Path, leave: int = 0) -> Path:
    """Take the free space, as another program would, except ``leave`` bytes."""
    other = folder / "other"
    size = free_bytes(folder) - leave
    with other.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return other


def record(queue: AckQueue, committer: Committer, start: int, count: int) -> int:
    """Commit 50 fixes at a time, and do the committer's steps. Return the next second."""
    for first in range(start, start + count, 50):
        queue_parts.put(queue, min(50, start + count - first), start=first)
        with suppress(StorageError):
            queue.commit()
        while committer.step(queue.shared.clock.monotonic_s()) == 0:
            pass
    return start + count


def tell(act: str, queue: AckQueue, folder: Path, put: int, *, delivered: int = 0) -> None:
    stats = queue.stats()
    told = {
        "act": act,
        "put": put,
        "deleted": delivered - stats.acked,
        "ready": stats.ready,
        "acked": stats.acked,
        "uncommitted": stats.uncommitted,
        "lost": dict(stats.lost),
        "full": stats.full,
        "refused": queue.shared.writer.refused,
        "file_bytes": stats.file_bytes,
        "free_bytes": free_bytes(folder),
        "ballast": (folder / "queue.db.ballast").exists(),
    }
    sys.stdout.write(json.dumps(told) + "\n")


def main(folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], check=True)
    limits = Limits(max_size_bytes=12 * MIB, min_free_bytes=MIN_FREE)
    path = folder / "queue.db"
    with AckQueue(path, commit_every_s=3600, limits=limits) as queue:
        committer = Committer(queue)
        second = record(queue, committer, 0, 70_000)
        tell("recorded", queue, folder, second)

        batch = lease(queue, 500, live_first=False)
        other = fill(folder)
        tell("filled", queue, folder, second)
        queue.ack(batch)
        tell("acknowledged", queue, folder, second, delivered=500)
        second = record(queue, committer, second, 5000)
        tell("recorded on", queue, folder, second, delivered=500)

        other.unlink()
        second = record(queue, committer, second, 10)
        tell("freed", queue, folder, second, delivered=500)

        other = fill(folder, leave=MIN_FREE)
        second = record(queue, committer, second, 20_000)
        tell("little left", queue, folder, second, delivered=500)
    with AckQueue(path, limits=limits) as queue:
        assert queue.newest(1)[0].fix == fix_at(second - 1)
        tell("opened again", queue, folder, second, delivered=500)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
