import corpus
import pytest
from nmea import gga, line, rmc

from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.model import Satellite


def heard(*bodies: str, size: int | None = None) -> Decoder:
    data = b"".join(map(line, bodies))
    decoder = Decoder(fix_rollover=False)
    for start in range(0, len(data), size or len(data)):
        decoder.feed(data[start : start + (size or len(data))], 0)
    decoder.finish()
    return decoder


def sky(*bodies: str, size: int | None = None) -> tuple[Satellite, ...]:
    return heard(*bodies, size=size).satellites()


def numbers(found: tuple[Satellite, ...]) -> list[tuple[str, int]]:
    return [(satellite.system, satellite.number) for satellite in found]


@pytest.mark.parametrize("size", [None, 1, 7])
def test_a_series_of_several_sentences(size: int | None) -> None:
    found = sky(
        "GPGSV,2,1,05,02,72,283,30,05,16,049,,07,03,360,41,08,,,12",
        "GPGSV,2,2,05,26,05,023,00",
        "GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,231126,,,A",
        "GPGSA,A,3,02,07,,,,,,,,,,,1.6,0.9,1.3",
        size=size,
    )
    assert found == (
        Satellite("GPS", 2, 72, 283, 30, used=True),
        Satellite("GPS", 5, 16, 49, None, used=False),
        Satellite("GPS", 7, 3, 360, 41, used=True),
        Satellite("GPS", 8, None, None, 12, used=False),
        Satellite("GPS", 26, 5, 23, 0, used=False),
    )


@pytest.mark.parametrize(
    ("gsv", "gsa", "expected"),
    [
        ("GPGSV,1,1,01,40,10,100,30", "GPGSA,A,3,40,,,,,,,,,,,,2,2,2", ("SBAS", 127)),
        ("GPGSV,1,1,01,131,10,100,30", "GNGSA,A,3,131,,,,,,,,,,,,2,2,2,1", ("SBAS", 131)),
        ("GLGSV,1,1,01,72,10,100,30", "GNGSA,A,3,72,,,,,,,,,,,,2,2,2", ("GLONASS", 8)),
        ("GLGSV,1,1,01,08,10,100,30", "GNGSA,A,3,72,,,,,,,,,,,,2,2,2,2", ("GLONASS", 8)),
        ("GAGSV,1,1,01,03,10,100,30,7", "GNGSA,A,3,303,,,,,,,,,,,,2,2,2,3", ("Galileo", 3)),
        ("GAGSV,1,1,01,132,10,100,30,6", "GNGSA,A,3,132,,,,,,,,,,,,2,2,2,3", ("Galileo", 32)),
        ("GBGSV,1,1,01,60,10,100,30,1", "GNGSA,A,3,60,,,,,,,,,,,,2,2,2,4", ("BeiDou", 60)),
        ("BDGSV,1,1,01,211,10,100,30", "BDGSA,A,3,11,,,,,,,,,,,,2,2,2", ("BeiDou", 11)),
        ("BDGSV,1,1,01,201,10,100,30", "BDGSA,A,3,201,,,,,,,,,,,,2,2,2", ("BeiDou", 1)),
        ("GBGSV,1,1,01,137,10,100,30", "GNGSA,A,3,137,,,,,,,,,,,,2,2,2,4", ("BeiDou", 37)),
        ("QQGSV,1,1,01,193,10,100,30", "GNGSA,A,3,193,,,,,,,,,,,,2,2,2,5", ("QZSS", 1)),
        ("BDGSV,1,1,01,411,10,100,30", "BDGSA,A,3,211,,,,,,,,,,,,2,2,2", ("BeiDou", 11)),
        ("GQGSV,1,1,01,02,10,100,30,8", "GNGSA,A,3,194,,,,,,,,,,,,2,2,2,5", ("QZSS", 2)),
        ("QZGSV,1,1,01,193,10,100,30", "QZGSA,A,3,01,,,,,,,,,,,,2,2,2", ("QZSS", 1)),
        ("GIGSV,1,1,01,09,10,100,30,1", "GNGSA,A,3,09,,,,,,,,,,,,2,2,2,6", ("NavIC", 9)),
        ("GNGSV,1,1,01,65,10,100,30", "GNGSA,A,3,65,,,,,,,,,,,,2,2,2", ("GLONASS", 1)),
        ("GPGSV,1,1,01,195,10,100,30", "GPGSA,A,3,195,,,,,,,,,,,,2,2,2", ("QZSS", 3)),
    ],
)
def test_systems_and_their_many_numberings(gsv: str, gsa: str, expected: tuple[str, int]) -> None:
    fix = "GNRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,231126,,,A"
    found = sky(gsv, fix, gsa)
    assert found == (Satellite(*expected, 10, 100, 30, used=True),)  # type: ignore[arg-type] # words of the table
    other = gsa.replace(gsa.split(",")[3], "30" if expected[1] != 30 else "31", 1)
    assert [satellite.used for satellite in sky(gsv, fix, other)] == [False]


def test_one_number_in_two_systems_is_two_satellites() -> None:
    found = sky(
        "GPGSV,1,1,01,03,40,100,30,1",
        "GAGSV,1,1,01,03,50,200,40,7",
        "GNRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,231126,,,A",
        "GNGSA,A,3,03,,,,,,,,,,,,2,2,2,3",
    )
    assert found == (
        Satellite("GPS", 3, 40, 100, 30, used=False),
        Satellite("Galileo", 3, 50, 200, 40, used=True),
    )


def test_of_several_signals_the_best_counts() -> None:
    found = sky(
        "GPGSV,1,1,02,03,40,100,30,05,20,200,,1",
        "GPGSV,1,1,02,03,40,100,41,05,20,200,22,8",
        "GPGSV,1,1,01,03,40,100,35,6",
    )
    assert [satellite.snr_db for satellite in found] == [41, 22]


