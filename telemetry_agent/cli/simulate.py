"""``simulate``: a GNSS receiver on a pty."""

import contextlib
import signal
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import click

from telemetry_agent.cli import on_end
from telemetry_agent.clock import Clock
from telemetry_agent.errors import UsageError
from telemetry_agent.lab.drive import Drive
from telemetry_agent.lab.simulator import Simulator, replay

_LATE_MS = 2000


@click.command("simulate")
@click.option(
    "--link",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Create a symlink to the device; removed at the end.",
)
@click.option(
    "--replay",
    "recording",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Send this recording as it is, instead of a simulated drive.",
)
@click.option(
    "--rate",
    metavar="HZ",
    default=1.0,
    show_default=True,
    help="Epochs per second, 0.001 to 100; 0: as fast as the reader takes them.",
)
@click.option("--count", metavar="N", type=click.IntRange(1, 2**62), help="End after N epochs.")
def command(link: Path | None, recording: Path | None, rate: float, count: int | None) -> None:
    """A GNSS receiver on a pty.

    Prints the device's path. It begins when a program opens the device, and ends with Ctrl-C or
    when all bytes were sent and read.
    """
    if rate and not 0.001 <= rate <= 100:
        raise UsageError(f"--rate {rate}: must be 0, or 0.001 to 100")
    on_end(signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        Simulator(islice(_epochs(recording, rate), count), rate_hz=rate, link=link) as simulator,
    ):
        click.echo(simulator.device)
        simulator.done.wait()


def _epochs(recording: Path | None, rate: float) -> Iterable[bytes]:
    return _drive(rate) if recording is None else replay(recording.open("rb"))


def _drive(rate: float) -> Iterator[bytes]:
    """A drive in real time: epochs that nobody was there to read are left out."""
    clock = Clock()
    interval_ms, began_s, index = round(1000 / rate) if rate else 1000, clock.monotonic_s(), 0
    drive = Drive(clock.wall_ms(), interval_ms=interval_ms)
    while True:
        yield drive.epoch(index)
        late_ms = (clock.monotonic_s() - began_s) * 1000 - index * interval_ms
        index += max(1, int(late_ms / interval_ms)) if rate and late_ms > _LATE_MS else 1
