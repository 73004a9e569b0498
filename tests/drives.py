"""Send a recorded drive to a server, with an outage, a lost answer and a kill."""

import contextlib
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gate import Gate
from polling import wait_until
from processes import run_agent
from rig import started, stats, write_config

FIXES = int(os.environ.get("TELEMETRY_AGENT_DRIVE", "2000"))  # in the drive to each server
BATCH = 200
AUDIT_S = 120


Start = Callable[[], contextlib.AbstractContextManager[str]]


def drive_to(
    server: str | Start,
    folder: Path,
    backlog: Path,
    *,
    cut_after: int,
    is_complete: Callable[[], bool] = lambda: True,
    **upload: Any,
) -> list[dict[str, Any]]:
    """Send the fixes of the queue ``backlog``; return them, without absent values.

    The first connection is cut in the middle of a request. On a later connection an answer is lost;
    then the server and the agent are killed. ``cut_after``: bytes before each of these. A
    ``server`` given as a URL is not killed. ``is_complete``: the final result of its own audit.
    """
    shutil.copytree(backlog, folder, dirs_exist_ok=True)
    start: Start = (lambda: contextlib.nullcontext(server)) if isinstance(server, str) else server
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as run:
        parts = urlsplit(run.enter_context(start()))
        gate = stack.enter_context(Gate(parts.port or 0))
        through = parts._replace(netloc=f"127.0.0.1:{gate.port}").geturl()
        upload = {"max_batch": BATCH, **upload}
        sampling = {"heartbeat": "1s"}
        config = write_config(folder, "/dev/none", through, upload=upload, sampling=sampling)
        gate.open(cut_after)
        with started(config) as agent:
            agent.wait_for_line("cannot deliver")
            gate.wait_until_shut()
            gate.open(cut_after, lose_answer=True)
            gate.wait_until_shut()
            run.close()
            agent.end(by=signal.SIGKILL)
        left = stats(folder)
        assert left.ready + left.unack > 0, "the kill came too late"
        assert left.acked > 0, "the kill came too early"
        gate.aim_at(urlsplit(run.enter_context(start())).port or 0)
        gate.open()
        with started(config) as agent:
            done = run_agent("drain", "--config", str(config), timeout_s=200)
            assert done.returncode == 0, done.stderr
            wait_until(is_complete, AUDIT_S)
            assert agent.end() == 0
            assert not any("Traceback" in line for line in agent.err)
    left = stats(folder)
    assert (left.ready, left.unack, left.ack_failed) == (0, 0, 0)
    return recorded(folder)


def recorded(folder: Path) -> list[dict[str, Any]]:
    """Every fix in the queue, including delivered ones, in the order of recording."""
    with contextlib.closing(sqlite3.connect(folder / "queue.db")) as db:
        db.row_factory = sqlite3.Row
        rows = db.execute("SELECT * FROM fixes ORDER BY time").fetchall()
    return [
        {k: row[k] for k in row.keys() if row[k] is not None and k not in {"state", "reason"}}  # noqa: SIM118
        for row in rows
    ]
