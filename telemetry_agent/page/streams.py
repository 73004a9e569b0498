"""The event streams of all viewers (server-sent events), and when the next event is made.

While there is a viewer, an event is made each second, and soon after each step of the uploader. A
viewer for whom eight events wait is too slow and is disconnected: the browser reconnects by itself
and gets everything again.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from telemetry_agent.errors import AgentError, StorageError
from telemetry_agent.page.events import EventSource
from telemetry_agent.page.threads import in_thread
from telemetry_agent.trouble import Trouble

VIEWERS = 32
_EVERY_S = 1.0
_SOONEST_S = 0.25
_WAITING_EVENTS = 8
_SCAN_PAUSE_S = 0.03
_OF_ONE_BROWSER = 4  # it opens six connections to a host, and needs some for the rest


class EventStreams:
    """Only the event loop may use it, except ``count``."""

    def __init__(self, event_source: EventSource) -> None:
        self._event_source = event_source
        self._viewers: set[asyncio.Queue[str | None]] = set()
        self._of_browser: Counter[str] = Counter()
        self._nudge = asyncio.Event()
        self._making = asyncio.Lock()
        self._made_s = float("-inf")
        self._asked = False

    def nudge(self) -> None:
        """Make the next event soon: something has changed."""
        self._nudge.set()

    @property
    def count(self) -> int:
        """How many viewers follow now. Any thread may ask."""
        return len(self._viewers)

    @property
    def full(self) -> bool:
        """Whether no further viewer is admitted."""
        return len(self._viewers) >= VIEWERS

    async def follow(self, browser: str = "") -> AsyncIterator[str]:
        """The events for one viewer, until it is disconnected.

        Args:
            browser: the same in all tabs of one browser. From the fifth tab on they must poll: a
                browser opens few connections to a host, and a further tab would wait for ever.
        """
        if browser and self._of_browser[browser] >= _OF_ONE_BROWSER:
            yield _event("poll", "{}")
            return
        self._of_browser[browser] += 1
        try:
            async for text in self._follow():
                yield text
        finally:
            self._of_browser[browser] -= 1
            self._of_browser += Counter()  # drops the browsers with no stream left

    async def _follow(self) -> AsyncIterator[str]:
        await self.refresh()
        waiting: asyncio.Queue[str | None] = asyncio.Queue(_WAITING_EVENTS)
        self._viewers.add(waiting)
        self.nudge()  # ``run`` may be waiting for the first viewer
        try:
            yield "retry: 1000\n\n"  # milliseconds until the browser reconnects
            yield _event("hello", self._event_source.hello())
            while (text := await waiting.get()) is not None:
                yield _event("news", text)
        finally:
            self._viewers.discard(waiting)

    async def refresh(self, older_than_s: float = _EVERY_S) -> None:
        """Make an event and send it to every viewer, if the last one is older."""
        async with self._making:
            if asyncio.get_running_loop().time() - self._made_s < older_than_s:
                return
            text = await in_thread(self._event_source.news)
            self._made_s = asyncio.get_running_loop().time()
            for waiting in list(self._viewers):
                if waiting.full():
                    self._viewers.discard(waiting)
                    waiting.get_nowait()
                    waiting.put_nowait(None)
                else:
                    waiting.put_nowait(text)

    async def scan(self) -> None:
        """While there is a viewer, read the earlier track, with pauses for more important work."""
        while True:
            more = False
            if self._viewers or self._asked:
                with contextlib.suppress(StorageError):
                    more = await in_thread(self._event_source.index.scan)
            self._asked = self._asked and more
            await asyncio.sleep(_SCAN_PAUSE_S if more else _EVERY_S)

    def look_back(self) -> None:
        """Read the earlier track once, although no viewer follows: it was asked for."""
        self._asked = True

    async def run(self) -> None:
        """Make events until the page ends."""
        while True:
            if self._viewers:
                await self.refresh(_SOONEST_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S if self._viewers else None):
                    await self._nudge.wait()
            if self._viewers:
                await asyncio.sleep(_SOONEST_S)  # more may change at the same time
            self._nudge.clear()


class StreamedAnswer(StreamingResponse):
    """An answer of unknown length. It ends as soon as the viewer leaves.

    Args:
        content: its parts.
        broken_off: reports an answer that was not sent whole.
        ended: is called at the end, also if nothing was sent.
    """

    def __init__(
        self,
        content: AsyncIterator[str],
        broken_off: Trouble,
        ended: Callable[[], None] = lambda: None,
        **response: Any,
    ) -> None:
        super().__init__(content, **response)
        self._broken_off = broken_off
        self._ended = ended

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await self._stream(receive, send)
        finally:
            self._ended()

    async def _stream(self, receive: Receive, send: Send) -> None:
        # Not starlette's own way: with some versions of uvicorn it does not notice that a viewer
        # leaves, and with others it imports a part of anyio that costs 1.3 MB.
        sending = asyncio.ensure_future(self.stream_response(send))
        leaving = asyncio.ensure_future(self.listen_for_disconnect(receive))
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (sending, leaving):
            task.cancel()
        await asyncio.wait({sending, leaving})
        if sending.cancelled():
            return
        if error := sending.exception():
            if not isinstance(error, AgentError):
                raise error
            # An answer without an end is how the viewer learns that it is not whole.
            self._broken_off.failed(f"the page broke off an answer: {error}", kind="broken off")
        else:
            self._broken_off.over("the page sends whole answers again")


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"
