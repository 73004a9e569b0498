"""The corruption proof with a real agent: it records, delivers and exits on a damaged queue."""

import json
import random
import re
import shutil
import tempfile
import time
from contextlib import closing
from pathlib import Path

from ackqueue.corruption import (
    LOG_LINES_MAX,
    STATES,
    BrokenError,
    Found,
    Stock,
    corrupt,
    only_the_audit_knows,
)
from judge import store
from misbehaving import Server
from processes import agent, run_agent
from rig import simulated, write_config

from telemetry_agent.fields import fix_fields
from telemetry_agent.lab.endpoint.database import FixDatabase
from telemetry_agent.lab.native_request import parse

END_S = 60.0


def prove_agent(stocks: dict[str, Stock], seed: int, limit_s: float) -> Found:
    """Run one case.

    Args:
        stocks: The queues, by state.
        seed: The seed of the case.
        limit_s: The maximum time from the start of the agent until its first fix is on disk.

    Raises:
        BrokenError: With the seed, the state of the queue, and the corruption.
    """
    draw = random.Random(seed)
    state = draw.choice(STATES)
    with tempfile.TemporaryDirectory(prefix="corrupted-agent-") as name:
        folder = Path(name) / "case"
        shutil.copytree(stocks[state].folder, folder)
        done = corrupt(folder, draw)
        what = f"agent, seed {seed}, {state}: {' and '.join(done)}"
        try:
            return _use(stocks[state], folder, limit_s, may_miss=only_the_audit_knows(done))
        except (AssertionError, OSError, ValueError) as error:
            raise BrokenError(f"{what}: {type(error).__name__}: {error}") from error


def _use(stock: Stock, folder: Path, limit_s: float, *, may_miss: bool) -> Found:
    with simulated(folder, rate_hz=10) as simulator, Server() as server:
        sampling = {"heartbeat": "1s"}
        config = write_config(folder, str(simulator.device), server.url, sampling=sampling)
        began_s = time.monotonic()
        with agent("run", "--config", str(config)) as running:
            # A delivered fix is already on disk.
            server.wait_for(lambda s: any(name not in stock.records for name in s.ledger))
            took_s = time.monotonic() - began_s
            server.wait_for(
                lambda s: any("streams" in (r.json.get("agent") or ()) for r in s.requests)
            )
            status = json.loads(run_agent("status", "--json", "--config", str(config)).stdout)
            began_s = time.monotonic()
            exit_status = running.end()
            ended_s = time.monotonic() - began_s
        text = "\n".join([*running.out, *running.err])
        missing = _missing(stock, server)
        invented, altered = _compare(stock, server)
    lines = [
        line for line in text.splitlines() if re.match(r"\S+Z (warning|error|critical): ", line)
    ]
    log_is_confessed = "uncounted" in status["queue"]["lost"]
    faults = [
        took_s > limit_s and f"recorded after {took_s:.1f} s",
        exit_status != 0 and f"ended with status {exit_status}",
        ended_s > END_S and f"ended after {ended_s:.1f} s",
        not status["queue"] and "status shows no queue",
        invented and f"{invented} invented",
        altered and f"{altered} altered",
        missing and not (log_is_confessed and may_miss) and f"{missing} missed by the audit",
        "Traceback" in text and "a traceback",
        len(lines) > LOG_LINES_MAX and f"{len(lines)} log lines",
    ]
    assert not any(faults), ", ".join(str(fault) for fault in faults if fault) + f"\n{text[-3000:]}"
    return Found(took_s, lines, 0, 0, 0, 0, log_is_confessed)


def _missing(stock: Stock, server: Server) -> int:
    """Count the fixes that the audit misses at an endpoint that accepted all requests."""
    with closing(FixDatabase(Path(":memory:"))) as database:
        store(database, stock.arrived)
        for request in server.requests:
            encoding = request.headers.get("content-encoding", "identity")
            database.put(parse(request.body, encoding))
        return sum(stream["missing"] for said in database.audits() for stream in said["streams"])


def _compare(stock: Stock, server: Server) -> tuple[int, int]:
    """Count the fixes of old streams that were never recorded, and those with changed values."""
    old = {stream for stream, _ in stock.records}
    invented = altered = 0
    for request in server.requests:
        for fields in request.json["fixes"]:
            name = request.json["stream"], fields.pop("seq")
            record = stock.records.get(name)
            if record is not None:
                altered += fields != fix_fields(record.fix)
            else:
                invented += name[0] in old
    return invented, altered