def test_a_signal_of_its_own_does_not_end_the_series_of_another() -> None:
    found = sky(
        "GPGSV,2,1,05,01,40,100,30,02,40,100,30,03,40,100,30,04,40,100,30,1",
        "GPGSV,1,1,01,09,40,100,30,8",
        "GPGSV,2,2,05,05,40,100,30,1",
    )
    assert [number for _, number in numbers(found)] == [1, 2, 3, 4, 5, 9]


def test_a_series_may_have_several_signals() -> None:
    series = [
        "GPGSV,3,1,06,01,40,100,30,02,40,100,30,1",
        "GPGSV,3,2,06,03,40,100,30,1",
        "GPGSV,3,3,06,01,40,100,35,04,40,100,30,8",
    ]
    found = sky(*series, *series)
    assert [(each.number, each.snr_db) for each in found] == [*((1, 35), (2, 30), (3, 30), (4, 30))]
    torn = ["GPGSV,2,2,05,11,40,100,30,6", "GPGSV,3,1,09,12,40,100,30,8"]
    assert numbers(sky(*series, *torn)) == numbers(found)


def test_what_the_first_of_a_series_says_the_others_may_leave_out() -> None:
    found = sky(
        "GPGSV,3,1,09,8,13,62,35,13,50,277,39,18,18,324,33,5,53,228,38",
        "GPGSV,,2,,7,43,71,39,30,73,107,38,27,13,26,34,15,14,289,37",
        "GPGSV,,3,,14,33,150,40",
        "GPGSV,,1,,11,33,150,40",
    )
    assert [number for _, number in numbers(found)] == [5, 7, 8, 13, 14, 15, 18, 27, 30]


def test_what_has_decimals_is_cut() -> None:
    (satellite,) = sky("GNGSV,1,1,01,07,40.9,100.5,45.6")
    assert satellite == Satellite("GPS", 7, 40, 100, 45, used=False)


def test_a_series_may_span_epochs() -> None:
    first = "GPGSV,2,1,05,01,40,100,30,02,40,100,30,03,40,100,30,04,40,100,30"
    second = "GPGSV,2,2,05,05,40,100,30"
    decoder = Decoder(fix_rollover=False)
    decoder.feed(rmc("120000") + line(first) + rmc("120001") + gga("120001"), 0)
    assert decoder.satellites() == ()
    decoder.feed(line(second) + rmc("120002"), 0)
    assert len(decoder.satellites()) == 5


@pytest.mark.parametrize("group", ["00,40,100,30", ",40,100,30", "0,,,", "x7,40,100,30"])
def test_a_group_without_a_satellite_is_skipped_whole(group: str) -> None:
    found = sky(f"GPGSV,1,1,03,01,40,100,30,{group},03,41,101,31")
    assert numbers(found) == [("GPS", 1), ("GPS", 3)]


@pytest.mark.parametrize(
    "torn",
    [
        ["GPGSV,3,1,09,11,1,1,1", "GPGSV,3,3,09,12,1,1,1"],
        ["GPGSV,2,2,05,11,1,1,1"],
        ["GPGSV,2,1,05,11,1,1,1", "GPGSV,2,1,05,11,1,1,1"],
        ["GPGSV,1,2,05,11,1,1,1", "GPGSV,,,", "GPGSV,", "GPGSV,x,y,1"],
        ["PQGSV,1,1,01,11,1,1,1", "IIGSV,1,1,01,11,1,1,1"],
    ],
)
def test_a_torn_series_leaves_the_last_whole_one(torn: list[str]) -> None:
    assert numbers(sky("GPGSV,1,1,01,07,40,100,30", *torn)) == [("GPS", 7)]


def test_an_empty_series_empties_its_system() -> None:
    found = sky("GPGSV,1,1,01,07,40,100,30", "GLGSV,1,1,01,70,40,100,30", "GPGSV,1,1,00")
    assert numbers(found) == [("GLONASS", 6)]


def test_nonsense_is_unknown() -> None:
    found = sky("GPGSV,1,1,01,07,91,361,100", "GLGSV,1,1,01,250,10,10,10")
    assert found == (Satellite("GPS", 7, None, None, None, used=False),)


def test_what_a_receiver_no_longer_says_goes() -> None:
    decoder = Decoder(fix_rollover=False)
    decoder.feed(line("GPGSV,1,1,01,07,40,100,30") + line("GLGSV,1,1,01,70,40,100,30"), 0)
    decoder.feed(line("GPGSV,1,1,01,07,40,100,30"), 29)
    assert len(decoder.satellites()) == 2
    decoder.feed(rmc("120000"), 31)
    assert numbers(decoder.satellites()) == [("GPS", 7)]


@pytest.mark.parametrize(
    ("texts", "antenna"),
    [
        (["GPTXT,01,01,02,ANTSTATUS=OPEN"], "OPEN"),
        (["GPTXT,01,01,01,ANTENNA SHORT"], "SHORT"),
        (["GNTXT,01,01,02,ANTSTATUS=OPEN", "GNTXT,01,01,02,ANTSTATUS=OK"], "OK"),
        (["GPTXT,01,01,02,ANTSUPERV=AC SD PDoS SR"], None),
    ],
)
def test_the_antenna(texts: list[str], antenna: str | None) -> None:
    assert heard(*texts).antenna == antenna


@pytest.mark.parametrize("recording", corpus.recordings(), ids=lambda recording: recording.name)
def test_recordings(recording: corpus.Recording) -> None:
    decoder = Decoder(fix_rollover=False)
    decoder.feed(recording.data, 0)
    satellites = decoder.satellites()
    assert len({(one.system, one.number) for one in satellites}) == len(satellites) < 120
