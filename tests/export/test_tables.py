"""CSV and NDJSON as other programs read them, and what all formats have in common."""

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_fixes import HERE, runs, stored, text_of

from telemetry_agent.ackqueue.stats import Stored
from telemetry_agent.export import FORMATS
from telemetry_agent.export.track import Gaps
from telemetry_agent.fields import fix_fields

COLUMNS = (
    "stream seq device state time lat lon alt geoid_sep speed course mode quality "
    "hdop vdop pdop sats err_h err_v odo flags extra"
)


def fields(told: Stored) -> dict[str, Any]:
    """All fields of the fix."""
    record = told.record
    return {
        "stream": record.stream,
        "seq": record.seq,
        "device": record.device,
        "state": told.state.name.lower(),
        **fix_fields(record.fix),
    }


@given(runs())
def test_a_line_of_ndjson_is_a_fix(told: list[Stored]) -> None:
    lines = text_of("ndjson", told).split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == [fields(one) for one in told]


@given(runs())
def test_a_row_of_csv_is_a_fix(told: list[Stored]) -> None:
    text = text_of("csv", told)
    assert text.endswith("\r\n")
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert len(rows) == len(told)
    for row, one in zip(rows, told, strict=True):
        known = {name: value for name, value in row.items() if value != ""}
        expected = fields(one)
        if "flags" in expected:
            expected["flags"] = " ".join(expected["flags"])
        if "extra" in expected:
            expected["extra"] = one.record.fix.extra
        assert known.keys() == expected.keys()
        for name, value in expected.items():
            assert type(value)(known[name]) == value


def test_csv_has_a_header_always_and_quotes_what_needs_it() -> None:
    assert text_of("csv", []) == f"{COLUMNS.replace(' ', ',')}\r\n"
    assert ',"a ""b"", c",ready,' in text_of("csv", [stored(HERE, device='a "b", c')])


def test_csv_has_no_exponents() -> None:
    row = text_of("csv", [stored(HERE._replace(lat_e9=50, lon_e9=-1))]).splitlines()[1]
    assert ",0.00000005,-0.000000001," in row


@pytest.mark.parametrize("name", FORMATS)
@given(told=runs(), sizes=st.lists(st.integers(1, 5), min_size=1))
def test_pieces_do_not_show(name: str, told: list[Stored], sizes: list[int]) -> None:
    assert text_of(name, told, sizes) == text_of(name, told)


@pytest.mark.parametrize("name", FORMATS)
def test_there_is_a_piece_for_each_part_that_was_read(name: str) -> None:
    taken = 0

    def chunks() -> Any:
        nonlocal taken
        for taken in range(1, 4):
            yield [] if taken == 2 else [stored(HERE)]

    assert {1, 2, 3} <= {taken for _ in FORMATS[name].pieces(chunks(), Gaps())}
