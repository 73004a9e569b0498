"""The agent handles signals during every kind of wait."""

import json
import re
import signal
import sys
from pathlib import Path

import pytest
from ackqueue import damage
from polling import wait_until
from processes import Running, agent, run_agent, running
from rig import simulated, write_config

from telemetry_agent.ackqueue.queue import AckQueue

HANGING = Path(__file__).parent.parent / "daemon/hanging_disk.py"
HANGING_MOVE = Path(__file__).parent.parent / "daemon/hanging_move.py"
HANGING_STATE = Path(__file__).parent.parent / "daemon/hanging_state.py"
SLOW_CARRIER = Path(__file__).parent.parent / "daemon/slow_carrier.py"
NO_THREAD_LEFT = Path(__file__).parent.parent / "daemon/no_thread_left.py"


SIGNAL_AT_IMPORT = """
import builtins, os, sys
from telemetry_agent.cli import main
imports = builtins.__import__
def signals(name, *others):
    if name == "telemetry_agent.daemon.service":
        builtins.__import__ = imports
        for number in map(int, sys.argv[2:]):
            os.kill(os.getpid(), number)
    return imports(name, *others)
builtins.__import__ = signals
main(["run", "--config", sys.argv[1]])
"""


@pytest.mark.parametrize("last", [signal.SIGTERM, signal.SIGINT])
def test_signals_while_the_modules_are_loaded(tmp_path: Path, last: int) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    command = (sys.executable, "-c", SIGNAL_AT_IMPORT, str(config))
    with running(*command, str(int(signal.SIGHUP)), str(int(last))) as daemon:
        ends_in_time(daemon)


LOST_AT_IMPORT = """
import builtins, os, sys, weakref
from telemetry_agent.cli import main
imports = builtins.__import__
class Lock: pass
def interrupts(name, *others):
    if name == sys.argv[1]:
        builtins.__import__ = imports
        lock = Lock()
        gone = weakref.ref(lock, lambda _: os.kill(os.getpid(), 2))
        del lock
    return imports(name, *others)
builtins.__import__ = interrupts
main(sys.argv[2:])
"""
"""The interpreter cannot raise an exception where it releases the lock of an import."""


@pytest.mark.parametrize("module", ["click", "telemetry_agent.config"])
def test_ctrl_c_while_the_modules_of_a_command_are_loaded(tmp_path: Path, module: str) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    command = (sys.executable, "-c", LOST_AT_IMPORT, module, "tap", "--config", str(config))
    with running(*command) as tap:
        assert tap.wait(60) == -signal.SIGINT, tap.text()
        assert tap.err == []


def ends_in_time(daemon: Running) -> None:
    assert daemon.wait(60) == 0, daemon.text()
    assert "Traceback" not in "\n".join(daemon.err)


def test_a_disk_that_hangs_holds_up_neither_a_stop_nor_a_reload(tmp_path: Path) -> None:
    hangs = tmp_path / "hangs"
    with simulated(tmp_path, rate_hz=10) as simulator:
        config = write_config(tmp_path, str(simulator.device), "http://127.0.0.1:9/")
        command = (sys.executable, str(HANGING), "run", "--config", str(config))
        with running(*command, env={"DISK_HANGS": str(hangs)}) as daemon:
            daemon.wait_for_line("telemetry-agent .* records ")
            hangs.touch()
            daemon.wait_for_line("^hangs$")
            daemon.send(signal.SIGHUP)
            daemon.send(signal.SIGTERM)
            ends_in_time(daemon)
            said = r"the process ends without it; at most \d+ fix(es are| is) lost$"
            assert any(re.search(said, line) for line in daemon.err), daemon.text()


