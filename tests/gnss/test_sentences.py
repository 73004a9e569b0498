"""The owner of a sentence, the values of each type, and unclear fields."""

import pytest

from telemetry_agent.gnss.epoch import Dtm, Gst, Message, Moment, Report, Vtg
from telemetry_agent.gnss.field_values import DAY_MS, Instant, ddmmyy_day, instant
from telemetry_agent.gnss.framing import Sentence
from telemetry_agent.gnss.sentences import IN_VIEW, Parser, gsa

NOON = instant("120000")
DAY = ddmmyy_day("231126")
HERE = (48_117_300_000, 11_516_666_667)
PLACE = "4807.038,N,01131.000,E"


def read(parser: Parser, body: str) -> Message | None:
    sentence = Sentence(body)
    function = parser.kind(sentence).read
    assert function is not None
    return function(sentence)


def message(body: str) -> Message:
    found = read(Parser(), body)
    assert found is not None
    return found


def report(body: str) -> Report:
    found = message(body)
    assert isinstance(found, Report)
    return found


@pytest.mark.parametrize("talker", ["GN", "GP", "GL", "GA", "GB", "BD", "GQ", "QZ", "GI"])
def test_all_satellite_systems_are_one_receiver(talker: str) -> None:
    assert Parser().kind(Sentence(f"{talker}GGA,")).owner == "GN"


@pytest.mark.parametrize("talker", ["II", "EC", "AI", "IN", "HC", "SD", "YX"])
def test_any_other_talker_is_a_device_of_its_own(talker: str) -> None:
    assert Parser().kind(Sentence(f"{talker}GGA,")).owner == talker


@pytest.mark.parametrize(
    ("body", "owner", "name"),
    [
        ("GPRMC,120000,A", "GN", "RMC"),
        ("BDGGA,120000", "GN", "GGA"),
        ("IIGLL,", "II", "GLL"),
        ("AIVDO,", "AI", "VDO"),
        ("GPGSA,A", "GN", "GSA"),
        ("GPHDT,84.4,T", "GN", "HDT"),
        ("GPTXT,01,01,01,ANTENNA OK", "GN", "TXT"),
        # P: a proprietary sentence, whatever follows.
        ("PGRMC,A", "", ""),
        ("PQGSV,1", "", ""),
        ("PUBX,00,120000", "", ""),
        ("PSAT,HPR", "", ""),
    ],
)
def test_the_tag_names_owner_and_type(body: str, owner: str, name: str) -> None:
    kind = Parser().kind(Sentence(body))
    assert (kind.owner, kind.name) == (owner, name)


def test_gsv_of_the_receiver_is_kept_for_the_sky_and_that_of_others_is_not() -> None:
    assert Parser().kind(Sentence("GAGSV,1,1,00")) is IN_VIEW
    assert Parser().kind(Sentence("IIGSV,1,1,00")) is not IN_VIEW


@pytest.mark.parametrize("body", ["G RMC,1", "gprmc,1", "GPRMCX,1", "GPRM,1", "KSXT,1", "", ","])
def test_a_tag_of_another_form_is_counted(body: str) -> None:
    parser = Parser()
    assert parser.kind(Sentence(body)).read is None
    assert parser.rejected == {"bad-tag": 1}


LEAST = {"RMC": 8, "GGA": 13, "GLL": 7, "GNS": 13, "GSA": 18, "VTG": 5, "GST": 8, "ZDA": 4}


@pytest.mark.parametrize(("name", "least"), LEAST.items())
def test_a_sentence_with_fewer_fields_than_its_type_needs_is_counted(name: str, least: int) -> None:
    parser = Parser()
    for fields in range(1, 25):
        sentence = Sentence(",".join([f"GP{name}"] + [""] * (fields - 1)))
        assert (read(parser, sentence) is None) == (fields < least)
    assert parser.rejected == {"short": least - 1}


def test_spaces_round_a_field_are_not_a_part_of_it() -> None:
    parser = Parser()
    padded = Sentence("GPGLL, 4807.038 ,N, 01131.000,E ,120000 ,A ,A")
    found = read(parser, padded)
    assert found is not None
    assert found == read(parser, Sentence(padded.replace(" ", "")))


def test_damaged_tags_cost_no_memory() -> None:
    parser = Parser()
    for n in range(1200):
        parser.kind(Sentence(f"{n:05},1"))
        parser.kind(Sentence(f"P{n},1"))
    assert len(parser.kinds) <= 500
    assert len(parser.proprietary) <= 6


