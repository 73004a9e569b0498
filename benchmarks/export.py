"""What an export costs: time, memory, and its effect on a daemon that records meanwhile.

::

    python benchmarks/export.py [--fixes 1000000] [--folder FOLDER]

Fills two queues, one with a tenth of the fixes, and runs ``telemetry-agent export`` for each
format: without a daemon, when the command opens the queue itself, and with one that records 10
fixes a second. Memory is the most that a process ever held (``VmHWM``): if it grew with the number
of fixes, the two columns would differ. "log" is the greatest length of SQLite's write-ahead log: it
would grow if a reader held the database. The exit status is 1 if the daemon missed a fix.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from growth import fill

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.export import FORMATS
from telemetry_agent.lab.drive import Drive
from telemetry_agent.lab.simulator import Simulator

AGENT = (sys.executable, "-m", "telemetry_agent")
RATE_HZ = 10
START_MS = 1_795_435_200_000


@dataclass
class Run:
    """One export, and the highest values while it ran."""

    took_s: float = 0.0
    command_kb: int = 0
    daemon_kb: int = 0
    log_bytes: int = 0


def export(folder: Path, name: str, daemon: int | None = None) -> Run:
    """Run the command once; ``daemon`` is the process that it asks, if any."""
    log = folder / "queue.db-wal"
    run = Run()
    began_s = time.monotonic()
    command = [*AGENT, "export", "--config", str(folder / "config.toml")]
    command += ["--output", str(folder / f"track.{name}")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            run.command_kb = max(run.command_kb, peak_kb(process.pid))
            if log.exists():
                run.log_bytes = max(run.log_bytes, log.stat().st_size)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
    run.took_s = time.monotonic() - began_s
    if process.returncode:
        sys.exit("the export failed")
    if daemon is not None:
        run.daemon_kb = peak_kb(daemon)
    return run


def peak_kb(pid: int) -> int:
    """The most memory that a process held; 0 if it has ended."""
    peak = Path("/proc", str(pid), "status").read_text().partition("VmHWM:")[2]
    return int(peak.split()[0]) if peak else 0


def beside_a_daemon(folder: Path, name: str) -> Run:
    """Run it while a daemon records, and check that no fix is missing."""
    drive = Drive(START_MS, interval_ms=1000 // RATE_HZ)
    with (
        Simulator(drive, rate_hz=RATE_HZ, link=folder / "gps"),
        subprocess.Popen(
            [*AGENT, "run", "--config", str(folder / "config.toml")], stderr=subprocess.PIPE
        ) as daemon,
    ):
        assert daemon.stderr
        while b" records " not in daemon.stderr.readline():
            pass
        run = export(folder, name, daemon.pid)
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate()
    with AckQueue(folder / "queue.db") as queue:
        newest = queue.newest(round(run.took_s * RATE_HZ))
    times = [record.fix.time_ms for record in newest if record.stream == newest[0].stream]
    if any(later - time_ms != 1000 // RATE_HZ for later, time_ms in pairwise(times)):
        sys.exit("a fix was not recorded")
    return run


def prepare(folder: Path, fixes: int) -> Path:
    """A queue that is not purged, and its config."""
    folder.mkdir()
    fill(folder / "queue.db", fixes, delivered=True)
    (folder / "config.toml").write_text(
        f'device = "van-07"\n[gps]\nsource = "{folder}/gps"\n[sampling]\ninterval = "0s"\n'
        f'[queue]\npath = "{folder}/queue.db"\nkeep_delivered = "10000d"\n'
        '[upload]\nurl = "http://127.0.0.1:9/"\n'
    )
    return folder


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description="What an export costs.")
    parser.add_argument("--fixes", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to write")
    options = parser.parse_args()
    counts = (options.fixes // 10, options.fixes)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folders = [prepare(Path(name) / str(count), count) for count in counts]
        print(f"{'':<10}{'file':>10}{'fixes/s':>10}{'MB of the command, a tenth and all':>38}")
        for kind in FORMATS:
            few, all_ = (export(folder, kind) for folder in folders)
            size = (folders[1] / f"track.{kind}").stat().st_size
            print(
                f"{kind:<10}{size / 1e6:>7.0f} MB{counts[1] / all_.took_s:>10,.0f}"
                f"{few.command_kb / 1024:>30.1f}{all_.command_kb / 1024:>8.1f}"
            )
        print(f"\nbeside a daemon that records {RATE_HZ} fixes a second")
        print(f"{'':<10}{'fixes/s':>10}{'command, MB':>18}{'daemon, MB':>18}{'log, MB':>14}")
        for kind in FORMATS:
            few, all_ = (beside_a_daemon(folder, kind) for folder in folders)
            print(
                f"{kind:<10}{counts[1] / all_.took_s:>10,.0f}"
                f"{few.command_kb / 1024:>10.1f}{all_.command_kb / 1024:>8.1f}"
                f"{few.daemon_kb / 1024:>10.1f}{all_.daemon_kb / 1024:>8.1f}"
                f"{few.log_bytes / 1e6:>7.2f}{all_.log_bytes / 1e6:>7.2f}"
            )


if __name__ == "__main__":
    main()
