"""Work beside the event loop of the page."""

import asyncio
import threading

import pytest

from telemetry_agent.page import threads


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
