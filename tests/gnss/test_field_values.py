"""The numbers of the fields, exact to each digit."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from telemetry_agent.gnss.field_values import instant, position_e9, scaled, time_of_day_ms

_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


@given(
    st.integers(0, 89),
    st.integers(0, 59),
    st.text("0123456789", max_size=12),
    st.sampled_from("NS"),
)
def test_a_position_is_the_nearest_to_what_was_sent(
    degrees: int, minutes: int, fraction: str, hemisphere: str
) -> None:
    text = f"{degrees:02}{minutes:02}.{fraction}"
    exact = degrees + Fraction(int(f"{minutes}{fraction}"), 60 * 10 ** len(fraction))
    position = position_e9(text, hemisphere, "00000.0", "E")
    assert position is not None
    sign = 1 if hemisphere == "N" else -1
    assert abs(position[0] - sign * exact * 10**9) <= Fraction(1, 2)


@given(st.decimals(-999_999, 999_999, places=4))
def test_a_quantity_is_the_nearest_to_what_was_sent(number: object) -> None:
    value = scaled(f"{number}", 1000)
    assert value is not None
    assert abs(value - Fraction(str(number)) * 1000) <= Fraction(1, 2)


def test_half_is_rounded_away_from_zero() -> None:
    assert [scaled(text, 1000) for text in ("0.0005", "-0.0005", "0.00049")] == [1, -1, 0]


@given(_TEXT, st.integers(1, 514_444))
def test_any_text_is_a_bounded_number_or_none(text: str, factor: int) -> None:
    value = scaled(text, factor)
    assert value is None or abs(value) < 2**53


@given(_TEXT)
def test_any_text_is_a_time_of_day_or_none(text: str) -> None:
    moment = instant(text)
    assert moment is None or 0 <= time_of_day_ms(moment) <= 86_400_999


def test_second_60_is_an_instant_of_its_own() -> None:
    leap, next_second = instant("123460"), instant("123500")
    assert leap is not None
    assert next_second is not None
    assert leap != next_second
    assert time_of_day_ms(leap) == time_of_day_ms(next_second)
