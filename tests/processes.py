"""Our commands as real processes, for tests from outside."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parent.parent
AGENT = (sys.executable, "-m", "telemetry_agent")


def environment(extra: Mapping[str, str] = {}) -> dict[str, str]:
    """Our environment without the config's variables, with this checkout first on the path."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TELEMETRY_AGENT_")}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **extra}


class Running:
    """A process whose output lines are collected as they come."""

    def __init__(self, *args: str, env: Mapping[str, str] = {}, cwd: Path | None = None) -> None:
        self.args = args
        self.process = subprocess.Popen(
            args,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(env),
            cwd=cwd,
            text=True,
            errors="replace",
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._news = threading.Condition()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            threading.Thread(target=self._collect, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    def _collect(self, stream: IO[str], lines: list[str]) -> None:
        for line in stream:
            with self._news:
                lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for_line(self, pattern: str, limit_s: float = 60) -> re.Match[str]:
        """Wait for the first line of stdout or stderr that matches the pattern."""

        def found() -> re.Match[str] | None:
            return next(
                (m for line in self.out + self.err if (m := re.search(pattern, line))), None
            )

        with self._news:
            self._news.wait_for(lambda: found() or not self._alive(), limit_s)
            match = found()
        assert match, f"no line with {pattern!r} from {self.args}:\n{self.text()}"
        return match

    def wait_until(self, said: Callable[[], bool], limit_s: float = 60) -> None:
        """Check ``said`` after each line until it is true."""
        with self._news:
            self._news.wait_for(lambda: said() or not self._alive(), limit_s)
        assert said(), self.text()

    def _alive(self) -> bool:
        return any(reader.is_alive() for reader in self._readers)

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, limit_s: float = 60, *, by: int = signal.SIGTERM) -> int:
        """Send the signal; wait until the process has ended and its last lines are read."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(by)
        return self.wait(limit_s)

    def wait(self, limit_s: float = 60) -> int:
        status = self.process.wait(limit_s)
        for reader in self._readers:
            reader.join(60)
        return status

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def text(self) -> str:
        """All of its output."""
        return "\n".join(["-- out", *self.out, "-- err", *self.err])


@contextlib.contextmanager
def running(*args: str, env: Mapping[str, str] = {}, cwd: Path | None = None) -> Iterator[Running]:
    """A process that ends with the block. It must not print a traceback."""
    started = Running(*args, env=env, cwd=cwd)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
        started.wait()
    assert not any(line.startswith("Traceback (most") for line in started.err), started.text()


def agent(
    *args: str, env: Mapping[str, str] = {}, cwd: Path | None = None
) -> contextlib.AbstractContextManager[Running]:
    """A command of the agent as a process."""
    return running(*AGENT, *args, env=env, cwd=cwd)


def run_agent(
    *args: str,
    env: Mapping[str, str] = {},
    cwd: Path | None = None,
    stdin: bytes = b"",
    timeout_s: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run a command of the agent to its end. It must not print a traceback."""
    done = subprocess.run(
        [*AGENT, *args],
        input=stdin.decode("latin-1"),
        capture_output=True,
        text=True,
        encoding="latin-1" if stdin else "utf-8",
        timeout=timeout_s,
        env=environment(env),
        cwd=cwd,
        check=False,
    )
    assert "Traceback (most recent" not in done.stderr, done.stderr
    return done
