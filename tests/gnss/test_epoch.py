"""The fix from the sentences of one instant; each rule also has a recording in ``rules/``."""

from collections import Counter

import pytest

from telemetry_agent.gnss.epoch import Epoch, Message, Solution
from telemetry_agent.gnss.field_values import Instant, instant
from telemetry_agent.gnss.framing import Sentence
from telemetry_agent.gnss.geodesy import PoorFix
from telemetry_agent.gnss.sentences import Parser
from telemetry_agent.model import Fix

NEAR = "4807.038,N,01131.000,E"
FAR = "4807.138,N,01131.000,E"  # 185 m
FINE = "4807.0380001,N,01131.0000001,E"
ROUNDED = "4807.0381,N,01131.0001,E"
A_MOMENT_LATER = "4807.0388,N,01131.0009,E"  # 1.9 m


def message(body: str) -> Message:
    parser = Parser()
    sentence = Sentence(body)
    read = parser.kind(sentence).read
    assert read is not None
    found = read(sentence)
    assert found is not None
    assert parser.rejected == Counter()
    return found


def of(*bodies: str) -> Epoch:
    epoch = Epoch()
    epoch.take_time(at("120000"))
    for body in bodies:
        epoch.join(message(body))
    return epoch


def at(text: str) -> Instant:
    found = instant(text)
    assert found is not None
    return found


def rmc(place: str = NEAR, *, status: str = "A", mode: str = "A", talker: str = "GN") -> str:
    return f"{talker}RMC,120000,{status},{place},1.0,84.4,231126,,,{mode}"


def gga(
    place: str = NEAR,
    *,
    quality: str = "1",
    sats: str = "08",
    talker: str = "GN",
    hdop: str = "0.9",
) -> str:
    return f"{talker}GGA,120000,{place},{quality},{sats},{hdop},545.4,M,46.9,M,,"


def gll(place: str = NEAR, *, status: str = "A", talker: str = "GN") -> str:
    return f"{talker}GLL,{place},120000,{status},A"


def gsa(mode: str = "3", sats: str = "01,02,03,04,,,,,,,,", tail: str = "1.9,0.9,1.7") -> str:
    return f"GNGSA,A,{mode},{sats},{tail}"


def tag(epoch: Epoch) -> str | None:
    trusted = Solution(epoch).trusted
    return trusted.tag if trusted else None


def fix(epoch: Epoch) -> Fix:
    solution = Solution(epoch)
    assert solution.trusted is not None
    assert solution.trusted.position_e9 is not None
    return solution.fix(solution.trusted.position_e9, 0, ())


@pytest.mark.parametrize(
    ("bodies", "trusted"),
    [
        ([gga(), rmc(FAR)], "GNGGA"),
        ([rmc(FAR), gll(NEAR)], "GNRMC"),
        ([gll(FAR), "GNGNS,120000,4807.038,N,01131.000,E,AA,08,0.9,545.4,46.9,,"], "GNGNS"),
        # If two positions agree, the last one counts, but an RTK position keeps its digits.
        ([gga(FINE), rmc(ROUNDED)], "GNRMC"),
        ([rmc(ROUNDED), gga(FINE)], "GNGGA"),
        ([gga(), rmc(A_MOMENT_LATER)], "GNRMC"),
        ([gga(), rmc(NEAR.replace("01131.0", "01131.1"))], "GNGGA"),
        ([gga(quality="4"), rmc(A_MOMENT_LATER)], "GNGGA"),
        ([gga(FINE, quality="4"), rmc(ROUNDED)], "GNGGA"),
        ([gga(FINE, quality="5"), gll(ROUNDED)], "GNGGA"),
    ],
)
def test_which_position_counts(bodies: list[str], trusted: str) -> None:
    assert tag(of(*bodies)) == trusted


