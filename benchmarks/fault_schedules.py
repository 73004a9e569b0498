"""Exactly once: random fault schedules against the real uploader and queue.

::

    python benchmarks/fault_schedules.py [--count 1000] [--seed SEED] [--jobs 4]

Connections are cut before, while and after the endpoint stores a batch; answers are lost, halved,
doubled, late; the agent is killed before, between and after. Then the endpoint must hold every fix
that was recorded, under its own name, with its own content, and nothing else. A schedule that fails
is printed with its seed: ``--count 1 --seed SEED`` runs it again.
"""

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from schedules import run_schedules


def main() -> int:
    """Run them, and print the sum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    parser.add_argument("--jobs", type=int, default=4, help="at the same time; they mostly wait")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    fixes = repeats = kills = failed = 0
    for seed, told in zip(seeds, run_schedules(seeds, arguments.jobs), strict=True):
        fixes += told.fixes
        repeats += told.repeats
        kills += told.kills
        if told.faults:
            failed += 1
            print(f"seed {seed}: {'; '.join(told.faults)}")
    print(
        f"{len(seeds)} schedules from seed {seeds[0]}: {fixes} fixes recorded, {kills} kills, "
        f"{repeats} times a fix came again; {failed} schedules failed; "
        "after the others the endpoint's audit said complete"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
