"""Damage queue files at random, as often as one likes, and hold the queue to its promises.

::

    python benchmarks/corruption.py [--cases 10000] [--seed 0] [--processes 2]

What is damaged, and what is checked, is described in ``tests/ackqueue/corruption.py``. Ends with
status 1 if a promise was not kept, and names each such case with its seed.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from ackqueue.corruption import STATES, BrokenError, Found, Stock, make, prove
from ackqueue.recorded_disk import scratch_folder


def case(stocks: dict[str, Stock], limit_s: float, seed: int) -> Found | str:
    """What came of it, or which promise was broken."""
    try:
        return prove(stocks, seed, limit_s)
    except BrokenError as broken:
        return str(broken)


def main() -> int:
    """Run it, name what fails, sum up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--limit", type=float, default=2.0, help="seconds until it records")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    logging.getLogger("telemetry_agent").propagate = False
    start = time.perf_counter()
    seeds = range(arguments.seed, arguments.seed + arguments.cases)
    with tempfile.TemporaryDirectory(prefix="corruption-", dir=scratch_folder()) as name:
        stocks = {state: make(state, Path(name) / state.replace(" ", "-")) for state in STATES}
        with ProcessPoolExecutor(arguments.processes) as pool:
            held: list[Found] = []
            broken = 0
            for found in pool.map(partial(case, stocks, arguments.limit), seeds, chunksize=20):
                if isinstance(found, Found):
                    held.append(found)
                else:
                    broken += 1
                    print(found, flush=True)
    slowest = max((found.took_s for found in held), default=0)
    print(
        f"{arguments.cases:,} corruptions in {time.perf_counter() - start:.0f} s: {broken} broke a "
        f"promise; the slowest recorded after {slowest:.2f} s; at most "
        f"{max((len(found.lines) for found in held), default=0)} log lines; the end of a log was "
        f"gone in {sum(found.log_is_confessed for found in held):,}"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