def test_rmc() -> None:
    found = report(f"GNRMC,120000,A,{PLACE},22.4,84.4,231126,3.1,W,R,V")
    assert found == Report(
        "GNRMC", NOON, False, HERE, "rtk", day=DAY, speed_mm_s=11_524, course_mdeg=84_400
    )


@pytest.mark.parametrize(
    ("status", "mode", "position", "date", "veto", "unsure"),
    [
        ("A", "A", True, True, False, False),
        ("A", "", True, True, False, False),
        ("A", "E", True, True, False, False),
        ("A", "N", False, True, False, False),
        ("D", "R", True, True, False, False),
        ("D", "", True, True, False, True),
        ("V", "A", False, False, True, False),
        ("V", "N", False, False, True, False),
        ("", "A", False, False, False, False),
        ("X", "A", False, False, False, False),
    ],
)
def test_the_status_of_rmc(
    status: str, mode: str, position: bool, date: bool, veto: bool, unsure: bool
) -> None:
    found = report(f"GNRMC,120000,{status},{PLACE},,,231126,,,{mode}")
    assert (found.position_e9 is not None, found.day is not None) == (position, date)
    assert (found.veto, found.unsure) == (veto, unsure)


@pytest.mark.parametrize(
    ("status", "mode", "position", "veto", "unsure"),
    [
        ("A", "A", True, False, False),
        ("A", "", True, False, False),
        ("A", "N", False, False, False),
        ("D", "D", True, False, False),
        ("D", "", True, False, True),
        ("V", "N", False, True, False),
    ],
)
def test_the_status_of_gll(
    status: str, mode: str, position: bool, veto: bool, unsure: bool
) -> None:
    found = report(f"GNGLL,{PLACE},120000,{status},{mode}")
    assert (found.position_e9 == HERE, found.veto, found.unsure) == (position, veto, unsure)


def test_gga() -> None:
    found = report(f"GNGGA,120000,{PLACE},5,08,0.9,545.4,M,-29.5,M,1.0,0000")
    assert found == Report(
        "GNGGA", NOON, False, HERE, "float-rtk", 8, 90, alt_mm=545_400, geoid_sep_mm=-29_500
    )


@pytest.mark.parametrize(
    ("indicator", "quality", "veto"),
    [
        ("", None, False),
        ("0", None, True),
        ("1", "gps", False),
        ("2", "dgps", False),
        ("3", "pps", False),
        ("4", "rtk", False),
        ("5", "float-rtk", False),
        ("6", "estimated", False),
        ("7", "manual", False),
        ("8", "simulated", False),
        ("10", None, False),
    ],
)
def test_the_quality_of_gga(indicator: str, quality: str | None, veto: bool) -> None:
    found = report(f"GNGGA,120000,{PLACE},{indicator},08,0.9,545.4,M,46.9,M,,")
    assert (found.quality, found.veto) == (quality, veto)
    assert (found.position_e9 is not None) == (quality is not None)


@pytest.mark.parametrize(
    ("modes", "quality"),
    [
        ("NNNNNN", None),
        ("", None),
        ("AN", "gps"),
        ("NA", "gps"),
        ("DAN", "dgps"),
        ("RRN", "rtk"),
        ("NFA", "float-rtk"),
        ("EE", "estimated"),
    ],
)
@pytest.mark.parametrize("status", ["", ",V", ",S"])
def test_the_modes_of_gns_count_and_its_navigational_status_does_not(
    modes: str, quality: str | None, status: str
) -> None:
    found = report(f"GNGNS,120000,{PLACE},{modes},12,0.8,545.4,46.9,,{status}")
    assert (found.quality, found.veto) == (quality, False)
    assert (found.position_e9 == HERE) == (quality is not None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"GNRMC,120000,X,{PLACE},,,231126,,,A", "bad-status"),
        (f"GNRMC,12000,A,{PLACE},,,231126,,,A", "bad-time"),
        (f"GNRMC,120000,A,{PLACE},,,2311-1,,,A", "bad-date"),
        ("GNRMC,120000,A,4760.000,N,01131.000,E,,,231126,,,A", "bad-position"),
        ("GNRMC,120000,A,4807.038,,01131.000,E,,,231126,,,A", "bad-position"),
        ("GNZDA,120000,23,11,226,,", "bad-date"),
        ("GNZDA,240000,23,11,2026,,", "bad-time"),
    ],
)
def test_an_unclear_field_is_unknown_and_counted(body: str, reason: str) -> None:
    parser = Parser()
    read(parser, body)
    assert parser.rejected == {reason: 1}


