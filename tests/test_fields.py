"""The JSON form of a fix."""

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import telemetry_agent
from telemetry_agent.ackqueue.file.rows import COLUMNS
from telemetry_agent.fields import FIELDS, fix_fields, fix_of, rfc3339
from telemetry_agent.model import Fix

FULL = Fix(
    time_ms=1795437319000,
    lat_e9=48_117_300_000,
    lon_e9=-11_516_666_667,
    alt_mm=545_400,
    geoid_sep_mm=-46_900,
    speed_mm_s=11_524,
    course_mdeg=84_400,
    mode=3,
    quality="rtk",
    hdop_e2=90,
    vdop_e2=120,
    pdop_e2=150,
    sats=8,
    err_h_mm=1_234,
    err_v_mm=2_000,
    odo_m=48_120,
    flags=("date", "datum"),
)


def test_a_full_fix_has_every_field_in_its_unit() -> None:
    assert json.dumps(fix_fields(FULL)) == (
        '{"time": "2026-11-23T12:35:19.000Z", "lat": 48.1173, "lon": -11.516666667, "alt": 545.4,'
        ' "geoid_sep": -46.9, "speed": 11.524, "course": 84.4, "mode": 3, "quality": "rtk",'
        ' "hdop": 0.9, "vdop": 1.2, "pdop": 1.5, "sats": 8, "err_h": 1.234, "err_v": 2.0,'
        ' "odo": 48120, "flags": ["date", "datum"]}'
    )


def test_a_fix_is_made_of_its_fields_again() -> None:
    for fix in (FULL._replace(extra='{"door":"open","t":21.5}'), Fix(999, -1, 0)):
        assert fix_of(fix_fields(fix)) == fix


def test_the_unknown_is_absent_and_zero_is_not_unknown() -> None:
    bare = Fix(time_ms=0, lat_e9=0, lon_e9=0)
    assert list(fix_fields(bare)) == ["time", "lat", "lon", "mode", "quality"]
    zeros = bare._replace(alt_mm=0, geoid_sep_mm=0, speed_mm_s=0, course_mdeg=0, sats=0, odo_m=0)
    assert {"alt", "geoid_sep", "speed", "course", "sats", "odo"} <= fix_fields(zeros).keys()


@given(st.integers(-180_000_000_000, 180_000_000_000))
def test_a_position_comes_out_digit_by_digit(e9: int) -> None:
    text = json.dumps(fix_fields(Fix(0, e9, e9))["lon"])
    assert Decimal(text) * 10**9 == e9


@given(st.integers(-62_000_000_000_000, 250_000_000_000_000))
def test_time_is_that_of_the_calendar(time_ms: int) -> None:
    instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)
    assert rfc3339(time_ms) == instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_the_table_has_every_field_in_the_order_of_a_fix() -> None:
    assert tuple(field.stored for field in FIELDS) == Fix._fields
    assert set(Fix._fields) < set(COLUMNS)


def test_a_field_is_known_to_four_modules_and_to_those_that_translate_it() -> None:
    """These modules and a schema migration are the recipe "Add a field" in CONTRIBUTING.md."""
    package = Path(telemetry_agent.__file__).parent
    needed = {"model.py", "fields.py", "gnss/sentences.py", "gnss/epoch.py"}
    for name in ("geoid_sep", "vdop", "err_v"):
        known = {
            path.relative_to(package).as_posix()
            for path in package.rglob("*.py")
            if re.search(rf"\b_?{name}(_mm|_e2)?\b", path.read_text())
        }
        rest = known - needed
        assert needed <= known
        assert all(re.match("export/|upload/formats/|gnss/sources/gpsd", path) for path in rest), (
            rest
        )