@pytest.mark.parametrize(
    ("bodies", "trusted"),
    [
        ([rmc(status="V"), gga()], None),
        ([gga(quality="0"), rmc()], None),
        ([gll(status="V"), gga()], None),
        # A talker without a fix cancels its own positions; GN cancels those of all systems.
        ([gga(quality="0", talker="GL"), gga(talker="GP")], "GPGGA"),
        ([gga(quality="0", talker="GP"), rmc(talker="GP"), gga(talker="GL")], "GLGGA"),
        ([gga(quality="0", talker="GN"), gga(talker="GP")], None),
        # Mode N, an empty quality and a GNS without a fix do not cancel other positions.
        ([rmc(mode="N"), gga()], "GNGGA"),
        ([rmc(), gga(quality="")], "GNRMC"),
        ([rmc(), "GNGNS,120000,,,,,NNNN,00,99.99,,,,"], "GNRMC"),
        # Status D counts with a mode or with a GGA of the same instant.
        ([rmc(status="D", mode="D")], "GNRMC"),
        ([rmc(status="D", mode="")], None),
        ([rmc(status="D", mode=""), gga()], "GNGGA"),
        ([rmc(status="D", mode=""), gga(quality="0")], None),
        ([rmc(status="D", mode=""), gga().replace("120000", "")], None),
        ([rmc(status="D", mode=""), gga(talker="GP"), gll(status="V", talker="GP")], None),
        ([rmc(status="D", mode=""), gll(talker="GP")], "GPGLL"),
        ([rmc(talker="GP"), gll(status="V", talker="GL")], "GPRMC"),
    ],
)
def test_whether_there_is_a_fix(bodies: list[str], trusted: str | None) -> None:
    assert tag(of(*bodies)) == trusted
    assert (tag(of(*bodies[::-1])) is None) == (trusted is None)


def test_a_receiver_without_a_time_vetoes_its_position_without_one() -> None:
    epoch = Epoch()
    for body in (rmc(status="V"), gga()):
        epoch.join(message(body.replace("120000", "")))
    assert not Solution(epoch).untimed


@pytest.mark.parametrize(
    ("bodies", "is_fix"),
    [
        ([gga(sats="02")], False),
        ([gga(sats="")], True),
        ([gga(sats="00", quality="6")], True),
        ([gga(sats="03")], True),
        ([f"GNGNS,120000,{NEAR},AN,02,0.9,545.4,46.9,,"], True),
        ([gga(sats="00"), rmc()], True),
        ([gga(sats="00"), gsa("2")], True),
        ([gga(sats="00"), gsa("1")], False),
        ([gga(sats="01", talker="GP"), gga(sats="04", talker="GL")], True),
    ],
)
def test_few_satellites_reject_only_a_gga_that_is_alone(bodies: list[str], is_fix: bool) -> None:
    assert (tag(of(*bodies)) is not None) == is_fix


@pytest.mark.parametrize(
    ("bodies", "mode", "sats"),
    [
        ([rmc()], 2, None),
        ([gga(sats="03"), rmc()], 2, 3),
        ([gga(sats="04")], 3, 4),
        ([gga(sats="08"), gsa("2")], 2, 8),
        ([rmc(), gsa("3")], 3, 4),
        ([rmc(), gsa("3"), gsa("1", sats=",,,,,,,,,,,")], 3, 4),
        # Each satellite of each system counts once; some receivers count only to 12 in GGA.
        ([gga(sats="04"), gsa(tail="1.9,0.9,1.7,1"), gsa(tail="1.9,0.9,1.7,2")], 3, 8),
        ([gga(sats="04"), gsa(), gsa()], 3, 4),
        ([gga(sats="12"), gsa()], 3, 12),
    ],
)
def test_mode_and_satellites(bodies: list[str], mode: int, sats: int | None) -> None:
    found = fix(of(*bodies))
    assert (found.mode, found.sats) == (mode, sats)


def test_the_last_value_of_a_field_wins_and_an_empty_one_is_none() -> None:
    vtg, silent = "GNVTG,90.0,T,,M,2.0,N,,K,A", "GNVTG,,T,,M,,N,,K,A"
    found = fix(of(rmc(), vtg, silent))
    assert (found.speed_mm_s, found.course_mdeg) == (1029, 90_000)
    found = fix(of(vtg, rmc()))
    assert (found.speed_mm_s, found.course_mdeg) == (514, 84_400)
    epoch = of(gga(), *["GNVTG,10.0,T,,M,9.0,N,,K,A"] * 60, vtg)
    found = fix(epoch)
    assert (found.speed_mm_s, found.course_mdeg) == (1029, 90_000)
    assert len(epoch.messages) < 60


