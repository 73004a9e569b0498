"""Work in threads beside the event loop of the page."""

import asyncio
import threading

import pytest

from telemetry_agent.page import threads
from telemetry_agent.page.event_streams import EventStreams


def test_work_waits_for_a_thread_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    refused: list[threading.Thread] = []

    def refuse_twice(self: threading.Thread) -> None:
        if len(refused) < 2:
            refused.append(self)
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse_twice)
    monkeypatch.setattr(threads, "_THREAD_AGAIN_S", 0.001)
    assert asyncio.run(threads.in_thread(lambda: 1 + 1)) == 2
    assert len(refused) == 2


def test_what_the_work_raises_is_raised_in_the_loop() -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(threads.in_thread(lambda: 1 // 0))


class SlowSource:
    """A fake event source on a slow disk."""

    def __init__(self) -> None:
        self.made = 0
        self.under_way = self.most_under_way = 0
        self.began, self.disk_answers = threading.Event(), threading.Event()

    def news(self) -> str:
        self.began.set()
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        assert self.disk_answers.wait(60)
        self.under_way -= 1
        self.made += 1
        return "{}"


def test_an_event_that_a_viewer_asked_for_and_left_is_made_once() -> None:
    source = SlowSource()

    async def viewers_come_and_go() -> None:
        streams = EventStreams(source)  # type: ignore[arg-type]  # a fake
        making = asyncio.create_task(streams.run())
        first = asyncio.create_task(streams.refresh())
        assert await asyncio.to_thread(source.began.wait, 60)
        first.cancel()
        await asyncio.wait({first})
        second = asyncio.create_task(streams.refresh())
        for _ in range(10):
            await asyncio.sleep(0)  # let the second one wait for the existing thread
        assert [thread.name for thread in threading.enumerate()].count("page work") == 1
        source.disk_answers.set()
        await second
        making.cancel()

    asyncio.run(viewers_come_and_go())
    assert (source.most_under_way, source.made) == (1, 1)
