"""Damage: millions of mutated sentences and reports, and a minute of garbage at 921600 baud.

    python benchmarks/fuzz_decoder.py [--sentences COUNT] [--seed SEED]

The sentences are those of the recordings in the folder that ``tests/corpus.py`` names, and of a
simulated drive. They are decoded and sampled, and each fix is made a row of the queue. No exception
is allowed; the memory before and after is printed. The same number of sentences is damaged and
given a correct checksum, and the same number of gpsd's reports is damaged. An oracle with rules of
its own (``tests/oracle.py``) derives the position of each. The decoder must find exactly this
position, and leave the whole sentences around it as they are. Before that, the decoder gets one
minute of a line at 921600 baud with a wrong baud rate or a broken cable, in several forms. The
share of one core that this takes is printed, and the memory that stays in use.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import mutations

from telemetry_agent.gnss.decoder import Decoder

_BYTES_PER_S = 92_160
_MINUTE_S = 60
_READS_PER_S = 50


def _rss_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def _fuzz(count: int, seed: int) -> None:
    bodies = mutations.bodies()
    mutations.survive(mutations.mutated(bodies, 20_000, seed))  # this fills every cache
    before_kib, start_s = _rss_kib(), time.process_time()
    lines, fixes = mutations.survive(mutations.mutated(bodies, count, seed + 1))
    print(
        f"{lines:,} mutated sentences, seed {seed}: nothing raised, {fixes:,} fixes, "
        f"{time.process_time() - start_s:.0f} s, memory {_rss_kib() - before_kib:+,} KiB"
    )


def _judge(what: str, judge: Callable[[], tuple[int, int]], count: int) -> None:
    before_kib, start_s = _rss_kib(), time.process_time()
    judged, positions = judge()
    print(
        f"{count:,} {what}: {judged:,} judged, {positions:,} hold a position; none is missing, "
        f"nothing else came out, {time.process_time() - start_s:.0f} s, "
        f"memory {_rss_kib() - before_kib:+,} KiB"
    )


def _garbage(kind: str, make: Callable[[int], bytes]) -> None:
    decoder = Decoder(fix_rollover=False)
    read = _BYTES_PER_S // _READS_PER_S
    reads = [make(read) for _ in range(_READS_PER_S)]
    for data in reads:
        decoder.feed(data, 0.0)
    before_kib, start_s = _rss_kib(), time.process_time()
    for second in range(_MINUTE_S):
        for data in reads:
            decoder.feed(data, float(second))
            decoder.tick(float(second))
    taken_s = time.process_time() - start_s
    print(
        f"a minute of {kind} at 921600 baud: {100 * taken_s / _MINUTE_S:.2f} % of a core, "
        f"memory {_rss_kib() - before_kib:+,} KiB"
    )


def main() -> None:
    """Damage and decode, and print the results."""
    parser = argparse.ArgumentParser(description="Damage sentences of real receivers.")
    parser.add_argument("--sentences", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    count: int = options.sentences
    seed: int = options.seed
    draw = random.Random(seed)
    printable = bytes(range(0x20, 0x7F))
    _garbage("random bytes", draw.randbytes)
    _garbage("printable characters", lambda size: bytes(draw.choices(printable, k=size)))
    _garbage("dollars", lambda size: b"$" * size)
    _garbage("torn sentences", lambda size: (b"$GPRMC,123519,A,48" * size)[:size])
    _garbage("zeros", bytes)
    _fuzz(count, seed)
    bodies = mutations.bodies()
    mutations.judge(bodies, 20_000, seed)
    mutations.judge_reports(20_000, seed)
    _judge(
        "sentences with their checksum computed again",
        lambda: mutations.judge(bodies, count, seed + 2),
        count,
    )
    _judge("reports of gpsd", lambda: mutations.judge_reports(count, seed + 3), count)


if __name__ == "__main__":
    main()
