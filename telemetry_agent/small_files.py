"""Reads what the config names: a pipe must not hang the reader, nor a huge file take its memory."""

import errno
import os
import stat
from pathlib import Path

_MOST_BYTES = 1 << 20


def read_small_file(path: Path) -> bytes:
    """The content of a regular file of at most 1 MiB.

    Raises:
        OSError: it is another kind of file, is larger, or cannot be read.
    """
    # Without O_NONBLOCK the open of a pipe waits for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        content = b""
        while len(content) <= _MOST_BYTES and (more := os.read(descriptor, _MOST_BYTES)):
            content += more
    finally:
        os.close(descriptor)
    if len(content) > _MOST_BYTES:
        raise OSError(errno.EFBIG, "Larger than 1 MiB")
    return content
