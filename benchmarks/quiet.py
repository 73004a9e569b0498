"""What the agent costs in normal operation: a fix a second, recorded and delivered.

::

    python benchmarks/quiet.py [--seconds 120] [--rate 1] [--folder FOLDER] [--systemd]

Starts ``telemetry-agent run`` as a process of its own with the default config, a simulated receiver
and the reference endpoint, waits until it has settled, and reads its values in ``/proc`` at the
beginning and the end. With ``--systemd`` (root) the agent runs under its unit, as it is shipped, in
a systemd of its own.

CPU is user and system time of all threads. RSS counts shared libraries in full; PSS counts a share
of them, and "own" (private, dirty) is what would be free again if the agent ended. Bytes are those
that the process handed to the block layer, so the folder must be on a disk, not on tmpfs. They are
fewer than the 5.1 kB of ``card.py``, which commits each fix alone: here the receiver is sometimes
ahead of a commit, which then stores two fixes.
"""

import argparse
import compileall
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from telemetry_agent.clock import Clock
from telemetry_agent.lab.drive import Drive
from telemetry_agent.lab.endpoint import Endpoint
from telemetry_agent.lab.simulator import Simulator

ROOT = Path(__file__).resolve().parent.parent
SETTLE_S = 15.0
"""The first batches, with everything that is imported or allocated once."""
UNIT = "telemetry-agent.service"


@dataclass(frozen=True)
class Account:
    """What ``/proc/PID`` says at one instant."""

    at_s: float
    cpu_s: float
    rss_mb: float
    pss_mb: float
    own_mb: float
    descriptors: int
    threads: int
    written_bytes: int
    switches: int
    """How often one of its threads went to sleep, so how often one woke."""

    @classmethod
    def of(cls, process: Path) -> "Account":
        """Read it; ``process`` is its folder in ``/proc``."""
        # The name before it may contain anything except the last bracket.
        stat = (process / "stat").read_text().rpartition(")")[2].split()
        status = _numbers(process / "status")
        maps = _numbers(process / "smaps_rollup")
        return cls(
            time.monotonic(),
            (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"),
            status["VmRSS"] / 1024,
            maps["Pss"] / 1024,
            maps["Private_Dirty"] / 1024,
            len(list((process / "fd").iterdir())),
            status["Threads"],
            _numbers(process / "io")["write_bytes"],
            sum(
                _numbers(thread / "status")["voluntary_ctxt_switches"]
                for thread in (process / "task").iterdir()
            ),
        )


def _numbers(file: Path) -> dict[str, int]:
    """The lines of ``name: number …``."""
    found = {}
    for line in file.read_text().splitlines():
        name, _, value = line.partition(":")
        with contextlib.suppress(ValueError, IndexError):
            found[name] = int(value.split()[0])
    return found


def config(folder: Path, source: Path, url: str) -> str:
    """The keys without a default, and the place of the queue."""
    return (
        'device = "van-07"\n'
        f'[gps]\nsource = "{source}"\n'
        f'[queue]\npath = "{folder}/queue.db"\n'
        f'[upload]\nurl = "{url}"\n'
    )


@contextlib.contextmanager
def as_process(folder: Path, text: str) -> Iterator[Path]:
    """The agent, as its folder in ``/proc``."""
    (folder / "config.toml").write_text(text)
    command = (sys.executable, "-m", "telemetry_agent", "run")
    with subprocess.Popen([*command, "--config", str(folder / "config.toml")]) as agent:
        try:
            yield Path("/proc", str(agent.pid))
        finally:
            agent.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def as_service(text: str) -> Iterator[Path]:
    """The agent under its unit, as its folder in ``/proc``."""
    sys.path.insert(0, str(ROOT / "tests"))
    from systemd_boot import boot, launcher  # noqa: PLC0415 - needs pytest, and only here

    files = {
        "/usr/bin/telemetry-agent": launcher("-m telemetry_agent"),
        "/etc/telemetry-agent/config.toml": text.encode(),
        "/usr/lib/sysusers.d/telemetry-agent.conf": (
            ROOT / "systemd/sysusers.d/telemetry-agent.conf"
        ).read_bytes(),
    }
    with boot({UNIT: (ROOT / "systemd" / UNIT).read_text()}, files) as machine:
        machine.systemctl("start", UNIT)
        yield machine.path("/proc") / str(machine.main_pid(UNIT))


def main() -> None:
    """Read the options, measure, and print."""
    parser = argparse.ArgumentParser(description="What the agent costs.")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--rate", type=float, default=1.0, help="fixes a second")
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    parser.add_argument("--systemd", action="store_true")
    options = parser.parse_args()
    # As pip does at an installation: otherwise the agent compiles itself, which costs 1.5 MB.
    compileall.compile_dir(ROOT / "telemetry_agent", quiet=1)
    waiting = signal.SIGALRM  # never sent: sigtimedwait is a wait that ends by itself
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as name,
        Endpoint("127.0.0.1:0", Path(name) / "received.db") as endpoint,
    ):
        folder = Path(name)
        interval_ms = round(1000 / options.rate)
        drive = Drive(Clock().wall_ms(), interval_ms=interval_ms)
        with Simulator(drive, rate_hz=options.rate, link=folder / "gps") as simulator:
            simulator.device.chmod(0o666)
            source = simulator.device.resolve()
            started = (
                as_service(config(Path("/var/lib/telemetry-agent"), source, endpoint.url))
                if options.systemd
                else as_process(folder, config(folder, source, endpoint.url))
            )
            with started as process:
                if not endpoint.wait_for(1, 60):
                    sys.exit("no fix arrived within 60 s")
                signal.sigtimedwait([waiting], SETTLE_S)
                fixes, begin = simulator.sent, Account.of(process)
                signal.sigtimedwait([waiting], options.seconds)
                fixes, end = simulator.sent - fixes, Account.of(process)
                if endpoint.counters["known"]:
                    sys.exit(f"{endpoint.counters['known']} fixes came twice")
    report(begin, end, fixes)


def report(begin: Account, end: Account, fixes: int) -> None:
    """Print it."""
    took_s = end.at_s - begin.at_s
    print(f"{fixes} fixes in {took_s:.0f} s, Python {sys.version.split()[0]}")
    print(f"CPU                {100 * (end.cpu_s - begin.cpu_s) / took_s:.2f} % of a core")
    print(f"wake-ups           {(end.switches - begin.switches) / took_s:.1f} a second")
    print(f"RSS                {begin.rss_mb:.1f} MB at the start, {end.rss_mb:.1f} MB at the end")
    print(f"PSS, own           {end.pss_mb:.1f} MB, {end.own_mb:.1f} MB")
    print(f"descriptors        {begin.descriptors} at the start, {end.descriptors} at the end")
    print(f"threads            {begin.threads} at the start, {end.threads} at the end")
    print(f"written to disk    {(end.written_bytes - begin.written_bytes) / fixes:.0f} bytes a fix")


if __name__ == "__main__":
    main()
