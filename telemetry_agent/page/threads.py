"""Work that waits for the disk, beside the event loop.

In daemon threads of its own: those of an executor are waited for when the process ends, and a dying
card must not hold that up.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from typing import Any, TypeVar, cast

T = TypeVar("T")
_END = object()


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """Do it in a thread of its own; what it raises is raised here."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            end = partial(done.set_result, work(*args))
        except BaseException as error:  # noqa: BLE001 - raised in the event loop
            end = partial(done.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(lambda: done.cancelled() or end())

    threading.Thread(target=run, name="page work", daemon=True).start()
    return await done


async def each_in_thread(answers: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """The values of a generator, each made in a thread; it is closed in one at the end."""
    at_work = threading.Lock()  # who leaves does not wait for the value that is being made

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
