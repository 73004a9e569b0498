"""The agent as a real process, with a simulated receiver and an endpoint."""

import contextlib
import itertools
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from processes import Running, agent

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.stats import QueueStats
from telemetry_agent.errors import counted
from telemetry_agent.lab.drive import Drive
from telemetry_agent.lab.simulator import Simulator

START_MS = 1_795_435_200_000  # 2026-11-23T12:00:00Z

Name = tuple[str, int]


def write_config(
    folder: Path, source: str, url: str, *, upload: Mapping[str, Any] = {}, **sections: Any
) -> Path:
    """Write a config with short waits. Its request timeout allows for a busy machine."""
    tables: dict[str, Mapping[str, Any]] = {
        "gps": {"source": source, "baud": 115200},
        "sampling": {"interval": "0s"},
        "queue": {"path": str(folder / "queue.db"), "commit_every": "100ms"},
        "upload": {
            "url": url,
            "flush_every": "200ms",
            "timeout": "30s",
            "backoff_initial": "100ms",
            "backoff_max": "500ms",
            "resume_spread": "100ms",
            **upload,
        },
        "connectivity": {"probe_every": "200ms"},
        "log": {"level": "debug"},
    }
    for section, values in sections.items():
        tables[section] = {**tables.get(section, {}), **values}
    lines = ['device = "van-07"']
    for section, values in tables.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path = folder / "config.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@contextlib.contextmanager
def simulated(
    folder: Path, epochs: int | None = None, *, rate_hz: float = 20, first: int = 0
) -> Iterator[Simulator]:
    """A receiver at ``folder/gps``."""
    drive = Drive(START_MS, interval_ms=round(1000 / (rate_hz or 20)))
    said = itertools.islice(drive, first, None if epochs is None else first + epochs)
    with Simulator(said, rate_hz=rate_hz, link=folder / "gps") as simulator:
        yield simulator


def record_backlog(folder: Path, fixes: int) -> None:
    """Fill the queue as an agent without a network does."""
    recording = folder / "drive.nmea"
    drive = Drive(START_MS)
    recording.write_bytes(b"".join(drive.epoch(i) for i in range(fixes)))
    config = write_config(folder, f"file://{recording}", "http://127.0.0.1:9/")
    with started(config) as agent:
        agent.wait_for_line(f"replayed {counted(fixes, 'fix', 'fixes')}", 60 + fixes / 50)
        assert agent.end() == 0
    recording.unlink()


@contextlib.contextmanager
def started(config: Path, env: Mapping[str, str] = {}) -> Iterator[Running]:
    """Run the daemon; yield it when it is up."""
    with agent("run", "--config", str(config), env=env) as daemon:
        daemon.wait_for_line("telemetry-agent .* records ")
        yield daemon


def stats(folder: Path) -> QueueStats:
    """The queue's statistics, while the agent is stopped."""
    with AckQueue(folder / "queue.db") as queue:
        return queue.stats()


def committed(database: Path) -> dict[Name, tuple[int, str]]:
    """Name -> state and time of each fix on disk, read by plain SQLite."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT stream, seq, state, time FROM fixes").fetchall()
    found = {(stream, seq): (state, time) for stream, seq, state, time in rows}
    assert len(found) == len(rows), "two rows have one name"
    return found
