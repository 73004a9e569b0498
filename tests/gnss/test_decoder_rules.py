"""The decoding rules, each with one small recording.

In ``rules/NAME.txt`` a line that begins with ``$`` is a sentence without its checksum. ``=>`` is an
expected fix with these fields (with ``only``: no others). The decoder must find exactly these
fixes, in this order.
``=#`` counts rejected input by reason. ``! fix-rollover`` enables the option of that name.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeClock
from nmea import line

from telemetry_agent.fields import fix_fields
from telemetry_agent.gnss.dates import WallClock
from telemetry_agent.gnss.decoder import Decoder

_RULES = sorted((Path(__file__).parent / "rules").glob("*.txt"))


def _wall_clock(year: int, *, synchronised: bool) -> WallClock:
    clock = FakeClock(
        wall_ms=round(datetime(year, 6, 1, tzinfo=UTC).timestamp() * 1000),
        synchronised=synchronised,
    )
    return lambda: clock.wall_ms() if clock.synchronised() else None


@pytest.mark.parametrize("path", _RULES, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", [None, 1, 7])
def test_rule(path: Path, size: int | None) -> None:
    _check(path, size, lambda: None)


# A clock without a battery shows 1970 until it is set; no date in the rules is after 2028.
@pytest.mark.parametrize("path", _RULES, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("year", "synchronised"), [(1970, False), (2028, True), (2040, True), (2040, False)]
)
def test_no_rule_depends_on_the_system_clock(path: Path, year: int, synchronised: bool) -> None:
    _check(path, None, _wall_clock(year, synchronised=synchronised))


def _check(path: Path, size: int | None, wall_clock: WallClock) -> None:
    text = path.read_text().splitlines()
    data = b"".join(line(row[1:]) for row in text if row.startswith("$"))
    decoder = Decoder(
        wall_clock=wall_clock,
        fix_rollover="! fix-rollover" in text,
        prove_rollover=False,
        eager=False,
    )
    fixes = []
    for start in range(0, len(data), size or len(data)):
        fixes += decoder.feed(data[start : start + (size or len(data))], 0.0)
    fixes += decoder.finish()

    found = [fix_fields(fix) for fix in fixes]
    expected = [row.removeprefix("=> ") for row in text if row.startswith("=> ")]
    assert [fields["time"] for fields in found] == [_fields(row)["time"] for row in expected]
    for fields, row in zip(found, expected, strict=True):
        wanted = _fields(row)
        shown = fields if row.endswith(" only") else {name: fields.get(name) for name in wanted}
        assert shown == wanted
    for row in text:
        if row.startswith("=# "):
            wanted = json.loads(row.removeprefix("=# "))
            assert {reason: decoder.counts[reason] for reason in wanted} == wanted


def _fields(row: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(row.removesuffix(" only"))
    return fields


def test_every_rule_is_read() -> None:
    assert len(_RULES) > 40