def test_a_state_directory_that_hangs_holds_up_neither_a_stop_nor_recording(tmp_path: Path) -> None:
    hangs, runtime = tmp_path / "hangs", tmp_path / "run"
    runtime.mkdir()
    environment = {"STATE_HANGS": str(hangs), "RUNTIME_DIRECTORY": str(runtime)}
    with simulated(tmp_path, rate_hz=10) as simulator:
        config = write_config(tmp_path, str(simulator.device), "http://127.0.0.1:9/")
        command = (sys.executable, str(HANGING_STATE), "run", "--config", str(config))
        with running(*command, env=environment) as daemon:
            daemon.wait_for_line("read-only file system; recording into .*/run")
            hangs.touch()
            daemon.wait_for_line("^hangs$")
            before = len(daemon.err)
            daemon.wait_until(
                lambda: any("every thread is in time" in line for line in daemon.err[before:])
            )
            daemon.send(signal.SIGTERM)
            ends_in_time(daemon)
    with AckQueue(runtime / "queue.db") as opened:
        assert opened.stats().ready > 0


def test_a_queue_that_hangs_while_it_moves_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with running(sys.executable, str(HANGING_MOVE), "run", "--config", str(config)) as daemon:
        daemon.wait_for_line("^hangs$")
        daemon.send(signal.SIGTERM)
        ends_in_time(daemon)
        assert daemon.err[-1].endswith("the process ends without it"), daemon.text()


def test_a_stop_and_a_reload_need_no_thread_of_the_system(tmp_path: Path) -> None:
    none_left = tmp_path / "none-left"
    with simulated(tmp_path, rate_hz=10) as simulator:
        config = write_config(
            tmp_path,
            str(simulator.device),
            "http://127.0.0.1:9/",
            queue={"commit_every": "1h"},
            upload={"token_file": str(tmp_path / "none")},  # a lease would commit
        )
        command = (sys.executable, str(NO_THREAD_LEFT), "run", "--config", str(config))
        with running(*command, env={"NO_THREAD_LEFT": str(none_left)}) as daemon:
            daemon.wait_for_line("telemetry-agent .* records ")
            wait_until(lambda: uncommitted(config) >= 10)
            none_left.touch()
            assert (
                "the system refuses the agent a thread"
                in run_agent("queue", "stats", "--config", str(config)).stderr
            )
            daemon.send(signal.SIGHUP)
            daemon.wait_for_line("refuses a thread for the uploader; it is tried again")
            daemon.send(signal.SIGTERM)
            ends_in_time(daemon)
    with AckQueue(tmp_path / "queue.db") as opened:
        assert opened.stats().ready >= 10


def uncommitted(config: Path) -> int:
    answer = run_agent("queue", "stats", "--config", str(config), "--json")
    return int(json.loads(answer.stdout)["uncommitted"])


def test_a_reload_that_comes_during_the_start_is_kept(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with agent("run", "--config", str(config)) as daemon:
        wait_until_it_begins(daemon)
        daemon.send(signal.SIGHUP)
        daemon.wait_for_line("telemetry-agent .* records ")
        daemon.wait_for_line("reloaded: ")
        assert daemon.end() == 0


def wait_until_it_begins(daemon: Running) -> None:
    """Wait for a second thread; before that, a signal ends the agent like any program."""
    threads = Path(f"/proc/{daemon.process.pid}/task")
    wait_until(lambda: len(list(threads.iterdir())) > 1)


def test_a_stop_during_the_start_is_obeyed(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with agent("run", "--config", str(config)) as daemon:
        wait_until_it_begins(daemon)
        daemon.send(signal.SIGTERM)
        ends_in_time(daemon)


def test_a_stop_while_a_damaged_file_is_carried_over(tmp_path: Path) -> None:
    damage.fill(tmp_path / "queue.db", 30_000)
    damage.damage(tmp_path / "queue.db", damage.header)
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with running(sys.executable, str(SLOW_CARRIER), "run", "--config", str(config)) as daemon:
        daemon.wait_for_line("telemetry-agent .* records ")
        daemon.send(signal.SIGTERM)
        ends_in_time(daemon)
    assert list(tmp_path.glob("queue.db.damaged-*"))  # the recovery was interrupted
