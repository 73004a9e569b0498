"""The meaning of a mark, in memory and in the file."""

from itertools import product

from telemetry_agent.ackqueue.row_states import (
    ACKED,
    RowState,
    State,
    StreamRun,
    dead_letter,
    without_reason,
)


def test_the_numbers_of_the_states_are_those_in_the_files_that_are_out_there() -> None:
    assert {state.name: int(state) for state in State} == {
        "UNUSED": -3,
        "AWAY": -2,
        "GONE": 0,
        "READY": 1,
        "UNACK": 2,
        "ACKED": 5,
        "ACK_FAILED": 9,
    }


def test_a_reason_is_kept_short_and_can_be_stored() -> None:
    assert dead_letter("400: no lane") == RowState(State.ACK_FAILED, "400: no lane")
    assert dead_letter("\ud800" + "é" * 999).reason == "?" + "é" * 499


def test_dead_letters_without_a_reason_are_told_from_both_neighbours() -> None:
    """Otherwise their marks would merge, and the reasons in the file would be lost."""
    one = without_reason()
    two = without_reason(one)
    three = without_reason(one, two)
    assert len({one, two, three}) == 3
    for before, after in product((one, two, three, ACKED, dead_letter("no"), None), repeat=2):
        between = without_reason(before, after)
        assert between not in {before, after}
        assert (between.state, between.reason) == (State.ACK_FAILED, None)


def test_a_run_knows_the_seq_of_each_of_its_rows() -> None:
    run = StreamRun(lo=1001, stream=7, first_seq=3)
    assert [run.seq(row) for row in (1001, 1002, 1500)] == [3, 4, 502]
