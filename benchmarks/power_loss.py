"""Cut the power under the queue at many instants, and check its promises each time.

::

    python benchmarks/power_loss.py [--states 100000] [--seed 0] [--processes 2]

``tests/ackqueue/power_loss.py`` describes what a cut may leave, and what is checked. Ends with
status 1 at the first promise that is not kept, and prints it with its seed.
"""

import argparse
import logging
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from ackqueue.power_loss import Tally, prove
from ackqueue.promises import BrokenPromiseError

STATES_PER_STORY = 500


def main() -> int:
    """Run it, report its progress, and print a sum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--states", type=int, default=100_000, help="how many crash states")
    parser.add_argument("--seed", type=int, default=0, help="of the first story")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what the queue logs about each cut
    start = time.perf_counter()
    told, total = 0, Tally()
    stories = range(arguments.seed, arguments.seed + -(-arguments.states // STATES_PER_STORY))
    with ProcessPoolExecutor(arguments.processes) as pool:
        running = [pool.submit(prove, seed, STATES_PER_STORY) for seed in stories]
        for story in as_completed(running):
            try:
                tally = story.result()
            except BrokenPromiseError as broken:
                pool.shutdown(cancel_futures=True)
                print(f"\n{broken}", file=sys.stderr)
                return 1
            total.states += tally.states
            told += 1
            total.of_recoveries += tally.of_recoveries
            print(f"\r{total.states:,} states", end="", file=sys.stderr, flush=True)
            if total.states >= arguments.states:
                pool.shutdown(cancel_futures=True)
                break
    print(
        f"\r{total.states:,} crash states of {told} stories in "
        f"{time.perf_counter() - start:.0f} s, {total.of_recoveries:,} of them from cuts during "
        "the life after a cut. Every promise was kept, and the endpoint's audit said complete."
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
