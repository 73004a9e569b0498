import pytest

from telemetry_agent.ackqueue.generations import border_up_to, is_border, next_border, spare_below

BORDER = 1 << 32


@pytest.mark.parametrize(
    ("number", "border"),
    [(0, 0), (1, 0), (BORDER - 1, 0), (BORDER, BORDER), (BORDER + 1, BORDER)],
)
def test_a_border_is_the_last_number_of_its_generation(number: int, border: int) -> None:
    assert border_up_to(number) == border
    assert is_border(number) == (number == border)


@pytest.mark.parametrize(
    ("last", "border"),
    [
        (0, BORDER),  # 0 is the border before the first file: no later file begins there
        (1, BORDER),
        (BORDER - 1, BORDER),
        (BORDER, BORDER),  # a file without rows leaves its border to the next file
        (BORDER + 1, 2 * BORDER),
    ],
)
def test_the_next_file_begins_above_all_used_numbers(last: int, border: int) -> None:
    assert next_border(last) == border
    assert spare_below(border) == border - 1
