"""Reads what the config names: no pipe, huge file or dead mount may stop the reader.

A call of the kernel that waits for a dead mount cannot be interrupted, in the worst case not even
by SIGKILL. So such a call is made in a thread of its own, which is left behind.
"""

import errno
import os
import stat
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

from telemetry_agent.tasks import result_of

_MOST_BYTES = 1 << 20
ANSWER_S = 10.0
"""How long a file system may take to answer: a disk of a server may have to spin up."""

_unanswered: dict[object, Future[Any]] = {}
"""What the threads that were left behind will answer, by their keys."""

T = TypeVar("T")


def no_answer() -> TimeoutError:
    """The error for a file system that does not answer."""
    return TimeoutError(errno.ETIMEDOUT, "its file system does not answer")


def answered(key: object, act: Callable[[], T], limit_s: float = ANSWER_S) -> T:
    """What ``act`` returns; ``key`` stands for the files that it uses.

    Raises:
        TimeoutError: the file system does not answer in time, or an earlier call with this key
            still waits.
        OSError: the system refuses a thread.
        Exception: what ``act`` raises.
    """
    # Two threads with one key may both miss what the other puts back: then one more call hangs.
    earlier = _unanswered.pop(key, None)
    if earlier is not None and not earlier.done():
        _unanswered[key] = earlier
        raise no_answer()
    if (answer := result_of(act, "file")) is None:
        raise OSError(errno.EAGAIN, "the system refuses a thread")
    if not wait([answer], limit_s).done:
        _unanswered[key] = answer
        raise no_answer()
    return answer.result()


def read_small_file(path: Path) -> bytes:
    """The content of a regular file of at most 1 MiB.

    Raises:
        OSError: it is another kind of file, is larger, or cannot be read.
    """
    # Without O_NONBLOCK the open of a pipe waits for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, "Is a folder: Docker makes one if it mounts a missing file")
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


def read_text(path: Path) -> str:
    """The text of such a file, without white space and zeros at its ends; raises the same."""
    return read_small_file(path).decode("utf-8", "replace").strip("\0 \r\n\t")


def text_of(path: Path) -> str:
    """The text of such a file; empty if it cannot be read."""
    try:
        return read_text(path)
    except OSError:
        return ""
