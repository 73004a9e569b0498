"""The power-loss proof: use the queue at random, and cut the power at every moment.

Each seed is one story. A workload runs on a recorded disk. For each moment of its log, the proof
makes disks as a cut may leave them, and checks them against the promises. Sometimes the next life
begins on such a disk. It is recorded and cut at every moment as well, so the recovery from a cut is
itself cut.
"""

import random
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from ackqueue.power_cut import Platter
from ackqueue.power_workload import Workload
from ackqueue.promises import BrokenPromiseError, Promises
from ackqueue.recorded_disk import RecordedDisk, scratch_folder

from telemetry_agent.ackqueue.limits import thinning
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery import damaged_file

FILE = "queue.db"


@dataclass(frozen=True)
class Subject:
    """What the proof tests."""

    queue_class: type[AckQueue] = AckQueue
    pragmas: tuple[str, ...] = ()
    """Run before each transaction: the settings that a careless queue would choose."""


@dataclass
class Tally:
    """The number of checked crash states."""

    states: int = 0
    of_recoveries: int = 0
    """The states from a cut during the life after a cut."""


def prove(seed: int, states: int, subject: Subject = Subject()) -> Tally:
    """Check about this many crash states of one story.

    Raises:
        BrokenPromiseError: With the seed and the moment.
    """
    draw = random.Random(seed)
    tally = Tally()
    with (
        small_steps(),
        # Stream names also depend on the seed, so that a seed always gives the same story.
        mock.patch.object(secrets, "randbits", random.Random(seed).getrandbits),
        tempfile.TemporaryDirectory(prefix="power-loss-", dir=scratch_folder()) as name,
    ):
        story = _Story(Path(name), draw, subject, tally)
        try:
            story.tell({}, Promises(), steps=60, states=states)
        except BrokenPromiseError as broken:
            raise BrokenPromiseError(f"seed {seed}, state {tally.states}: {broken}") from broken
    return tally


@contextmanager
def small_steps() -> Iterator[None]:
    """Use portions of a few rows instead of a thousand, because a story has few fixes."""
    with (
        mock.patch.object(thinning, "_FEW_ROWS", 5),
        mock.patch.object(thinning, "_ROWS_PER_WINDOW", 20),
        mock.patch.object(damaged_file, "_PAGES_PER_LOOK", 40),
        mock.patch.object(damaged_file, "_ROWS_PER_PORTION", 10),
    ):
        yield


class _Story:
    def __init__(self, folder: Path, draw: random.Random, subject: Subject, tally: Tally) -> None:
        self._folder = folder
        self._draw = draw
        self._subject = subject
        self._tally = tally
        self._depth = 0
        self._pages = draw.choice((10, 50, 200))  # few or many checkpoints in a short story

    def tell(self, files: dict[str, bytes], promises: Promises, *, steps: int, states: int) -> None:
        """Run one life on these files, and cut it at every moment."""
        disk = RecordedDisk()
        disk.pragmas = (*self._subject.pragmas, f"PRAGMA wal_autocheckpoint = {self._pages}")
        path = self._lay_out(files)
        with disk.recorded():
            Workload(disk, path, promises, self._draw, self._subject.queue_class).run(steps)
        moments = len(disk.log) + 1
        platter = Platter(files)
        for moment in range(moments):
            for _ in range(_share(moment, states, moments)):
                self._cut(platter, promises, moment)
            if moment < len(disk.log):
                platter.play(disk.log[moment])

    def _cut(self, platter: Platter, promises: Promises, moment: int) -> None:
        files = platter.cut(self._draw)
        found = promises.check(self._lay_out(files), moment)
        self._tally.states += 1
        if self._depth:
            self._tally.of_recoveries += 1
        elif self._draw.random() < 0.01:
            self._depth = 1
            self.tell(files, promises.after(moment, found), steps=3, states=30)
            self._depth = 0

    def _lay_out(self, files: dict[str, bytes]) -> Path:
        shutil.rmtree(self._folder)
        self._folder.mkdir()
        for name, data in files.items():
            (self._folder / name).write_bytes(data)
        return self._folder / FILE


def _share(index: int, total: int, places: int) -> int:
    """The share of ``total`` for this place, spread evenly."""
    return total * (index + 1) // places - total * index // places
