"""What sampling keeps of a day: how many fixes, and how far the recorded track is off.

    python benchmarks/sampling_table.py [--receivers COUNT]

The days are those of ``tests/tracks.py``, each with the noise of COUNT different receivers (3 by
default); the worst of them is printed. The error is the largest distance at any second between the
true track and the recorded one, joined by straight lines. It includes the noise of the recorded
fixes (``all``, with every fix recorded, is the least possible). ``odo`` compares the odometer with
the true distance.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import tracks

from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy

_DAYS = {
    "commute": tracks.commute,
    "parked day": tracks.parked,
    "boat at anchor": tracks.boat_at_anchor,
    "walk, 2 h": tracks.walk,
    "tractor, 8 h": tracks.tractor,
}
_POLICIES = {
    "all": SamplingPolicy(interval_s=0),
    "default": SamplingPolicy(),
    "10 s": SamplingPolicy(interval_s=10),
    "10 s, 15 deg": SamplingPolicy(interval_s=10, turn_deg=15),
    "5 min, 100 m, 15 deg": SamplingPolicy(interval_s=300, distance_m=100, turn_deg=15),
}


def main() -> None:
    """Drive, then print."""
    parser = argparse.ArgumentParser(description="What each sampling policy keeps of a day.")
    parser.add_argument("--receivers", type=int, default=3, help="each with its own noise")
    seeds = range(1, 1 + parser.parse_args().receivers)
    print(f"{'':16}{'policy':22}{'fixes':>8}{'error m':>9}{'driven m':>10}{'odo m':>9}")
    for name, day in _DAYS.items():
        vehicle = day()
        received = [list(tracks.received(vehicle.states, seed=seed)) for seed in seeds]
        for policy_name, policy in _POLICIES.items():
            fixes, error_m, odo_m = 0, 0.0, vehicle.driven_m
            for said in received:
                sampler = Sampler(policy)
                recorded = [kept for fix in said for kept in sampler.feed(fix)]
                fixes = max(fixes, len(recorded))
                error_m = max(error_m, tracks.largest_error_m(vehicle.states, recorded))
                odo_m = max(odo_m, recorded[-1].odo_m or 0, key=lambda m: abs(m - vehicle.driven_m))
            print(
                f"{name:16}{policy_name:22}{fixes:8,}{error_m:9.1f}"
                f"{vehicle.driven_m:10,.0f}{odo_m:9,.0f}"
            )


if __name__ == "__main__":
    main()
