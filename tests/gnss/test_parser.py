"""Which sentences are read, and whose they are."""

import pytest

from telemetry_agent.gnss.framing import Sentence
from telemetry_agent.gnss.parser import IN_VIEW, Parser, owner_of
from telemetry_agent.gnss.sentences import Message


def read(parser: Parser, sentence: Sentence) -> Message | None:
    kind = parser.kind(sentence)
    assert kind.read is not None
    return kind.read(sentence)


@pytest.mark.parametrize("talker", ["GN", "GP", "GL", "GA", "GB", "BD", "GQ", "QZ", "GI"])
def test_all_satellite_systems_are_one_receiver(talker: str) -> None:
    assert owner_of(talker) == "GN"


@pytest.mark.parametrize("talker", ["II", "EC", "AI", "IN", "HC", "SD", "YX"])
def test_any_other_talker_is_a_device_of_its_own(talker: str) -> None:
    assert owner_of(talker) == talker


@pytest.mark.parametrize(
    ("body", "owner", "name"),
    [
        ("GPRMC,120000,A", "GN", "RMC"),
        ("BDGGA,120000", "GN", "GGA"),
        ("IIGLL,", "II", "GLL"),
        ("AIVDO,", "AI", ""),
        ("GPGSA,A", "GN", "GSA"),
        ("GPHDT,84.4,T", "GN", ""),
        ("GPTXT,01,01,01,ANTENNA OK", "GN", "TXT"),
        # Whatever follows the P.
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
