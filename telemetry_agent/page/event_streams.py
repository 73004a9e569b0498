"""The event streams of all viewers (server-sent events), and when the next event is made.

While there is a viewer, an event is made each second, and soon after each step of the uploader. A
viewer that is too slow and misses one gets everything again instead of the next.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from telemetry_agent.errors import AgentError, StorageError
from telemetry_agent.page.events import EventSource
from telemetry_agent.page.threads import in_thread
from telemetry_agent.trouble import Trouble

VIEWERS = 32
_EVERY_S = 1.0
_SOONEST_S = 0.25
_SCAN_PAUSE_S = 0.03
_STREAMS_PER_BROWSER = 4  # it opens six connections to a host, and needs some for the rest


class EventStreams:
    """Only the event loop may use it, except ``count``."""

    def __init__(self, source: EventSource) -> None:
        self.count = 0
        """How many viewers follow now. Any thread may look."""
        self._source = source
        self._of_browser: Counter[str] = Counter()
        self._nudge = asyncio.Event()
        self._made = asyncio.Event()
        """Set when the next event was made; then another one takes its place."""
        self._number = 0
        self._news = ""
        self._made_s = float("-inf")
        self._wanted = False  # by a request that is not a stream
        self._asked = False

    def nudge(self) -> None:
        """Make the next event soon: something has changed."""
        self._nudge.set()

    async def follow(self, browser: str = "") -> AsyncIterator[str]:
        """The events for one viewer, until it is disconnected. The first piece is empty.

        Args:
            browser: the same in all tabs of one browser. From the fifth tab on they must poll: a
                browser opens few connections to a host, and a further tab would wait without end.

        Raises:
            HTTPException: there are too many viewers, instead of the first piece.
        """
        if self.count >= VIEWERS:
            says = f"Too many viewers (limit {VIEWERS}): close another window."
            raise HTTPException(503, says)
        if browser and self._of_browser[browser] >= _STREAMS_PER_BROWSER:
            yield ""
            yield _event("poll", "{}")
            return
        self._of_browser[browser] += 1
        self.count += 1
        try:
            yield ""
            await self.refresh()
            yield "retry: 1000\n\n"  # milliseconds until the browser reconnects
            seen = -1
            while True:
                missed, seen, next_made = self._number > seen + 1, self._number, self._made
                yield (
                    _event("hello", self._source.hello()) if missed else _event("news", self._news)
                )
                await next_made.wait()
        finally:
            self.count -= 1
            self._of_browser[browser] -= 1
            self._of_browser += Counter()  # drops the browsers with no stream left

    async def refresh(self) -> None:
        """Wait for an event that is at most a second old, and let the earlier track be read."""
        self._asked = True
        if asyncio.get_running_loop().time() - self._made_s >= _EVERY_S:
            self._wanted, made = True, self._made
            self.nudge()
            await made.wait()

    async def run(self) -> None:
        """Make events until the page ends."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S - _SOONEST_S):
                    await self._nudge.wait()
            if not self._wanted:
                await asyncio.sleep(_SOONEST_S)  # more may change at the same time
            self._nudge.clear()
            if self.count or self._wanted:
                self._news = await in_thread(self._source.news)
                self._made_s = asyncio.get_running_loop().time()
                self._number += 1
                self._wanted = False
                made, self._made = self._made, asyncio.Event()
                made.set()

    async def scan(self) -> None:
        """Read the earlier track, with pauses for more important work.

        While there is a viewer, and once after each ``refresh``.
        """
        while True:
            more = False
            if self.count or self._asked:
                with suppress(StorageError):
                    more = await in_thread(self._source.index.scan)
            self._asked = self._asked and more
            await asyncio.sleep(_SCAN_PAUSE_S if more else _EVERY_S)


class StreamedAnswer(StreamingResponse):
    """An answer in pieces. It ends as soon as the viewer leaves.

    ``broken_off`` reports an answer that was not sent whole.
    """

    def __init__(
        self, content: AsyncIterator[str | bytes], broken_off: Trouble, **response: Any
    ) -> None:
        super().__init__(content, **response)
        self._broken_off = broken_off

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        # Not starlette's own way: with some versions of uvicorn it does not notice that a viewer
        # leaves, and with others it imports a part of anyio that costs 1.3 MB.
        sending = asyncio.ensure_future(self.stream_response(send))
        leaving = asyncio.ensure_future(self.listen_for_disconnect(receive))
        leaving.add_done_callback(lambda _: sending.cancel())
        try:
            await sending
            self._broken_off.over("the page sends whole answers again")
        except asyncio.CancelledError:
            pass  # the viewer has left
        except AgentError as error:
            # An answer without an end is how the viewer learns that it is not whole.
            self._broken_off.failed(f"the page broke off an answer: {error}", kind="broken off")
        finally:
            leaving.cancel()


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"
