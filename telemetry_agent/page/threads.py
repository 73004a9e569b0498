"""Work that waits for the disk, beside the event loop.

It runs in daemon threads: at its end, a process waits for the threads of an executor, and a dying
card must not delay the end.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from typing import Any, TypeVar, cast

_THREAD_AGAIN_S = 1.0

T = TypeVar("T")
_END = object()


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """Do the work in a thread of its own; its exceptions are raised here.

    While the system refuses a thread, this waits for one.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            end = partial(done.set_result, work(*args))
        except BaseException as error:  # noqa: BLE001 - raised in the event loop
            end = partial(done.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended in the meantime
            loop.call_soon_threadsafe(lambda: done.cancelled() or end())

    while True:
        try:
            threading.Thread(target=run, name="page work", daemon=True).start()
        except RuntimeError:
            await asyncio.sleep(_THREAD_AGAIN_S)
        else:
            return await done


async def each_in_thread(answers: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """The values of a generator, each made in a thread; it is closed in one at the end."""
    # When a viewer leaves, a value may still be in the making: it is not waited for, and the
    # generator is closed after it.
    at_work = threading.Lock()

    def step() -> T | object:
        with at_work:
            return next(answers, _END)

    def close() -> None:
        with at_work:
            answers.close()

    try:
        while (answer := await in_thread(step)) is not _END:
            yield cast("T", answer)
    finally:
        await in_thread(close)
