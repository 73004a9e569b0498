"""nginx and Caddy in front of an endpoint: their limits and their error pages."""

import contextlib
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from once import mostly_once
from peers import caddy, nginx, wait_until_answers
from ports import free_port
from processes import AGENT, Running, running
from uploading import Uploading

Front = Callable[[Path, str], AbstractContextManager[str]]


def strict_nginx(folder: Path, url: str) -> AbstractContextManager[str]:
    return nginx(folder, url, "client_max_body_size 2k;", "proxy_read_timeout 5s;")


def strict_caddy(folder: Path, url: str) -> AbstractContextManager[str]:
    limit = "request_body {\n\t\tmax_size 2KB\n\t}"
    patience = "transport http {\n\t\t\tresponse_header_timeout 5s\n\t\t}"
    return caddy(folder, url, limit, patience)


@contextlib.contextmanager
def endpoint(folder: Path, port: int) -> Iterator[Running]:
    listen = ("--listen", f"127.0.0.1:{port}", "--db", str(folder / "received.db"))
    with running(*AGENT, "receive", *listen) as server:
        wait_until_answers(port)
        yield server


def settle(made: Uploading) -> None:
    """Work until nothing is left to send."""
    for _ in range(60):
        wait_s = made.work()
        if wait_s is None:
            return
        made.clock.advance(wait_s)
    raise AssertionError(made.uploader.status())


@pytest.mark.parametrize("front", mostly_once([strict_nginx, strict_caddy], 1))
def test_what_a_proxy_refuses_or_cannot_pass_on_arrives_later(front: Front, tmp_path: Path) -> None:
    port = free_port()
    with front(tmp_path, f"http://127.0.0.1:{port}/") as url:
        made = Uploading(tmp_path, url, "native")
        made.put(1500)
        assert made.work() is not None
        assert "502" in str(made.uploader.status().last_error)
        with endpoint(tmp_path, port) as server:
            settle(made)
            assert made.counts == (0, 0, 1500, 0)
            # For a larger body, nginx answers 413. Caddy answers 502; after four waits, size is
            # suspected.
            assert made.uploader.status().failed_requests <= 7
            server.send(signal.SIGSTOP)
            os.waitid(os.P_PID, server.process.pid, os.WSTOPPED)
            made.put(30)
            made.clock.advance(120)
            assert made.work() is not None
            assert "504" in str(made.uploader.status().last_error)
            server.send(signal.SIGCONT)
            settle(made)
        assert made.counts == (0, 0, 1530, 0)
        made.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "received.db")) as read:
        stored = [seq for (seq,) in read.execute("SELECT seq FROM fixes ORDER BY seq")]
    assert stored == list(range(1, 1531))