@pytest.mark.parametrize(
    "body",
    [
        "GNRMC,,A,,,,,,,,,,A",
        "GNRMC,120000,V,junk,,,,,,0101-1,,,N",
        "GNGGA,,,,,,,,,,,,,,",
        "GNGLL,,,,,,V",
        "GNZDA,,,,,,",
    ],
)
def test_an_empty_field_or_one_of_a_void_sentence_is_no_fault(body: str) -> None:
    parser = Parser()
    read(parser, body)
    assert parser.rejected == {}


@pytest.mark.parametrize(
    ("body", "speed_mm_s", "course_mdeg"),
    [
        ("GNVTG,84.4,T,81.3,M,22.4,N,41.5,K,A", 11_524, 84_400),
        ("GNVTG,84.4,T,81.3,M,22.4,N,41.5,K", 11_524, 84_400),
        ("GNVTG,84.4,T,,M,,N,36.0,K,A", 10_000, 84_400),
        ("GNVTG,84.4,81.3,22.4,41.5", 11_524, 84_400),
        ("GNVTG,84.4,T,81.3,M,22.4,N,41.5", 11_524, 84_400),  # cut short
        ("GNVTG,,T,,M,0.0,N,0.0,K,A", 0, None),
        ("GNVTG,,,,,,,,,A", None, None),
        ("GNVTG,84.4,T,81.3,M,22.4,N,41.5,K,N", None, None),
        ("GNVTG,84.4,T,81.3,M,22.4,N,41.5,K,E", None, None),
    ],
)
def test_vtg(body: str, speed_mm_s: int | None, course_mdeg: int | None) -> None:
    assert message(body) == Vtg("GNVTG", speed_mm_s, course_mdeg)


def test_gst_zda_gbs_and_dtm() -> None:
    assert message("GNGST,120000,17,,,,3.0,4.0,2.5") == Gst("GNGST", NOON, 5_000, 2_500)
    assert message("GNGST,120000,17,,,,3.0,,2.5") == Gst("GNGST", NOON, None, 2_500)
    assert message("GNZDA,120000,23,11,2026,00,00") == Moment("GNZDA", NOON, DAY)
    assert message("GNGBS,120000,1.0,1.0,2.0") == Moment("GNGBS", NOON)
    assert message("GNDTM,999,CH95") == Dtm("GNDTM", "999")


@pytest.mark.parametrize(
    ("body", "system", "satellites", "dops"),
    [
        ("GPGSA,A,3,01,02,,,,,,,,,,,1.9,0.9,1.7", "1", 2, (190, 90, 170)),
        ("GLGSA,A,3,70,71,,,,,,,,,,,1.9,0.9,1.7", "2", 2, (190, 90, 170)),
        ("GNGSA,A,3,01,02,,,,,,,,,,,1.9,0.9,1.7,4", "4", 2, (190, 90, 170)),
        ("GNGSA,A,3,01,02,,,,,,,,,,,1.9,0.9,1.7,", "1", 2, (190, 90, 170)),
        ("GPGSA,A,3,01,02,,,,,,,,,,,1.9,0.9,1.7,1.2", "1", 2, (190, 90, 170)),
        ("GPGSA,A,3,01,02,,,,,,,,,,,,1.9,0.9,1.7", "1", 2, (190, 90, 170)),
        ("GPGSA,A,3,01,02" + "," * 23 + "1.9,0.9,1.7", "1", 2, (190, 90, 170)),
        ("GPGSA,A,1,,,,,,,,,,,,,99.99,99.99,99.99", "1", 0, (None, 9999, None)),
        ("GPGSA,A,3,01,02,,,,,,,,,,,,,", "1", 2, (None, None, None)),
        ("GNGSA,A,1,,,,,,,,,,,,,,,,3", "3", 0, (None, None, None)),
        ("GPGSA,A,3" + ",07" * 20 + ",1.9,0.9,1.7", "1", 20, (190, 90, 170)),
        ("GPGSA,A,3" + ",07" * 20 + ",,,", "1", 20, (None, None, None)),
    ],
)
def test_gsa(
    body: str, system: str, satellites: int, dops: tuple[int | None, int | None, int | None]
) -> None:
    found = gsa(Sentence(body))
    assert found is not None
    assert [found_system for found_system, _ in found.satellites] == [system] * satellites
    assert (found.pdop_e2, found.hdop_e2, found.vdop_e2) == dops


def test_second_60_is_not_the_second_after_it() -> None:
    found = report(f"GNRMC,235960,A,{PLACE},,,311226,,,A").instant
    assert found is not None
    assert found != Instant(DAY_MS)
