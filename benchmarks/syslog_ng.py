"""syslog-ng's disk queue with HTTP output, from Debian, for the table of ``drain.py``.

It gets a file of plain lines while the endpoint is closed, until all of them are in its disk
buffer. Then the endpoint opens; the time from its first request to the last line is measured.
"""

import contextlib
import multiprocessing
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAM = "syslog-ng"
PACKAGES = "syslog-ng-core syslog-ng-mod-http"
LINE_BYTES = 170
_LIMIT_S = 300.0
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_CONFIG = """\
@version: 3.38
options {{ stats-level(1); }};
source lines {{ file("{folder}/lines" flags(no-parse)); }};
destination endpoint {{
    http(
        url("http://127.0.0.1:{port}/") method("POST") body("$MSG") time-reopen(1)
        batch-lines(1000) batch-timeout(1000)
        disk-buffer(reliable(yes) dir("{folder}") disk-buf-size({disk_bytes}) mem-buf-size(1048576))
    );
}};
log {{ source(lines); destination(endpoint); flags(flow-control); }};
"""


def installed() -> bool:
    """Whether the packages are installed."""
    return shutil.which(PROGRAM) is not None


def drain(folder: Path, lines: int) -> tuple[float, float]:
    """Send this number of lines from its disk buffer to an endpoint that only counts.

    Returns:
        Seconds by the clock, and of its processor time.
    """
    with (folder / "lines").open("wb") as file:
        for number in range(lines):
            file.write(b"%0*d\n" % (LINE_BYTES - 1, number))
    with _endpoint(lines) as (port, connection), _running(folder, port, lines) as process:
        _wait_until_queued(folder, lines)
        before_s = _processor_s(process.pid)
        connection.send("open")
        if not connection.poll(_LIMIT_S):
            raise TimeoutError(f"{PROGRAM} did not deliver {lines} lines in {_LIMIT_S} s")
        return connection.recv(), _processor_s(process.pid) - before_s


def _count_lines(connection: Any, lines: int) -> None:
    """Send the port; listen when asked to; send how long the lines took."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    connection.send(listener.getsockname()[1])
    connection.recv()
    listener.listen()
    began_s, left = 0.0, lines
    while left > 0:
        client, _ = listener.accept()
        with client, client.makefile("rb") as stream:
            began_s = began_s or time.perf_counter()
            while left > 0 and (length := _read_head(stream)) is not None:
                left -= stream.read(length).count(b"\n") + 1
                client.sendall(_ANSWER)
    connection.send(time.perf_counter() - began_s)


def _read_head(stream: Any) -> int | None:
    """The length of the body; ``None``: the client has closed the connection."""
    length: int | None = None
    while line := stream.readline().strip().lower():
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return length


@contextlib.contextmanager
def _endpoint(lines: int) -> Iterator[tuple[int, Any]]:
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    process = processes.Process(target=_count_lines, args=(theirs, lines), daemon=True)
    process.start()
    try:
        yield ours.recv(), ours
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def _running(folder: Path, port: int, lines: int) -> Iterator[subprocess.Popen[bytes]]:
    disk_bytes = max(1 << 20, 3 * LINE_BYTES * lines)
    (folder / "syslog-ng.conf").write_text(
        _CONFIG.format(folder=folder, port=port, disk_bytes=disk_bytes)
    )
    argv = [PROGRAM, "--foreground", "--no-caps", f"--cfgfile={folder}/syslog-ng.conf"]
    argv += [f"--persist-file={folder}/persist", f"--pidfile={folder}/pid"]
    argv += [f"--control={folder}/control"]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def _wait_until_queued(folder: Path, lines: int) -> None:
    until_s = time.monotonic() + _LIMIT_S
    while _queued(folder) < lines:
        if time.monotonic() > until_s:
            raise TimeoutError(f"{PROGRAM} did not queue {lines} lines in {_LIMIT_S} s")
        time.sleep(0.2)


def _queued(folder: Path) -> int:
    argv = ["syslog-ng-ctl", "stats", f"--control={folder}/control"]
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    return sum(
        int(line.rpartition(";")[2])
        for line in said.splitlines()
        if line.startswith("dst.http;") and ";queued;" in line
    )


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
