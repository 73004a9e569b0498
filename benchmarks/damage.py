"""How much of a damaged queue is carried over.

::

    python benchmarks/damage.py [--fixes 20000] [--seeds 200] [--processes 2]

A queue is filled, damaged, opened as an agent opens it, and delivered. Each kind of damage is done
with ``--seeds`` random seeds, each on a fresh copy; with a tenth of them if the seed decides only
the kind of garbage. Ends with status 1 in three cases: a fix is delivered twice or with another
content; the number of missing fixes differs from what the queue counts as lost; the endpoint's
audit misses a fix that the account does not name as damaged.
"""

import argparse
import logging
import os
import random
import statistics
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from ackqueue import damage
from ackqueue.recorded_disk import scratch_folder

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.model import Record


def flipped_bit_in_the_log(data: bytearray, draw: random.Random) -> None:
    """Makes the log of a queue that was killed."""
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


ALWAYS_THERE = ("header", "root page")
KINDS: dict[str, tuple[damage.Damage, bool]] = {
    "header": (damage.header, False),
    "root page": (damage.root_page, False),
    "5 pages": (damage.five_pages, False),
    "5 blocks of 4 KiB": (damage.five_blocks, False),
    "a bit of the log": (flipped_bit_in_the_log, True),
}


def share(whole: Path, kind: str, seed: int) -> float:
    """The share that was delivered."""
    do, to_the_log = KINDS[kind]
    with tempfile.TemporaryDirectory(dir=whole.parent) as name:
        case = Path(name) / "queue.db"
        damage.copy(whole, case)
        damage.damage(case.with_name("queue.db-wal") if to_the_log else case, do, seed)
        outcome = damage.recover(case)
    delivered, records = Counter(outcome.delivered), Counter(RECORDS)
    missing = (records - delivered).total()
    # The loss of the last fix is not visible: no other fix follows it.
    if delivered - records or missing not in {outcome.lost, outcome.lost + to_the_log}:
        raise SystemExit(f"{kind}, seed {seed}: {missing} are missing, {outcome.lost} counted")
    if not outcome.complete:
        raise SystemExit(f"{kind}, seed {seed}: the endpoint's audit misses what was delivered")
    return delivered.total() / records.total()


RECORDS: list[Record] = []


def main() -> None:
    """Run it, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--fixes", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="damage-", dir=scratch_folder()) as name:
        whole = Path(name) / "whole.db"
        with AckQueue(Path(name) / "live.db", commit_every_s=3600) as queue:
            RECORDS.extend(damage.record(queue, arguments.fixes))
            damage.copy(Path(name) / "live.db", whole)
        with ProcessPoolExecutor(arguments.processes) as pool:
            print(f"{arguments.fixes:,} fixes; delivered of all, %")
            print(f"{'':<20}{'seeds':>8}{'mean':>10}{'worst':>10}  the endpoint's audit")
            for kind in KINDS:
                seeds = -(-arguments.seeds // (10 if kind in ALWAYS_THERE else 1))
                shares = list(pool.map(partial(share, whole, kind), range(seeds)))
                mean, worst = 100 * statistics.mean(shares), 100 * min(shares)
                print(f"{kind:<20}{seeds:>8}{mean:>10.3f}{worst:>10.3f}  complete", flush=True)


if __name__ == "__main__":
    main()
