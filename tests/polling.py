"""Wait for an event without a notification: a file, a port, an answer of another process."""

import threading
import time
from collections.abc import Callable

_PAUSE_S = 0.02
_NEVER = threading.Event()


def wait_until(happened: Callable[[], object], limit_s: float = 60) -> None:
    """Poll until it is true; fail after the limit."""
    deadline_s = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < deadline_s, f"not within {limit_s:g} s"
        _NEVER.wait(_PAUSE_S)  # a busy loop would slow the other process
