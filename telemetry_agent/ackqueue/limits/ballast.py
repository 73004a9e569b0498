"""Room that is kept for the day on which the disk is full.

To delete rows, or to note an acknowledgement, takes room too. So a file that holds nothing lies
beside the queue, and is deleted when there is no other way to write.
"""

import os
from contextlib import suppress
from pathlib import Path


class Ballast:
    """``PATH.ballast``: so many bytes of the disk, if it has them to spare."""

    def __init__(self, queue_path: Path, size: int) -> None:
        self._path = queue_path.with_name(queue_path.name + ".ballast")
        self._size = size

    @property
    def is_there(self) -> bool:
        """Whether there is such room."""
        with suppress(OSError):
            return self._path.stat().st_size == self._size
        return False

    def keep(self, spare_bytes: int) -> None:
        """Make it if it is not there and the disk can spare it twice."""
        if spare_bytes < 2 * self._size or self.is_there:
            return
        self.drop()  # of other limits, or a kill came before it had its size
        with suppress(OSError):
            fd = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o640)
            try:
                os.posix_fallocate(fd, 0, self._size)
            except OSError:
                self._path.unlink()
            finally:
                os.close(fd)

    def drop(self) -> bool:
        """Give its room to the queue. Returns whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
