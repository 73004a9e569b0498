"""A healthy machine in which a test injects faults. It uses real parts where possible."""

import contextlib
import itertools
import os
import pty
import threading
import tty
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fakes import FakeClock
from misbehaving import Act, Server
from rig import write_config

from telemetry_agent import addresses
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.daemon import client
from telemetry_agent.doctor.agent_checks import Machine
from telemetry_agent.doctor.checks import NAMES, examine
from telemetry_agent.doctor.findings import Finding
from telemetry_agent.doctor.reception import Patience
from telemetry_agent.lab.drive import Drive
from telemetry_agent.model import Fix

START_MS = 1_795_435_200_000  # 2026-11-23T12:00:00Z


class Calendar(Clock):
    """The real clock with the date and time of another day."""

    def __init__(self, wall_ms: int = START_MS, *, synchronised: bool = True) -> None:
        self.wall = FakeClock(wall_ms=wall_ms, synchronised=synchronised)

    def wall_ms(self) -> int:
        return self.wall.wall_ms()

    def synchronised(self) -> bool:
        return self.wall.synchronised()


class Bench:
    """One device with an endpoint and a receiver: a recording, until ``plug_in`` replaces it."""

    def __init__(self, folder: Path, cleanup: contextlib.ExitStack) -> None:
        self.folder = folder
        self.cleanup = cleanup
        self.root = folder / "root"
        self.state = folder / "state"
        self.state.mkdir()
        self.clock = Calendar()
        self.user = "telemetry-agent"
        self.hidden: tuple[Path, ...] = ()
        self.resolve: addresses.Resolve = addresses.resolve
        self.ask: Callable[[Path, Mapping[str, Any]], Iterator[dict[str, Any]]] = client.ask
        self.gps: dict[str, Any] = {}
        self.upload: dict[str, Any] = {}
        self.more: dict[str, dict[str, Any]] = {}
        """Other sections of the config."""
        self.url = ""
        self.device = "van-07"
        self.source = f"file://{self.record(*itertools.islice(Drive(START_MS), 3))}"
        self.mounted("29 1 8:1 / / rw,relatime - ext4 /dev/root rw")

    @property
    def queue(self) -> Path:
        return self.state / "queue.db"

    @property
    def config(self) -> Path:
        config = write_config(
            self.folder,
            self.source,
            self.url or self.serve(),
            upload={"timeout": "30s", **self.upload},
            gps={"baud": 9600, **self.gps},
            queue={"path": str(self.queue)},
            **self.more,
        )
        config.write_text(config.read_text().replace('"van-07"', f'"{self.device}"', 1))
        return config

    def record(self, *epochs: bytes) -> Path:
        file = self.folder / "drive.nmea"
        file.write_bytes(b"".join(epochs))
        return file

    def recorded(self, fixes: int = 50) -> None:
        """Fill the queue with fixes that an agent has recorded but not delivered."""
        with AckQueue(self.queue) as queue:
            for i in range(fixes):
                queue.put(Fix(START_MS + i * 1000, 48_117_300_000 + i, 11_516_667_000), "van-07")

    def mounted(self, *lines: str) -> None:
        """Set the mounts of the machine: lines of /proc/self/mountinfo."""
        file = self.root / "proc/self/mountinfo"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines))

    def plug_in(self, *says: bytes, every_s: float = 0.1) -> int:
        """Connect a receiver on a real pty that sends these in a loop; return the device end."""
        master, device = pty.openpty()
        tty.setraw(device)
        self.cleanup.callback(os.close, device)
        self.source = os.ttyname(device)
        stop = threading.Event()

        def speak() -> None:
            with contextlib.suppress(OSError):
                for said in itertools.cycle(says):
                    os.write(master, said)
                    if stop.wait(every_s):
                        return

        thread = threading.Thread(target=speak, daemon=True)
        os.set_blocking(master, False)
        self.cleanup.callback(os.close, master)
        if says:
            self.cleanup.callback(thread.join)
            thread.start()
        self.cleanup.callback(stop.set)
        return device

    def serve(self, *acts: Act, **how: Any) -> str:
        server = self.cleanup.enter_context(Server(*acts, **how))
        self.url = server.url
        return self.url

    def told(self, config: Path | None = None, *, send: bool = False) -> dict[str, Finding]:
        """Run the doctor; return its findings by name."""
        config = config or self.config
        machine = Machine(
            clock=self.clock,
            root=self.root,
            resolve=self.resolve,
            ask=self.ask,
            user=self.user,
            hidden=self.hidden,
            patience=Patience(silent_s=1.0, position_s=0.4, none_s=0.4),
        )
        found = list(examine(config, machine, send=send))
        assert [finding.name for finding in found] == list(NAMES)
        return {finding.name: finding for finding in found}


def answers(**asked: Any) -> Callable[[Path, Mapping[str, Any]], Iterator[dict[str, Any]]]:
    """A running agent that gives these answers. An answer that is an exception is raised."""

    def ask(_path: Path, question: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for answer in asked[question["ask"]]:
            if isinstance(answer, Exception):
                raise answer
            yield answer

    return ask
