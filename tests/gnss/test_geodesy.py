import pytest
from geographiclib.geodesic import Geodesic
from hypothesis import given
from hypothesis import strategies as st

from telemetry_agent.gnss.geodesy import Place, PoorFix, distance_m, noise_m, offset_e9
from telemetry_agent.model import Fix


def true_m(start: Place, end: Place) -> float:
    line = Geodesic.WGS84.Inverse(start[0] / 1e9, start[1] / 1e9, end[0] / 1e9, end[1] / 1e9)
    return float(line["s12"])


@given(
    st.integers(-80_000_000_000, 80_000_000_000),
    st.integers(-180_000_000_000, 180_000_000_000),
    st.integers(-80_000_000, 80_000_000),
    st.integers(-80_000_000, 80_000_000),
)
def test_up_to_10_km_it_is_the_geodesic(lat: int, lon: int, north: int, east: int) -> None:
    start, end = (lat, lon), (lat + north, lon + east)
    assert distance_m(start, end) == pytest.approx(true_m(start, end), rel=1e-5, abs=1e-3)


@given(st.integers(-60, 60), st.integers(-180, 180), st.integers(-6, 6), st.integers(-6, 6))
def test_a_thousand_kilometres_are_right_to_a_percent(
    lat: int, lon: int, north: int, east: int
) -> None:
    start, end = (lat * 1e9, lon * 1e9), ((lat + north) * 1e9, (lon + east) * 1e9)
    assert distance_m(start, end) == pytest.approx(true_m(start, end), rel=1e-2)


def test_the_way_over_the_date_line_is_short() -> None:
    west, east = (0.0, -179_999_000_000.0), (0.0, 179_999_000_000.0)
    assert offset_e9(east, west) == (0, 2_000_000)
    assert offset_e9(west, east) == (0, -2_000_000)
    assert distance_m(west, east) == pytest.approx(222.639, abs=1e-3)


def test_noise_is_what_the_fix_says() -> None:
    fix = Fix(0, 0, 0)
    assert noise_m(fix) == 0
    assert noise_m(fix._replace(hdop_e2=150)) == 12
    assert noise_m(PoorFix(*fix)) == noise_m(fix._replace(hdop_e2=8000)) == 100
    assert noise_m(fix._replace(hdop_e2=150, err_h_mm=5000)) == 15
