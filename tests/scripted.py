"""A scripted receiver on a pty, with a baud rate and commands."""

import contextlib
import os
import pty
import select
import termios
import threading
import tty
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

LIMIT_S = 60.0


class ScriptedReceiver:
    """A receiver that sends ``says`` at each beat, or noise if the line's speed is not ``baud``."""

    def __init__(
        self,
        says: bytes,
        *,
        baud: int = 9600,
        beat_s: float = 0.05,
        obeys: Mapping[bytes, Callable[["ScriptedReceiver"], None]] = {},
    ) -> None:
        self.says = says
        self.baud = baud
        self.heard = b""
        self._beat_s = beat_s
        self._obeys = obeys
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.device = Path(os.ttyname(self._slave))
        self._news = threading.Condition()
        self._stop = os.eventfd(0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join(LIMIT_S)
        for fd in (self._master, self._slave, self._stop):
            os.close(fd)

    def wait_for(self, command: bytes, times: int = 1) -> None:
        with self._news:
            heard = self._news.wait_for(lambda: self.heard.count(command) >= times, LIMIT_S)
        assert heard, f"{command!r} did not come {times} times: {self.heard!r}"

    @property
    def speed(self) -> int:
        """The baud rate of the line."""
        constant = termios.tcgetattr(self._slave)[5]
        return next(
            int(name[1:])
            for name, value in vars(termios).items()
            if name[0] == "B" and name[1:].isdecimal() and value == constant
        )

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        poll.register(self._master, select.POLLIN)
        while True:
            ready = dict(poll.poll(self._beat_s * 1000))
            if self._stop in ready:
                return
            if self._master in ready:
                self._listen()
            else:
                self._speak()

    def _listen(self) -> None:
        data = os.read(self._master, 4096)
        with self._news:
            self.heard += data
            self._news.notify_all()
        for command, act in self._obeys.items():
            if command in data:
                act(self)

    def _speak(self) -> None:
        said = self.says
        if self.speed != self.baud:
            said = bytes((byte * 7 + 0x81) & 0xFF for byte in said)
        with contextlib.suppress(BlockingIOError):
            os.write(self._master, said)