def test_the_altitude_of_gga_comes_before_that_of_gns() -> None:
    gns = "GNGNS,120000,4807.038,N,01131.000,E,AA,08,0.9,500.0,40.0,,"
    for bodies in ([gga(), gns], [gns, gga()]):
        found = fix(of(*bodies))
        assert (found.alt_mm, found.geoid_sep_mm) == (545_400, 46_900)
    assert fix(of(gns)).alt_mm == 500_000


def test_no_geometry_is_known_only_if_no_sentence_has_a_number() -> None:
    assert isinstance(fix(of(gga(hdop="99.99"))), PoorFix)
    for bodies in ([gga(hdop="99.99"), gsa()], [gsa(), gga(hdop="99.99")]):
        found = fix(of(*bodies))
        assert (type(found), found.hdop_e2) == (Fix, 90)


@pytest.mark.parametrize(("time", "err_h_mm"), [("120000", 5000), ("", 5000), ("120001", None)])
def test_errors_count_for_their_own_instant(time: str, err_h_mm: int | None) -> None:
    assert fix(of(rmc(), f"GNGST,{time},,,,,3.0,4.0,2.0")).err_h_mm == err_h_mm


@pytest.mark.parametrize(
    ("body", "same"),
    [
        ("GNGGA,120000.010,,,,,0,00,,,,,,", True),
        ("GNGGA,120000.011,,,,,0,00,,,,,,", False),
        ("GNRMC,120000.010,V,,,,,,,,,,N", False),  # this type came before
        ("GNZDA,120000.050,23,11,2026,,", True),
        ("GNZDA,115959.950,23,11,2026,,", True),
        ("GNZDA,115959.949,23,11,2026,,", False),
        ("GNZDA,120000.999,23,11,2026,,", True),  # some devices use another clock
        ("GNZDA,120001.000,23,11,2026,,", False),
        ("GNGLL,4807.038,N,01131.000,E,120000.250,A,A", True),
    ],
)
def test_what_is_at_the_same_instant(body: str, same: bool) -> None:
    other = message(body)
    assert other.instant is not None
    assert of(rmc()).is_at(other.instant, other) == same


def test_the_last_instant_of_a_day_is_not_the_first_of_the_next() -> None:
    epoch = Epoch()
    epoch.take_time(at("000000"))
    assert [
        epoch.is_at(at(time), message(rmc())) for time in ("235959.500", "235959.989", "235959.990")
    ] == [False, False, True]


def test_an_instant_keeps_50_sentences_with_one_tag() -> None:
    epoch = of(*[rmc()] * 60, *[gsa()] * 60)
    assert (len(epoch.messages), len(epoch.reports)) == (100, 50)


@pytest.mark.parametrize(
    ("bodies", "quality"),
    [
        ([rmc(mode="")], "gps"),
        ([rmc(mode="E")], "estimated"),
        ([gga(quality="4"), rmc(mode="D")], "rtk"),
        ([gga(quality="6")], "estimated"),
        ([gga(quality="7")], "manual"),
        ([gga(quality="8")], "simulated"),
        ([gga(quality="9")], "dgps"),
        ([rmc(), gll()], "gps"),
    ],
)
def test_quality(bodies: list[str], quality: str) -> None:
    assert fix(of(*bodies)).quality == quality


def test_the_step_between_two_instants_counts_also_if_time_steps_back() -> None:
    """A GLL of the next instant, whose other sentences were lost, does not belong to this one."""
    for before in ("115959.300", "120000.700"):
        epoch = Epoch()
        epoch.take_time(at("120000"), at(before))
        later = message("GNGLL,4807.038,N,01131.000,E,120000.700,A,A")
        assert not epoch.is_at(at("120000.700"), later)
        assert epoch.is_at(at("120000.600"), later)
