"""Viewers of the page use up the file descriptors or the memory."""

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from area_map import write as write_map
from ports import free_port
from processes import AGENT, running
from rig import simulated, started, write_config

from telemetry_agent.lab.endpoint import Endpoint
from telemetry_agent.page.map_file import LARGEST_RANGE_BYTES
from telemetry_agent.page.server import bound

DESCRIPTORS = 64  # the agent without viewers uses 30
RATE_HZ = 20


@contextlib.contextmanager
def crowd(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Open ``count`` connections that request events and come back when they are dropped."""
    with contextlib.ExitStack() as stack:
        lines = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            for _ in range(count)
        ]
        for line in lines:
            with contextlib.suppress(OSError):
                line.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        yield lines


def idle_viewer(port: int) -> socket.socket:
    """A connection of a viewer that reads very little."""
    viewer = socket.socket()
    viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    viewer.settimeout(60)
    viewer.connect(("127.0.0.1", port))
    return viewer


def peak_bytes(pid: int) -> int:
    """Return the peak memory of a process."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


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
            while not answers(port):  # the agent drops the crowd
                assert time.monotonic() < until_s
            receiver.hush()
            assert endpoint.wait_for(receiver.sent, 60), daemon.text()
            assert daemon.end() == 0


def test_viewers_who_do_not_read_the_map_take_little_memory(tmp_path: Path) -> None:
    """Otherwise they could end the service at its memory limit."""
    port = free_port()
    area = write_map(tmp_path / "area.pmtiles")
    os.truncate(area, 2 * LARGEST_RANGE_BYTES)
    page = {"listen": f"127.0.0.1:{port}", "map": str(area)}
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/", page=page)
    with started(config) as daemon, contextlib.ExitStack() as stack:
        daemon.wait_for_line("the page is at")
        before = peak_bytes(daemon.process.pid)
        for _ in range(32):
            viewer = stack.enter_context(idle_viewer(port))
            part = f"Range: bytes=0-{LARGEST_RANGE_BYTES - 1}"
            viewer.sendall(
                f"GET /map.pmtiles HTTP/1.1\r\nHost: 127.0.0.1\r\n{part}\r\n\r\n".encode()
            )
            assert viewer.recv(12) == b"HTTP/1.1 206"
        assert peak_bytes(daemon.process.pid) < before + 8 * LARGEST_RANGE_BYTES
        assert daemon.end() == 0


def test_the_kernel_keeps_little_of_what_a_viewer_does_not_read() -> None:
    with bound("127.0.0.1", 0) as listener, idle_viewer(listener.getsockname()[1]):
        connection, _ = listener.accept()
        with connection:
            connection.setblocking(False)
            kept = 0
            with contextlib.suppress(BlockingIOError):
                while kept < 1 << 20:
                    kept += connection.send(bytes(1 << 16))
    assert kept < 1 << 20
