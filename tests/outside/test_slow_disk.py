"""A disk that takes seconds to sync: the agent reads on, loses nothing, and no thread is stuck."""

import json
import socket
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
from peers import program
from processes import AGENT, Running, run_agent, running
from rig import START_MS, simulated, write_config
from watchdog import watchdog

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.lab.drive import Drive
from telemetry_agent.lab.endpoint import Endpoint

RATE_HZ = 20
AT_ONCE = {"commit_every": "0s"}
NOTING = Path(__file__).parent.parent / "daemon/hanging_disk.py"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("sync_s", [2, 10])
def test_it_holds_up_no_reading_where_each_fix_is_committed_at_once(
    sync_s: int, tmp_path: Path
) -> None:
    slow = (
        *(program("strace"), "-D", "-f", "-qqq", "--seccomp-bpf", "-o", "/dev/null"),
        *("-e", "trace=fdatasync,fsync", "-e", f"inject=fdatasync,fsync:delay_enter={sync_s}s"),
    )
    with (
        Endpoint("127.0.0.1:0", tmp_path / "received.db") as endpoint,
        simulated(tmp_path, rate_hz=RATE_HZ) as receiver,
        watchdog(tmp_path) as manager,
    ):
        config = write_config(tmp_path, str(receiver.device), endpoint.url, queue=AT_ONCE)
        AckQueue(tmp_path / "queue.db").close()  # creating it takes a dozen syncs
        command = (*slow, *AGENT, "run", "--config", str(config))
        with running(*command, env=manager.environment) as daemon:
            daemon.wait_for_line("telemetry-agent .* records ", limit_s=300)
            fixes, began_s = read(config), time.monotonic()
            manager.wait(6 * sync_s)
            fixes, took_s = read(config) - fixes, time.monotonic() - began_s
            assert fixes > 10 * took_s / sync_s  # a delayed reader gets one pty buffer a sync
            receiver.hush()
            assert endpoint.wait_for(receiver.sent, 12 * sync_s + 60), daemon.text()
            assert manager.longest_gap_s() < manager.LIMIT_S, daemon.text()
            assert daemon.end() == 0, daemon.text()
        assert not any("stuck" in line or "lost" in line for line in daemon.err)


def read(config: Path) -> int:
    told = json.loads(run_agent("status", "--json", "--config", str(config)).stdout)
    return int(told["receiver"]["fixes"])


def test_what_one_read_brought_is_one_commit(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sender:
        sender.settimeout(60)
        source = f"tcp://127.0.0.1:{sender.getsockname()[1]}"
        config = write_config(tmp_path, source, "http://127.0.0.1:9/", queue=AT_ONCE)
        with running(sys.executable, str(NOTING), "run", "--config", str(config)) as daemon:
            connection, _ = sender.accept()
            with connection:
                # A commit begins 50 ms after the first fix. On a busy machine the other fixes may
                # come later. If each fix had its own commit, no try would have
                # a larger one.
                drive = iter(Drive(START_MS))
                for number in range(1, 21):
                    connection.sendall(b"".join(islice(drive, 30)))
                    # The last fix may wait for the next epoch.
                    daemon.wait_until(partial(has_written, daemon, 30 * number - 1))
                    if largest(daemon) >= 20:
                        break
                assert largest(daemon) >= 20, daemon.text()
                assert daemon.end() == 0


def commits(daemon: Running) -> list[int]:
    return [int(line.removeprefix("wrote ")) for line in daemon.out if line.startswith("wrote ")]


def has_written(daemon: Running, fixes: int) -> bool:
    return sum(commits(daemon)) >= fixes


def largest(daemon: Running) -> int:
    return max(commits(daemon), default=0)
