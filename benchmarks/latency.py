"""How long a fix waits: from the last byte of its instant to the moment when it is recorded.

    python benchmarks/latency.py [--seconds SECONDS] [--baud BAUD]

Each recording in the folder that ``tests/corpus.py`` names is sent through a pty of its own, if it
begins with enough fixes. All are sent at the same time: an instant a second, byte by byte at the
speed of the line, while the agent's reader has the other end. The median and the worst latency are
printed, for the first six instants, in which the receiver's cycle is not known, and after.
Negative: the fix was complete before the rest of its instant (satellites in view, texts) had come.
"""

import argparse
import os
import pty
import re
import statistics
import sys
import threading
import time
import tty
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import corpus

from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.reader import Reader
from telemetry_agent.gnss.sources.serial import SerialSource
from telemetry_agent.lab.simulator import replay
from telemetry_agent.model import Fix

_LEARNED = 6
_PIECE_S = 0.01
_DAY_MS = 86_400_000
_TIME_OF_DAY = re.compile(
    rb"\$..(?:(?:RMC|GGA|GNS),|GLL,(?:[^,]*,){4})(\d\d)(\d\d)(\d\d)(?:\.(\d{1,3}))?"
)


class Line:
    """One receiver on its pty, and the reader that listens to it."""

    def __init__(self, name: str, epochs: list[bytes], baud: int) -> None:
        self.name = name
        self.epochs = epochs
        self._bytes_per_s = baud / 10
        self._master, self._far = pty.openpty()
        tty.setraw(self._far)
        self._ended: dict[int, float] = {}  # time of day -> when its last byte was written
        self._recorded: list[tuple[int, float]] = []
        self._reader = Reader(
            SerialSource(Path(os.ttyname(self._far)), baud),
            lambda: Decoder(fix_rollover=False, baud=baud),
            self._record,
        )

    def _record(self, fix: Fix) -> None:
        self._recorded.append((fix.time_ms % _DAY_MS, time.monotonic()))

    def read(self, until_s: float) -> None:
        """Read, in a thread."""
        while (now_s := time.monotonic()) < until_s:
            self._reader.step(now_s)

    def say(self, begin_s: float) -> None:
        """Write as the receiver does."""
        piece = max(1, int(self._bytes_per_s * _PIECE_S))
        for number, epoch in enumerate(self.epochs):
            for sent in range(0, len(epoch), piece):
                due_s = begin_s + number + sent / self._bytes_per_s
                time.sleep(max(0.0, due_s - time.monotonic()))
                os.write(self._master, epoch[sent : sent + piece])
            ended_s = time.monotonic()
            for hour, minute, second, fraction in _TIME_OF_DAY.findall(epoch):
                seconds = int(hour) * 3600 + int(minute) * 60 + int(second)
                self._ended[seconds * 1000 + int(fraction.ljust(3, b"0"))] = ended_s

    def latencies_ms(self) -> list[float]:
        """The latency of each fix, in order."""
        return [
            (at_s - self._ended[time_ms]) * 1000
            for time_ms, at_s in self._recorded
            if time_ms in self._ended
        ]

    def close(self) -> None:
        """End it."""
        self._reader.close()
        os.close(self._far)
        os.close(self._master)


def lines(seconds: int, baud: int) -> list[Line]:
    """The recordings that can be sent within the time."""
    found = []
    for recording in corpus.recordings():
        epochs = list(islice(replay(recording.data.splitlines(keepends=True)), seconds))
        fits = max(map(len, epochs)) < baud / 10 * 0.8
        if fits and len(corpus.decode(b"".join(epochs))) == seconds:
            found.append(Line(recording.name, epochs, baud))
    return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description="From the last byte of a position to its fix.")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--baud", type=int, default=38400)
    options = parser.parse_args()
    seconds: int = options.seconds
    found = lines(seconds, options.baud)
    begin_s = time.monotonic() + 1
    threads = [
        threading.Thread(target=act, args=(moment,))
        for line in found
        for act, moment in ((line.read, begin_s + seconds + 1), (line.say, begin_s))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{seconds} s at 1 Hz and {options.baud} baud{'before, ms':>21}{'after, ms':>18}")
    after = []
    for line in found:
        latencies = line.latencies_ms()
        first, rest = latencies[:_LEARNED], latencies[_LEARNED:]
        after += rest
        print(
            f"{line.name:<30}{statistics.median(first):>10.0f}{max(first):>8.0f}"
            f"{statistics.median(rest):>10.0f}{max(rest):>8.0f}"
        )
        line.close()
    print(f"{'all':<48}{statistics.median(after):>10.0f}{max(after):>8.0f}")


if __name__ == "__main__":
    main()
