from typing import Any

import pytest
from ackqueue.queue_parts import fix_at
from hypothesis import given
from hypothesis import strategies as st

from telemetry_agent.ackqueue.file.rows import (
    FLAGS,
    QUALITIES,
    at_place,
    decode,
    encode,
    is_sound,
    mark_row,
    read_mark,
    stream_from_int,
)
from telemetry_agent.ackqueue.ranges import Span
from telemetry_agent.ackqueue.row_states import UNUSED, RowState, State, dead_letter
from telemetry_agent.model import Fix, Record

NUMBER = st.integers(-(2**53), 2**53)
MAYBE = st.none() | NUMBER
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
FIXES = st.builds(
    Fix,
    NUMBER,
    NUMBER,
    NUMBER,
    MAYBE,
    MAYBE,
    MAYBE,
    MAYBE,
    st.sampled_from([2, 3]),
    st.sampled_from(QUALITIES),
    MAYBE,
    MAYBE,
    MAYBE,
    MAYBE,
    MAYBE,
    MAYBE,
    MAYBE,
    st.sets(st.sampled_from(FLAGS)).map(lambda flags: tuple(f for f in FLAGS if f in flags)),
    st.none() | WORDS,
)
STREAMS = st.integers(-(2**63), 2**63 - 1)


@given(FIXES, STREAMS, st.integers(1, 2**53), WORDS)
def test_what_is_stored_comes_back(fix: Fix, stream: int, seq: int, device: str) -> None:
    row = encode(7, stream, seq, device, fix)
    assert is_sound(row)
    name = stream_from_int(stream)
    assert len(name) == 16
    assert int(name, 16) == stream % 2**64
    assert decode(row) == Record(name, seq, device, fix)


@given(FIXES, st.data())
def test_any_other_value_in_any_column_is_noticed(fix: Fix, data: st.DataObject) -> None:
    row = encode(7, 5, 1, "van-07", fix)
    column = data.draw(st.integers(1, len(row) - 1))
    other = data.draw(
        st.one_of(NUMBER, st.none(), st.text(), st.binary(), st.floats()).filter(
            lambda value: value != row[column]
        )
    )
    assert not is_sound((*row[:column], other, *row[column + 1 :]))


@given(st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1))
def test_a_row_at_another_place_is_noticed_unless_it_was_given_it(place: int, other: int) -> None:
    row = encode(place, 5, 1, "van-07", fix_at())
    moved = at_place(row, other)
    assert is_sound(moved)
    assert decode(moved) == decode(row)
    assert is_sound((other, *row[1:])) == (place == other)


@pytest.mark.parametrize(
    ("values", "device"),
    [
        ({"sats": 2**63}, "a"),
        ({"sats": 1.5}, "a"),
        ({"lat_e9": None}, "a"),
        ({"extra": 5}, "a"),
        ({"quality": "excellent"}, "a"),
        ({"flags": ("late",)}, "a"),
        ({"extra": ""}, "a"),
        ({}, "\ud800"),
    ],
)
def test_what_cannot_be_stored_is_refused_at_once(values: dict[str, Any], device: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be stored|surrogates"):
        encode(7, 5, 1, device, fix_at()._replace(**values))


@pytest.mark.parametrize(
    ("mark", "state", "reason", "number"),
    [
        (UNUSED, -3, None, None),
        (dead_letter("too old"), 9, "too old", None),
        (RowState(State.UNACK, batch=5), 2, None, 5),
        (RowState(State.READY, batch=5), 1, None, 5),
        (RowState(State.AWAY, oldest_pending=5), -2, None, 5),
    ],
)
def test_the_column_batch_holds_the_row_number_that_the_state_needs(
    mark: RowState, state: int, reason: str | None, number: int | None
) -> None:
    row = mark_row(Span(8, 9, mark))
    assert row[:-1] == (8, 9, state, reason, number)
    assert read_mark(row) == Span(8, 9, mark)
