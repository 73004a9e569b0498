"""Work that waits for the disk, beside the event loop.

It runs in daemon threads: at its end, a process waits for the threads of an executor, and a dying
card must not delay the end.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from telemetry_agent.tasks import result_of

_THREAD_AGAIN_S = 1.0

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """Do the work in a thread of its own; its exceptions are raised here.

    While the system refuses a thread, this waits for one.
    """
    while (done := result_of(work, "page work")) is None:
        await asyncio.sleep(_THREAD_AGAIN_S)
    return await asyncio.wrap_future(done)
