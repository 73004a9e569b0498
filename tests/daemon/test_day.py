"""A day of the whole agent, compressed to the time that the work takes: what it logs.

The tasks are those of ``daemon/app.py`` with real parts: a pty, the queue file, sockets, the
reference endpoint. Only the clock belongs to the test, so the test steps the tasks without threads.
"""

import contextlib
import fcntl
import logging
import os
import pty
import re
import select
import sys
import termios
import tty
from pathlib import Path

import pytest
from fakes import FakeClock
from rig import START_MS, write_config

from telemetry_agent.config import loader
from telemetry_agent.daemon.app import Agent
from telemetry_agent.lab.drive import Drive
from telemetry_agent.lab.endpoint import Endpoint
from telemetry_agent.tasks import Task

DAY_S = 86_400
LIMIT_S = 60.0
OUTAGES = (
    r"unreachable\): connection refused by",
    r"waiting\): 503: ",
    r"unreachable\): the server closed the connection without an answer",
    r"unreachable\): connection refused by",
)


class Day:
    """The agent, its receiver, its endpoint and the clock."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack, interval_s: int) -> None:
        self.clock = FakeClock()
        self.endpoint = stack.enter_context(Endpoint("127.0.0.1:0", folder / "received.db"))
        self.recorded = 0
        self._fault: str | None = None
        self.endpoint.next_fault = lambda: self._fault  # type: ignore[method-assign]
        self._interval_s = interval_s
        self._drive = Drive(START_MS, interval_ms=1000 * interval_s)
        self._receiver, self._line = pty.openpty()
        tty.setraw(self._line)
        path = write_config(
            folder,
            os.ttyname(self._line),
            self.endpoint.url,
            upload={
                "flush_every": "1min",
                "timeout": "30s",
                "backoff_initial": "1s",
                "backoff_max": "2min",
                "resume_spread": "15s",
            },
            queue={"commit_every": "1min"},
            connectivity={"probe_every": "30s"},
        )
        self.agent = Agent(loader.load(path).settings, self.clock)
        stack.callback(os.close, self._receiver)
        stack.callback(os.close, self._line)
        stack.callback(self.agent.queue.close)
        for task in (self._reader, *self._tasks()):
            stack.callback(task.close)
        self._reader.step(self.clock.now_s)  # opens the receiver

    def live(self, seconds: int) -> None:
        """Record and deliver for this many seconds."""
        for _ in range(seconds // self._interval_s):
            said = self._drive.epoch(self.recorded)
            self._send(b"".join(re.findall(rb"\$GN(?:RMC|GGA).*\r\n", said)))
            self.recorded += 1
            self._reader.step(self.clock.advance(self._interval_s))
            for task in self._tasks():
                self._step(task)

    def _send(self, data: bytes) -> None:
        """Return when all data can be read, so that the reader gets it in one piece.

        The kernel passes the data on in another thread. If the rest came with the next step, it
        would be the first position of a receiver that has sent for 10 s.
        """
        os.write(self._receiver, data)
        while self._readable() < len(data):
            assert select.select([self._line], [], [], LIMIT_S)[0]

    def _readable(self) -> int:
        count = fcntl.ioctl(self._line, termios.FIONREAD, bytes(4))
        return int.from_bytes(count, sys.byteorder)

    def suffer(self, fault: str, seconds: int) -> None:
        """Run an outage: the endpoint is ``gone``, or has this fault."""
        if fault == "gone":
            self.endpoint.disconnect()
        else:
            self._fault = fault
        self.live(seconds)
        self._fault = None
        self.endpoint.reconnect()

    @property
    def _reader(self) -> Task:
        return self.agent.recording._reader.task

    def _tasks(self) -> list[Task]:
        agent = self.agent
        return [agent._committer.task, agent.delivery._monitor.task, agent.delivery._uploader.task]

    def _step(self, task: Task) -> None:
        task.bell.clear()
        while (wait_s := task.step(self.clock.now_s)) == 0 or self._probes(task):
            if wait_s != 0:
                # Only this takes real time: a name resolution in its own thread.
                task.bell.wait(LIMIT_S)
                task.bell.clear()

    def _probes(self, task: Task) -> bool:
        monitor = self.agent.delivery._monitor.task
        return task is monitor and monitor._running is not None


def live_a_day(folder: Path, interval_s: int) -> None:
    """Record a fix each ``interval_s``, with four outages; everything arrives."""
    with contextlib.ExitStack() as stack:
        day = Day(folder, stack, interval_s)
        day.live(3600)
        for fault, minutes in (("gone", 60), ("503", 10), ("drop", 20), ("gone", 360)):
            day.suffer(fault, 60 * minutes)
            day.live(2 * 3600)
        day.live(DAY_S - day.recorded * interval_s)
        # The last fixes wait to share a batch, or for the sentence that ends the epoch.
        assert day.recorded - day.endpoint.count() <= 2 + 60 // interval_s
        assert day.recorded == DAY_S // interval_s


def test_a_day_with_four_outages_is_eight_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "telemetry_agent")
    live_a_day(tmp_path, interval_s=30)
    lines = [line for line in caplog.messages if "unpacks gzip" not in line]
    begins, ends = lines[::2], lines[1::2]
    assert [re.sub(r"\d+ s \(failures: \d+", "x s (failures: x", line) for line in ends] == [
        "delivering again after x s (failures: x)"
    ] * 4
    for line, reason in zip(begins, OUTAGES, strict=True):
        assert re.fullmatch(rf"cannot deliver \({reason}.*; trying again", line)
