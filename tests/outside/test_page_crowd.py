"""Viewers of the page who use up what file descriptors there are."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from ports import free_port
from processes import AGENT, running
from rig import simulated, write_config

from telemetry_agent.lab.endpoint import Endpoint

DESCRIPTORS = 64  # the agent without viewers has 30
RATE_HZ = 20


@contextlib.contextmanager
def crowd(port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that ask for events and come back when they are dropped."""
    with contextlib.ExitStack() as stack:
        lines = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            for _ in range(count)
        ]
        for line in lines:
            with contextlib.suppress(OSError):
                line.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        yield lines


def answers(port: int) -> bool:
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=60) as line,
    ):
        line.sendall(b"GET /state HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        return line.recv(15) == b"HTTP/1.1 200 OK"
    return False


def test_recording_and_delivery_go_on_and_the_log_stays_short(tmp_path: Path) -> None:
    port = free_port()
    limited = ("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}")
    with (
        Endpoint("127.0.0.1:0", tmp_path / "received.db") as endpoint,
        simulated(tmp_path, rate_hz=RATE_HZ) as receiver,
    ):
        config = write_config(
            tmp_path,
            str(receiver.device),
            endpoint.url,
            page={"listen": f"127.0.0.1:{port}"},
            log={"level": "info"},
        )
        with running(*limited, *AGENT, "run", "--config", str(config)) as daemon:
            daemon.wait_for_line("the page is at")
            assert endpoint.wait_for(5, 60), daemon.text()
            before, began_s = len(daemon.err), time.monotonic()
            for _ in range(3):
                with crowd(port, 120):
                    endpoint.disconnect()  # a new connection needs a descriptor
                    endpoint.reconnect()
                    assert endpoint.wait_for(endpoint.count() + 3 * RATE_HZ, 60), daemon.text()
            minutes = 1 + (time.monotonic() - began_s) // 60
            said = [line for line in daemon.err[before:] if "deliver" not in line]
            assert len(said) <= 2 * minutes, daemon.text()
            until_s = time.monotonic() + 60
            while not answers(port):  # the crowd is being let go
                assert time.monotonic() < until_s
            receiver.hush()
            assert endpoint.wait_for(receiver.sent, 60), daemon.text()
            assert daemon.end() == 0
