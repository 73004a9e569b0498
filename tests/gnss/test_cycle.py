"""How the decoder learns and forgets the end of a cycle."""

import pytest

from telemetry_agent.gnss.cycle import Cycle

SHAPE = ("GPRMC", "GPGSA", 2)


def ended(cycle: Cycle, times: int, shape: tuple[str, str, int] = SHAPE) -> None:
    for _ in range(times):
        cycle.ended(*shape)


def learned(cycle: Cycle) -> tuple[str, str, int]:
    return cycle.first, cycle.last, cycle.count


def test_a_shape_is_learned_from_five_epochs_in_a_row() -> None:
    cycle = Cycle()
    ended(cycle, 4)
    assert learned(cycle) == ("", "", 0)
    ended(cycle, 1)
    assert learned(cycle) == SHAPE


@pytest.mark.parametrize(
    "other", [("GPGGA", "GPGSA", 2), ("GPRMC", "GPGGA", 2), ("GPRMC", "GPGSA", 3)]
)
def test_another_shape_begins_again_and_what_was_learned_stays(other: tuple[str, str, int]) -> None:
    cycle = Cycle()
    ended(cycle, 4)
    ended(cycle, 1, other)
    ended(cycle, 4)
    assert learned(cycle) == ("", "", 0)
    ended(cycle, 1)
    ended(cycle, 4, other)
    assert learned(cycle) == SHAPE
    ended(cycle, 1, other)
    assert learned(cycle) == other


def test_a_forgotten_shape_must_repeat_twice_as_often_80_times_at_most() -> None:
    cycle = Cycle()
    ended(cycle, 5)
    for needed in (10, 20, 40, 80, 80):
        cycle.broken()
        assert learned(cycle) == ("", "", 0)
        ended(cycle, needed - 1)
        assert learned(cycle) == ("", "", 0)
        ended(cycle, 1)
        assert learned(cycle) == SHAPE


def test_a_late_sentence_before_anything_was_learned_costs_no_patience() -> None:
    cycle = Cycle()
    ended(cycle, 4)
    cycle.broken()
    ended(cycle, 4)
    assert learned(cycle) == ("", "", 0)
    ended(cycle, 1)
    assert learned(cycle) == SHAPE
