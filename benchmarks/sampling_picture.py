"""Draws ``docs/sampling.svg``: a short drive and a stop, as received and as recorded.

python benchmarks/sampling_picture.py
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import tracks
from bars import DARK

from telemetry_agent.gnss.geodesy import offset_m, place_of
from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy
from telemetry_agent.model import Fix

_PICTURE = Path(__file__).resolve().parents[1] / "docs" / "sampling.svg"
_MARGIN_M = 30
_POLICY = SamplingPolicy(interval_s=10, turn_deg=15)
_SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}" font-family="sans-serif" font-size="11">
{dark}
<rect x="{left}" y="{top}" width="100%" height="100%" fill="#fff"/>
<g fill="none" stroke-linecap="round">
<path stroke="#bbb" stroke-width="3" d="{received}"/>
<path stroke="#1b7f3b" stroke-width="1.2" d="{line}"/>
<path stroke="#1b7f3b" stroke-width="6" d="{recorded}"/>
</g>
<text x="{x}" y="{y1}" fill="#777">grey: {received_count} fixes received</text>
<text x="{x}" y="{y2}" fill="#1b7f3b">green: {recorded_count} of them recorded</text>
</svg>
"""


def _drive() -> tracks.Vehicle:
    car = tracks.Vehicle(course_deg=60)
    for metres, turn_deg in ((260, 0), (180, 70), (240, -90), (160, -60)):
        car.drive(metres, 12, turn_deg=turn_deg)
        car.stand(8)
    car.stand(900)
    car.drive(220, 12, turn_deg=110)
    return car


def _points(fixes: Iterable[Fix]) -> list[tuple[float, float]]:
    offsets = [offset_m(tracks.place(0, 0), place_of(fix)) for fix in fixes]
    return [(round(east_m, 1), round(-north_m, 1)) for north_m, east_m in offsets]


def _dots(points: Iterable[tuple[float, float]]) -> str:
    return "".join(f"M{x} {y}h0" for x, y in points)


def main() -> None:
    """Drive, sample, draw."""
    argparse.ArgumentParser(description=f"Draws {_PICTURE.name} of the docs.").parse_args()
    noise = tracks.Noise(jumps_per_h=12, jump_m=(60, 110))
    received = list(tracks.received(_drive().states, noise, seed=4))
    sampler = Sampler(_POLICY)
    recorded = [kept for fix in received for kept in sampler.feed(fix)]
    everything = _points(received)
    good = _points(fix for fix in recorded if "jump" not in fix.flags)
    left, top = (round(min(axis)) - _MARGIN_M for axis in zip(*everything, strict=True))
    right, bottom = (round(max(axis)) + _MARGIN_M for axis in zip(*everything, strict=True))
    _PICTURE.write_text(
        _SVG.format(
            view=f"{left} {top} {right - left} {bottom - top}",
            received=_dots(everything),
            line="M" + "L".join(f"{x} {y}" for x, y in good),
            recorded=_dots(good),
            dark=DARK,
            left=left,
            top=top,
            x=left + 10,
            y1=top + 18,
            y2=top + 34,
            received_count=len(received),
            recorded_count=len(recorded),
        )
    )


if __name__ == "__main__":
    main()
