"""The agent moves its queue when it runs, and hangs while it opens the queue in the new place."""

import os
import threading

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.cli import main
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import QueueSettings
from telemetry_agent.daemon import queue_place
from telemetry_agent.daemon.app import Agent

open_queue = queue_place.open_queue
opened: list[AckQueue] = []


def open_or_hang(queue: QueueSettings, clock: Clock) -> AckQueue:
    if opened:
        os.write(1, b"hangs\n")
        threading.Event().wait()
    opened.append(open_queue(queue, clock))
    return opened[0]


def yes(self: Agent) -> bool:
    return True


queue_place.open_queue = open_or_hang
Agent.may_move = yes  # type: ignore[method-assign]
Agent.must_move = yes  # type: ignore[method-assign]
main()
