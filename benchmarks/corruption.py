"""Damage queue files at random, and check the promises of the queue.

::

    python benchmarks/corruption.py [--cases 9500] [--agents 500] [--seed 0] [--processes 2]

What is damaged, and what is checked, is described in ``tests/ackqueue/corruption.py``, and in
``corrupted_agent.py`` beside it for the cases with a real agent. Ends with status 1 if a promise
was not kept, and names each such case with its seed.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from ackqueue.corrupted_agent import prove_agent
from ackqueue.corruption import STATES, BrokenError, Found, Stock, make, prove_queue
from ackqueue.recorded_disk import scratch_folder

Prove = Callable[[dict[str, Stock], int, float], Found]


def case(prove: Prove, stocks: dict[str, Stock], limit_s: float, seed: int) -> Found | str:
    """The result, or the promise that was broken."""
    try:
        return prove(stocks, seed, limit_s)
    except BrokenError as broken:
        return str(broken)


def main() -> int:
    """Run it, name the failures, and print a sum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=int, default=9_500, help="of the queue alone")
    parser.add_argument("--agents", type=int, default=500, help="cases with a real agent")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--limit", type=float, default=2.0, help="seconds until it records")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    logging.getLogger("telemetry_agent").propagate = False
    broken = 0
    with tempfile.TemporaryDirectory(prefix="corruption-", dir=scratch_folder()) as name:
        stocks = {state: make(state, Path(name) / state.replace(" ", "-")) for state in STATES}
        with ProcessPoolExecutor(arguments.processes) as pool:
            for prove, cases, what in (
                (prove_queue, arguments.cases, "the queue alone"),
                (prove_agent, arguments.agents, "with an agent"),
            ):
                work = partial(case, prove, stocks, arguments.limit)
                seeds = range(arguments.seed, arguments.seed + cases)
                broken += run(pool.map(work, seeds, chunksize=5), what)
    return 1 if broken else 0


def run(outcomes: Iterable[Found | str], what: str) -> int:
    """Print the failures and a sum. Returns the number of failures."""
    start = time.perf_counter()
    held: list[Found] = []
    broken = 0
    for found in outcomes:
        if isinstance(found, Found):
            held.append(found)
        else:
            broken += 1
            print(found, flush=True)
    times_s = sorted(found.took_s for found in held) or [0.0]
    lines = max((len(found.lines) for found in held), default=0)
    gone = sum(found.log_is_confessed for found in held)
    print(
        f"{broken + len(held):,} corruptions, {what}, in {time.perf_counter() - start:.0f} s: "
        f"{broken} broke a promise; recorded after {times_s[len(times_s) // 2]:.2f} s, the slowest "
        f"after {times_s[-1]:.2f} s; at most {lines} log lines; the end of a log gone in {gone:,}; "
        f"the endpoint's audit missed {sum(found.misjudged for found in held)} fixes",
        flush=True,
    )
    return broken


if __name__ == "__main__":
    raise SystemExit(main())
