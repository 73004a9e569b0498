"""Recordings of real receivers, and the comparison of our decoder with gpsd's.

``NAME.nmea`` contains the raw bytes, ``NAME.fixes.json`` gpsd's fix for each instant. They are
outside the repository: in the folder that TELEMETRY_AGENT_CORPUS names, or beside the repository in
``shared/gnss-corpus``. ``python tests/corpus.py`` prints the comparison as a table.
"""

import json
import os
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from telemetry_agent.fields import fix_fields
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.model import Fix

FOLDER = Path(
    os.environ.get("TELEMETRY_AGENT_CORPUS")
    or Path(__file__).resolve().parents[2] / "shared" / "gnss-corpus"
)

_TIME_MS = 10
_DEGREES = 2e-7
_ALTITUDE_M = 0.051
_FEET_M = 0.2  # with $PGRMZ, gpsd's altitude comes from whole feet
_SPEED_M_S = 0.002
_COURSE_DEGREES = 0.001
_ROLLOVER_MS = 1024 * 7 * 86_400_000


@dataclass
class Recording:
    """The recording of one receiver, and gpsd's fixes of it."""

    name: str
    data: bytes
    role: str
    ambiguous: str | None
    rollover: bool
    """Whether gpsd moved the dates by 1024 weeks; our decoder does not."""
    fixes: list[dict[str, Any]]
    no_fix_times: list[str]


@dataclass
class Comparison:
    """The missing, wrong and extra values of our decoder."""

    found: int = 0
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)


def recordings() -> list[Recording]:
    """All recordings; an empty list if the folder does not exist."""
    return [_load(path) for path in sorted(FOLDER.glob("*.nmea"))]


def _load(path: Path) -> Recording:
    oracle = json.loads(path.with_suffix(".fixes.json").read_text())
    return Recording(
        name=path.stem,
        data=path.read_bytes(),
        role=oracle["role"],
        ambiguous=oracle["ambiguous"],
        rollover=oracle["week_rollover_ambiguous"],
        fixes=oracle["fixes"],
        no_fix_times=oracle.get("no_fix_times", []),
    )


def decode(data: bytes) -> list[Fix]:
    """The fixes of a whole recording."""
    decoder = Decoder(fix_rollover=False, eager=False)
    return decoder.feed(data, 0.0) + decoder.finish()


def compare(recording: Recording, fixes: list[Fix]) -> Comparison:
    """Compare the fixes of our decoder with gpsd's."""
    comparison = Comparison()
    altitude_m = _FEET_M if b"$PGRMZ" in recording.data else _ALTITUDE_M
    for theirs in recording.fixes:
        at = [fix for fix in fixes if _same_time(recording, fix, theirs["time"])]
        if not at:
            comparison.missing.append(theirs["time"])
        elif not any(_agrees(fix_fields(fix), theirs, altitude_m) for fix in at):
            ours = [fix_fields(fix) for fix in at]
            comparison.wrong.append(f"gpsd has {theirs}, we have {ours}")
        else:
            comparison.found += 1
    for time in recording.no_fix_times:
        if any(_same_time(recording, fix, time) for fix in fixes):
            comparison.phantom.append(time)
    return comparison


def _same_time(recording: Recording, fix: Fix, time: str) -> bool:
    apart_ms = abs(fix.time_ms - round(datetime.fromisoformat(time).timestamp() * 1000))
    if recording.rollover:
        apart_ms %= _ROLLOVER_MS
        apart_ms = min(apart_ms, _ROLLOVER_MS - apart_ms)
    return apart_ms <= _TIME_MS


def _agrees(ours: dict[str, Any], theirs: dict[str, Any], altitude_m: float) -> bool:
    limits = {
        "lat": ("lat", _DEGREES),
        "lon": ("lon", _DEGREES),
        "altMSL": ("alt", altitude_m),
        "speed": ("speed", _SPEED_M_S),
        "track": ("course", _COURSE_DEGREES),
    }
    for their_name, (our_name, limit) in limits.items():
        if their_name not in theirs:
            continue
        if our_name not in ours:
            # gpsd derives a speed and a course when no sentence contains them.
            if our_name in {"speed", "course"}:
                continue
            return False
        if abs(ours[our_name] - theirs[their_name]) > limit:
            return False
    return True


def _table() -> int:
    total = Comparison()
    clear = 0
    rows = [f"{'recording':28}{'gpsd':>6}{'ours':>6}{'missing':>9}{'wrong':>7}{'phantom':>9}"]
    for recording in recordings():
        fixes = decode(recording.data)
        result = compare(recording, fixes)
        rows.append(
            f"{recording.name:28}{len(recording.fixes):6}{len(fixes):6}{len(result.missing):9}"
            f"{len(result.wrong):7}{len(result.phantom):9}  "
            + (recording.ambiguous or recording.role.replace("oracle", ""))
        )
        if recording.ambiguous is None:
            clear += 1
            total.found += result.found
            total.missing += result.missing
            total.wrong += result.wrong
            total.phantom += result.phantom
    rows.append(
        f"{clear} recordings, the ambiguous aside: {total.found} fixes found, "
        f"{len(total.missing)} missing, {len(total.wrong)} wrong, {len(total.phantom)} phantom"
    )
    sys.stdout.write("\n".join([*rows, *total.wrong, ""]))
    return 1 if total.missing or total.wrong or total.phantom else 0


if __name__ == "__main__":
    sys.exit(_table())
