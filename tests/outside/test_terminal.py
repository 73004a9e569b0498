"""Live output on a terminal."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from misbehaving import Server
from processes import AGENT, environment
from rig import record_backlog, started, write_config

LIMIT_S = 60


class Terminal:
    """A command with its own terminal."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.seen = b""
        self._master = master

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    def read_until(self, text: bytes, times: int = 1) -> None:
        while self.seen.count(text) < times:
            assert self._read(), self.seen

    def read_all(self) -> None:
        with contextlib.suppress(OSError):  # the terminal of an ended process
            while self._read():
                pass

    def _read(self) -> bytes:
        assert select.select([self._master], [], [], LIMIT_S)[0], self.seen
        data = os.read(self._master, 65536)
        self.seen += data
        return data


@contextlib.contextmanager
def terminal(*args: str, columns: int = 200, kind: str = "xterm") -> Iterator[Terminal]:
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*AGENT, *args],
        env=environment({"TERM": kind, "COLUMNS": str(columns)}),
        stdin=slave,
        stdout=slave,
        stderr=slave,
    ) as process:
        os.close(slave)
        try:
            yield Terminal(process, master)
        finally:
            process.kill()
            os.close(master)


def test_the_status_is_watched_until_ctrl_c(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with terminal("status", "--watch", "--config", str(config)) as watch:
        watch.read_until(b"no agent runs")
        with started(config):
            watch.read_until(b"recording: absent for ", times=2)
        watch.process.send_signal(signal.SIGINT)
        watch.read_all()
        assert watch.process.wait(LIMIT_S) == 130
    assert b"Traceback" not in watch.seen


def test_a_terminal_that_cannot_move_the_cursor_gets_lines_without_colours(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with terminal("status", "--watch", "--config", str(config), kind="dumb") as watch:
        watch.read_until(b"no agent runs\r\n", times=2)
    with terminal("doctor", "--config", str(config), kind="dumb") as doctor:
        doctor.read_all()
    assert b"fail" in doctor.seen
    assert b"\x1b" not in watch.seen + doctor.seen


def test_a_drain_shows_how_far_it_is(tmp_path: Path) -> None:
    record_backlog(tmp_path, 5)
    with Server() as server:
        config = write_config(tmp_path, "/dev/none", server.url)
        with terminal("drain", "--config", str(config)) as drain:
            drain.read_all()
            assert drain.process.wait(LIMIT_S) == 0
    assert b"100%" in drain.seen
    assert b"\x1b[2K" in drain.seen[drain.seen.rindex(b"100%") :]  # no old text is left
    assert drain.seen.endswith(b"nothing is left: 5 delivered\r\n")


def test_the_doctors_words_fit_into_80_columns(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with terminal("doctor", "--config", str(config), columns=80) as doctor:
        doctor.read_all()
    lines = re.sub(r"\x1b\[[\d;]*m", "", doctor.seen.decode()).splitlines()
    wide = [line for line in lines if len(line) > 80 and " " in line[25:].strip()]
    assert not wide, wide
    assert any(line.startswith(" " * 27) for line in lines)  # a remedy continues in its own column


def test_a_no_to_the_question_of_discard_deletes_nothing_and_says_so(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with terminal("queue", "discard", "--all", "--config", str(config)) as discard:
        discard.read_until(b"[y/N]: ")
        discard.type(b"n\n")
        discard.read_all()
        assert discard.process.wait(LIMIT_S) == 1
    assert discard.seen.endswith(b"telemetry-agent: nothing was deleted\r\n")


def test_a_drain_in_vain_leaves_no_bar_that_seems_to_go_on(tmp_path: Path) -> None:
    record_backlog(tmp_path, 5)
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with terminal("drain", "--config", str(config)) as drain:
        drain.read_all()
        assert drain.process.wait(LIMIT_S) == 69
    bar, _, end = drain.seen.rpartition(b"\x1b[2K")
    assert b"unreachable" in bar
    assert b"5 fixes wait: connection refused" in end
    assert b"%" not in end
